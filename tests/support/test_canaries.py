"""The search for leaks finds what it is to find, so that its silence in every other test says something."""

import json
from base64 import b64encode, urlsafe_b64encode
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote_plus

import pytest

from quarantine_release import telemetry
from tests.support.canaries import PERSONAL, SECRET, leaked
from tests.support.deployment import API_TOKEN, SIGNING_KEY, deploy, token_of
from tests.support.small_cloudflare import RECIPIENT, Upstream


@pytest.mark.parametrize("text", [API_TOKEN, token_of("soar"), SIGNING_KEY.decode()])
@pytest.mark.parametrize("around", ["", "a", "ab", "abc"])
def test_a_secret_is_found_however_it_is_encoded(text: str, around: str) -> None:
    whole = f"{around}{text}{around}"
    for shown in (
        whole,
        whole.upper(),
        b64encode(whole.encode()).decode(),
        urlsafe_b64encode(whole.encode()).decode(),
        whole.encode().hex(),
        quote_plus(whole),
        "".join(f"%{byte:02X}" for byte in whole.encode()),
        repr(whole.encode()),
    ):
        assert leaked(f"x {shown} x", SECRET), shown
        assert leaked(f"x {shown} x"), shown


def test_a_recipient_is_found_and_is_no_secret() -> None:
    assert leaked(RECIPIENT, PERSONAL)
    assert leaked(b64encode(RECIPIENT.encode()).decode(), PERSONAL)
    assert leaked(RECIPIENT, SECRET) == []


def test_nothing_is_found_in_what_holds_nothing() -> None:
    assert leaked("A sparrow, and " + b64encode(bytes(range(256))).decode()) == []


@pytest.mark.parametrize(
    "params",
    [
        {"Item": {"reason": {"S": API_TOKEN}}},
        {"Entries": [{"MessageBody": json.dumps({"to": RECIPIENT}), "DelaySeconds": 0}]},
    ],
)
def test_a_secret_in_a_row_or_a_recipient_in_a_hint_fails_the_test(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch, params: dict[str, Any]
) -> None:
    with pytest.raises(AssertionError), deploy(upstream, monkeypatch) as deployment:
        deployment.hear(SimpleNamespace(name="a call"), params)


def test_a_recipient_in_the_log_fails_the_test(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError), deploy(upstream, monkeypatch):
        telemetry.logger.info("a line", code=RECIPIENT)
