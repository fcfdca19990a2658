"""Who is let in: the holder of a valid token, sent as Bearer or in x-api-key, and nobody else, whatever is sent."""

import hmac
import secrets
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from hashlib import sha256

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from quarantine_release.api.authentication import AuthenticatedRequest, Reason, Unauthenticated, authenticate
from quarantine_release.config.clients import Client, Scope, Token
from tests.support.stand_ins import NOON, http_request, sign

TOKEN = "token-of-the-soar-platform_0123456789ABCDEF"
SECOND = "second-token-of-the-soar-platform"
FOREIGN = "token-of-somebody-else"


def token(value: str, valid: timedelta | None = None) -> Token:
    return Token(sha256(value.encode()).digest(), NOON + valid if valid is not None else None)


SOAR = Client("soar", (token(TOKEN), token(SECOND, timedelta(days=1))), frozenset({Scope.RELEASE}))
SOMEBODY = Client("somebody", (token(FOREIGN),), frozenset({Scope.READ}))
CLIENTS = (SOAR, SOMEBODY)
Multi = Mapping[str, tuple[str, ...]]


def who(headers: Multi, query: Multi | None = None, clients: tuple[Client, ...] = CLIENTS) -> str | None:
    """Return the name of the client that these headers authenticate, None if nobody."""
    try:
        payload = authenticate(http_request(headers, b"body", query), clients, NOON)
    except Unauthenticated:
        return None
    return payload.client.name


def bearer(value: str) -> Multi:
    return {"authorization": (f"Bearer {value}",)}


@pytest.mark.parametrize(
    "headers",
    [
        bearer(TOKEN),
        bearer(SECOND),
        {"authorization": (f"bearer {TOKEN}",)},
        {"authorization": (f"  BEARER   {TOKEN}  ",)},
        {"x-api-key": (TOKEN,)},
        {"authorization": (f"Bearer {TOKEN}",), "x-api-key": (TOKEN,)},
        {"authorization": (f"Bearer {TOKEN}", f"Bearer {TOKEN}")},
    ],
)
def test_the_holder_of_a_token_is_let_in(headers: Multi) -> None:
    assert who(headers) == "soar"


def test_only_spaces_are_no_part_of_what_is_sent() -> None:
    odd = (replace(SOAR, tokens=(token("X_token_that_begins_and_ends_with_an_X"),)),)
    assert who(bearer(" X_token_that_begins_and_ends_with_an_X "), clients=odd) == "soar"
    assert who({"authorization": (f"XBearer {TOKEN}",)}) is None
    assert who({"authorization": (f"\tBearer {TOKEN}",)}) is None


def test_each_client_is_known_by_its_own_token() -> None:
    assert who(bearer(FOREIGN)) == "somebody"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ()},
        {"authorization": ("",)},
        {"authorization": ("Bearer",)},
        {"authorization": ("Bearer ",)},
        {"authorization": (TOKEN,)},
        {"authorization": (f"Basic {TOKEN}",)},
        {"authorization": (f"Bearer Bearer {TOKEN}",)},
        {"x-api-key": ("",)},
        {"x-api-key": (f"Bearer {TOKEN}",)},
        {"cookie": (f"token={TOKEN}",)},
        bearer(sha256(TOKEN.encode()).hexdigest()),
        bearer(f"{TOKEN}\N{EM SPACE}"),
        bearer(f"\N{NO-BREAK SPACE}{TOKEN}"),
        bearer("ü" * 20),
        bearer("\ud800"),
    ],
)
def test_without_a_valid_token_the_caller_is_nobody(headers: Multi) -> None:
    assert who(headers) is None


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": (f"Bearer {TOKEN}",), "x-api-key": (SECOND,)},
        {"authorization": (f"Bearer {TOKEN}",), "x-api-key": (FOREIGN,)},
        {"authorization": (f"Bearer {TOKEN}",), "x-api-key": ("wrong",)},
        {"authorization": (f"Bearer {TOKEN}", f"Bearer {SECOND}")},
        {"authorization": (f"Bearer {TOKEN}", "Basic dTpw")},
        {"authorization": ("Basic dTpw",), "x-api-key": (TOKEN,)},
        {"x-api-key": (TOKEN, FOREIGN)},
    ],
)
def test_a_second_token_that_differs_is_nobody(headers: Multi) -> None:
    assert who(headers) is None


@pytest.mark.parametrize(
    "name", ["token", "access_token", "auth_token", "api_token", "apikey", "api_key", "api-key", "x-api-key", "Token"]
)
def test_a_token_in_the_query_string_is_nobody_even_beside_a_valid_header(name: str) -> None:
    assert who({}, {name: (TOKEN,)}) is None
    assert who(bearer(TOKEN), {name: (TOKEN,)}) is None


