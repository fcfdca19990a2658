"""The most expensive things that can be sent: what they cost before the ledger is asked, as processor time and memory.

What each hazard is answered stands in `test_bad_input.py`.
"""

import json
import time
import tracemalloc
from base64 import b64encode
from collections.abc import Callable
from datetime import timedelta
from hashlib import sha256

import pytest

from quarantine_release.api.authentication import Unauthenticated, authenticate
from quarantine_release.api.event import read_event
from quarantine_release.api.problems import InvalidRequest
from quarantine_release.api.release_request import BODY_LIMIT, accept, parse_release_request
from quarantine_release.config.clients import Client, Scope, Token
from tests.support.deployment import Event, proxy_event, token_of
from tests.support.stand_ins import ACCOUNT, NOON, sign

CPU_SECONDS, MEMORY = 0.05, 64 * 1024 * 1024
KEYS = (b"K" * 64, b"L" * 64)
CLIENTS = [
    Client(
        f"client-{number}",
        tuple(Token(sha256(token_of(f"{number}-{which}").encode()).digest()) for which in range(2)),
        frozenset(Scope),
        signing_keys=KEYS,
    )
    for number in range(200)
]


def event(body: bytes, *, is_base64: bool = False, token: str = token_of("199-1")) -> Event:
    """Return a signed request with as many headers as the gateway lets through (10 KB)."""
    timestamp = str(int(NOON.timestamp()))
    signature = " ".join([sign(b"F" * 64, "msg_1", timestamp, body)] * 3 + [sign(KEYS[1], "msg_1", timestamp, body)])
    headers = [
        ("Authorization", f"Bearer {token}"),
        ("Webhook-Id", "msg_1"),
        ("Webhook-Timestamp", timestamp),
        ("Webhook-Signature", signature),
        *((f"X-{number}", "x" * 40) for number in range(180)),
    ]
    text = b64encode(body).decode() if is_base64 else body.decode("utf-8", "replace")
    return proxy_event("POST", "/v1/releases", headers=headers, body=text, is_base64=is_base64)


def taken_in(given: Event) -> str:
    """Take a request in as the webhook does before the ledger is asked, and say what came of it."""
    request = read_event(given)
    try:
        payload = authenticate(request, CLIENTS, NOON + timedelta(seconds=1))
        accept(parse_release_request(payload), ACCOUNT, NOON, bytes(20))
    except Unauthenticated as refused:
        return refused.reason
    except InvalidRequest as refused:
        return refused.code
    return "accepted"


def padded(text: str) -> bytes:
    """Fill up to the largest body."""
    return text.ljust(BODY_LIMIT).encode()


IDS = [f"{number:04}.{'x' * 39}" for number in range(1000)]
COSTLY: dict[str, tuple[Callable[[], Event], str]] = {
    "a thousand ids": (lambda: event(padded(json.dumps({"ids": IDS, "reason": "r" * 500}))), "accepted"),
    "in one string": (lambda: event(padded(json.dumps({"ids": ",".join(IDS)}))), "accepted"),
    "as base64": (lambda: event(padded(json.dumps(IDS)), is_base64=True), "accepted"),
    "the same id a thousand times": (lambda: event(padded(json.dumps([IDS[0]] * 1000))), "accepted"),
    "members that nobody knows": (
        lambda: event(padded(json.dumps({"ids": IDS[0], **{f"{number:05}": 0 for number in range(4500)}}))),
        "accepted",
    ),
    "as deep and as often as may be": (
        lambda: event(padded(json.dumps({"ids": IDS[0], "x": [[[]] for _ in range(10_000)]}))),
        "accepted",
    ),
    "numbers of thousands of digits": (
        lambda: event(padded(f'{{"ids": "{IDS[0]}", "x": [{",".join(["9" * 4000] * 16)}]}}')),
        "accepted",
    ),
    "too deep": (lambda: event(b"[" * BODY_LIMIT), "invalid_body"),
    "quotes": (lambda: event(b'"' * BODY_LIMIT), "invalid_body"),
    "backslashes": (lambda: event(b'"' + b"\\" * (BODY_LIMIT - 1)), "invalid_body"),
    "every byte": (lambda: event(bytes(range(256)) * 256, is_base64=True), "invalid_body"),
    "no base64": (lambda: event(b"x") | {"body": "!" * BODY_LIMIT, "isBase64Encoded": True}, "wrong_signature"),
    "a stranger": (lambda: event(padded("[]"), token="wrong"), "unknown_token"),
    "a stranger who sends megabytes": (lambda: event(b"[]" * 2_500_000, token="wrong"), "unknown_token"),
    "too many ids": (lambda: event(padded(json.dumps([f"{number:010}" for number in range(4600)]))), "too_many_ids"),
    "a long reason": (lambda: event(padded(json.dumps({"ids": IDS[0], "reason": "r" * 60_000}))), "field_too_long"),
}


@pytest.mark.measured
@pytest.mark.parametrize("name", COSTLY)
def test_nothing_that_can_be_sent_costs_much_before_the_ledger_is_asked(name: str) -> None:
    build, expected = COSTLY[name]
    given = build()
    seconds = []
    for _ in range(5):
        began = time.process_time()
        assert taken_in(given) == expected
        seconds.append(time.process_time() - began)
    assert min(seconds) < CPU_SECONDS
    tracemalloc.start()
    try:
        taken_in(given)
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()
