"""The door as a whole: the fuzzer's corpus, a little search of our own, and who never reaches the JSON parser."""

import json
import time

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from quarantine_release.api import release_request
from quarantine_release.api.strict_json import parse_json
from tests.fuzz.fuzz_door import CORPUS, check, may_enter
from tests.support.deployment import MESSAGE, SIGNING_KEY, Deployment, proxy_event, token_of
from tests.support.stand_ins import sign

CASES = sorted(CORPUS.iterdir())
EXPECTED = {
    "all-members": "accepted",
    "array": "accepted",
    "at-sign-alone": "accepted",
    "byte-order-mark": "invalid_body",
    "comma-separated": "accepted",
    "deep": "invalid_body",
    "digits": "invalid_field",
    "duplicate-members": "invalid_body",
    "force-without-key": "force_needs_key",
    "force-without-reason": "force_needs_reason",
    "forced": "accepted",
    "ids-under-two-names": "ids_ambiguous",
    "ids-without-ids": "ids_missing",
    "key-not-ascii": "invalid_idempotency_key",
    "long-ticket": "field_too_long",
    "message-id-of-two": "invalid_id",
    "message-ids": "accepted",
    "nan": "invalid_body",
    "nobody": "no_token",
    "not-signed": "not_signed",
    "not-utf-8": "invalid_body",
    "signed": "accepted",
    "signed-late": "signed_long_ago",
    "signed-twice": "accepted",
    "signed-without-padding": "wrong_signature",
    "surrogate": "invalid_id",
    "two-tokens": "two_tokens",
    "unknown-token": "unknown_token",
}


def test_the_corpus_comes_to_what_it_is_named_for() -> None:
    assert {case.name: check(case.read_bytes()) for case in CASES} == EXPECTED


@settings(max_examples=1000)
@given(
    st.sampled_from([case.read_bytes() for case in CASES]),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 8), st.binary(max_size=4)), max_size=3),
)
def test_no_mutation_of_a_case_breaks_a_rule(case: bytes, mutations: list[tuple[int, int, bytes]]) -> None:
    for at, length, put in mutations:
        case = case[:at] + put + case[at + length :]
    check(case)


@given(
    st.binary(max_size=300) | st.text(st.characters(), max_size=100).map(lambda text: text.encode("utf-8", "replace"))
)
def test_no_bytes_break_a_rule(case: bytes) -> None:
    check(case)


def test_the_second_opinion_bites() -> None:
    """It would notice a door that lets everybody in, or nobody."""
    assert not may_enter({}, b"")
    assert may_enter({"x-api-key": ("plain-token-0123456789",)}, b"")


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Tell what reached the JSON parser."""
    seen: list[bytes] = []

    def spy(raw: bytes) -> object:
        seen.append(raw)
        return parse_json(raw)

    monkeypatch.setattr(release_request, "parse_json", spy)
    return seen


BODY = json.dumps({"ids": [MESSAGE]}).encode()


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(0, 3),
    st.integers(0, 200),
    st.characters(exclude_categories=["Cs"]),
    st.sampled_from(["put", "drop", "set"]),
)
def test_no_mutation_of_a_signed_request_is_parsed_written_or_sent(
    deployment: Deployment, parsed: list[bytes], part: int, at: int, character: str, how: str
) -> None:
    """A changed body, id, time or signature: 401, and nothing beyond the secrets is touched."""
    timestamp = str(int(time.time()))
    values = [BODY.decode(), "msg_1", timestamp, sign(SIGNING_KEY, "msg_1", timestamp, BODY)]
    text = values[part]
    at %= len(text)
    put = {"put": character + text[at], "drop": "", "set": character}[how]
    values[part] = text[:at] + put + text[at + 1 :]
    # A space before or after a signature only separates it.
    assume(values[part] != text and (part != 3 or values[part].strip(" ") != text))
    assert signed_post(deployment, values) == 401
    assert parsed == []
    assert deployment.is_untouched
    assert set(deployment.aws_calls) <= {"GetSecretValue"}


def test_the_same_request_as_it_was_signed_is_let_in(deployment: Deployment, parsed: list[bytes]) -> None:
    timestamp = str(int(time.time()))
    values = [BODY.decode(), "msg_1", timestamp, sign(SIGNING_KEY, "msg_1", timestamp, BODY)]
    assert signed_post(deployment, values) == 200
    assert parsed == [BODY]


def signed_post(deployment: Deployment, values: list[str]) -> int:
    headers = [("Authorization", f"Bearer {token_of('signer')}")]
    headers += zip(("webhook-id", "webhook-timestamp", "webhook-signature"), values[1:], strict=True)
    return deployment.handle(proxy_event("POST", "/v1/releases", headers=headers, body=values[0])).status