def test_the_token_is_refused_in_the_query_string_under_any_name() -> None:
    assert who(bearer(TOKEN), {"t": ("x", TOKEN)}) is None


def test_other_query_parameters_do_no_harm() -> None:
    assert who(bearer(TOKEN), {"ids": ("rq_1",)}) == "soar"


def test_a_token_holds_until_it_expires_and_not_a_moment_longer() -> None:
    def lasting(left: timedelta) -> tuple[Client, ...]:
        return (replace(SOAR, tokens=(token(TOKEN, left),)),)

    assert who(bearer(TOKEN), clients=lasting(timedelta(microseconds=1))) == "soar"
    assert who(bearer(TOKEN), clients=lasting(timedelta())) is None
    assert who(bearer(TOKEN), clients=lasting(timedelta(days=-1))) is None


def test_the_hash_of_nothing_in_the_secret_lets_nobody_in() -> None:
    careless = (replace(SOAR, tokens=(token(""),)),)
    for headers in ({}, bearer(""), {"x-api-key": ("",)}, {"authorization": ("Basic x",)}):
        assert who(headers, clients=careless) is None


def test_nobody_is_known_where_there_are_no_clients() -> None:
    assert who(bearer(TOKEN), clients=()) is None


def test_every_known_token_is_compared_in_constant_time_whoever_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def compare(known: bytes, given: bytes) -> bool:
        compared.append(known)
        return secrets.compare_digest(known, given)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    every = [known.sha256 for client in CLIENTS for known in client.tokens]
    for headers in (bearer(TOKEN), bearer(FOREIGN), bearer("wrong"), {}):
        compared.clear()
        who(headers)
        assert compared == every


def reason(
    headers: Multi, query: Multi | None = None, clients: tuple[Client, ...] = CLIENTS
) -> tuple[Reason, str | None]:
    """Return why these headers authenticate nobody, and whose token it was."""
    with pytest.raises(Unauthenticated) as refusal:
        authenticate(http_request(headers, b"body", query), clients, NOON)
    assert refusal.value.args == (refusal.value.reason,)
    return refusal.value.reason, refusal.value.client


def test_the_log_is_told_why_and_whose_token_it_was() -> None:
    expired = (replace(SOAR, tokens=(token(TOKEN, timedelta()),)),)
    assert reason({}) == (Reason.NO_TOKEN, None)
    assert reason({"authorization": ("Basic dTpw",)}) == (Reason.NO_TOKEN, None)
    assert reason(bearer("")) == (Reason.NO_TOKEN, None)
    assert reason({"x-api-key": (TOKEN, FOREIGN)}) == (Reason.TWO_TOKENS, None)
    assert reason(bearer("wrong")) == (Reason.UNKNOWN_TOKEN, None)
    assert reason(bearer(TOKEN), clients=expired) == (Reason.EXPIRED_TOKEN, "soar")
    assert reason(bearer(TOKEN), clients=(replace(SOAR, is_disabled=True),)) == (Reason.CLIENT_DISABLED, "soar")
    assert reason(bearer(TOKEN), {"q": (TOKEN,)}) == (Reason.TOKEN_IN_QUERY, "soar")
    assert reason({}, {"token": (TOKEN,)}) == (Reason.TOKEN_IN_QUERY, None)


# --- Clients that sign ------------------------------------------------------------------------------------------------

KEY = b"K" * 32
SIGNING = (replace(SOAR, signing_keys=(KEY,)), SOMEBODY)
REQUIRED = (replace(SOAR, signing_keys=(KEY, b"L" * 32), requires_signature=True), SOMEBODY)


def signed(headers: Multi, key: bytes = KEY, at: datetime = NOON) -> dict[str, tuple[str, ...]]:
    timestamp = str(int(at.timestamp()))
    return {
        **headers,
        "webhook-id": ("msg_1",),
        "webhook-timestamp": (timestamp,),
        "webhook-signature": (sign(key, "msg_1", timestamp, b"body"),),
    }


def test_a_client_that_must_sign_is_let_in_with_a_signature_only() -> None:
    assert who(signed(bearer(TOKEN)), clients=REQUIRED) == "soar"
    assert reason(bearer(TOKEN), clients=REQUIRED) == (Reason.NOT_SIGNED, "soar")
    assert reason(signed(bearer(TOKEN), b"F" * 32), clients=REQUIRED) == (Reason.WRONG_SIGNATURE, "soar")
    late = signed(bearer(TOKEN), at=NOON - timedelta(minutes=6))
    assert reason(late, clients=REQUIRED) == (Reason.SIGNED_LONG_AGO, "soar")


def test_a_client_that_may_sign_need_not_but_what_it_signs_is_checked() -> None:
    assert who(bearer(TOKEN), clients=SIGNING) == "soar"
    assert who(signed(bearer(TOKEN)), clients=SIGNING) == "soar"
    assert reason(signed(bearer(TOKEN), b"F" * 32), clients=SIGNING) == (Reason.WRONG_SIGNATURE, "soar")


def test_a_signature_without_the_token_lets_nobody_in() -> None:
    assert reason(signed({}), clients=REQUIRED) == (Reason.NO_TOKEN, None)
    assert reason(signed(bearer("wrong")), clients=REQUIRED) == (Reason.UNKNOWN_TOKEN, None)


def test_the_key_of_one_client_signs_nothing_for_another() -> None:
    both = (REQUIRED[0], replace(SOMEBODY, signing_keys=(b"F" * 32,)))
    assert reason(signed(bearer(FOREIGN)), clients=both) == (Reason.WRONG_SIGNATURE, "somebody")


def test_headers_of_a_client_without_keys_are_its_own_business() -> None:
    payload = authenticate(http_request(signed(bearer(TOKEN), b"F" * 32), b"body"), CLIENTS, NOON)
    assert payload.signed_id is None


def test_the_signed_id_is_known_to_who_parses() -> None:
    assert authenticate(http_request(signed(bearer(TOKEN)), b"body"), SIGNING, NOON).signed_id == "msg_1"
    assert authenticate(http_request(bearer(TOKEN), b"body"), SIGNING, NOON).signed_id is None


@pytest.mark.parametrize("clients", [CLIENTS, SIGNING, REQUIRED])
def test_the_payload_is_what_was_sent_whether_it_had_to_be_signed_or_not(clients: tuple[Client, ...]) -> None:
    for headers in (bearer(TOKEN), signed(bearer(TOKEN)))[clients is REQUIRED :]:
        payload = authenticate(http_request(headers, b"body"), clients, NOON)
        assert (payload.client, payload.http.headers, payload.http.body) == (clients[0], headers, b"body")


def test_as_much_is_compared_for_who_is_unknown_as_for_who_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def compare(known: bytes, given: bytes) -> bool:
        compared.append(known)
        return secrets.compare_digest(known, given)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    counts = set()
    for clients in (CLIENTS, SIGNING, REQUIRED):
        for headers in (bearer(TOKEN), bearer("wrong"), {}, {"x-api-key": (TOKEN, FOREIGN)}):
            compared.clear()
            who(signed(headers), clients=clients)
            counts.add(len(compared))
    assert counts == {sum(len(client.tokens) for client in CLIENTS) + 2}


def test_a_payload_shows_neither_headers_nor_body() -> None:
    payload = authenticate(http_request(bearer(TOKEN), b"canary"), CLIENTS, NOON)
    assert payload.http.body == b"canary"
    assert payload.http.headers == bearer(TOKEN)
    assert "canary" not in repr(payload)
    assert TOKEN not in repr(payload)


multis = st.dictionaries(
    st.sampled_from(["authorization", "x-api-key", "token", "ids"]) | st.text(max_size=10),
    st.lists(
        st.sampled_from([TOKEN, FOREIGN, f"Bearer {TOKEN}", f"Bearer {SECOND}", "Bearer", " "])
        | st.text(st.characters(), max_size=20),
        max_size=3,
    ).map(tuple),
    max_size=4,
)


@given(multis, multis, st.none() | st.binary(max_size=20))
def test_any_headers_query_and_bytes_are_a_payload_or_nobody(headers: Multi, query: Multi, body: bytes | None) -> None:
    try:
        payload = authenticate(http_request(headers, body, query), CLIENTS, NOON)
    except Unauthenticated:
        return
    assert payload == AuthenticatedRequest(payload.client, http_request(headers, body, query))
    assert payload.client in CLIENTS
    sent = " ".join((*headers.get("authorization", ()), *headers.get("x-api-key", ())))
    assert any(known in sent for known in (TOKEN, SECOND, FOREIGN))


@st.composite
def mutated_tokens(draw: st.DrawFn) -> str:
    """Draw a token with one character put in, left out or replaced, or in another case, or doubled."""
    at = draw(st.integers(0, len(TOKEN) - 1))
    put = draw(st.characters())
    return draw(
        st.sampled_from(
            [
                TOKEN[:at] + put + TOKEN[at:],
                TOKEN[:at] + TOKEN[at + 1 :],
                TOKEN[:at] + put + TOKEN[at + 1 :],
                TOKEN[:at] + TOKEN[at].swapcase() + TOKEN[at + 1 :],
                TOKEN + put,
                TOKEN[:at],
                TOKEN * 2,
                TOKEN[::-1],
            ]
        )
    )


@given(mutated_tokens())
def test_no_mutation_of_a_valid_token_is_let_in(mutated: str) -> None:
    assume(mutated.strip(" ") != TOKEN)  # spaces around a header's value are not part of it
    assert who(bearer(mutated)) is None
    assert who({"x-api-key": (mutated,)}) is None
