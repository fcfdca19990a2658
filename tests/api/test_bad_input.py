"""What bad input gets: a status, a code and the rule; nothing claimed, nothing sent, nothing echoed."""

import json
from typing import Any

import pytest

from tests.support.deployment import GATEWAY_REQUEST_ID, MESSAGE, OTHER_ACCOUNT, Deployment, token_of

KEY = [("Idempotency-Key", "key-1")]
REASON = {"ids": MESSAGE, "force": True, "reason": "false positive"}
CANARY = "zzcanary"

# What each is, the body, and what else differs from a valid request of the client soar.
BAD_INPUT: list[tuple[str, Any, dict[str, Any], int, str]] = [
    ("no body", None, {}, 400, "invalid_body"),
    ("not JSON", CANARY, {}, 400, "invalid_body"),
    ("not UTF-8", b'["\xff"]', {}, 400, "invalid_body"),
    ("not UTF-8 beside an id", b'{"ids": ["4Njp3P0STMz2c02Q"], "reason": "a\xff b"}', {}, 400, "invalid_body"),
    ("UTF-16", f'["{MESSAGE}"]'.encode("utf-16"), {}, 400, "invalid_body"),
    ("a byte order mark", b"\xef\xbb\xbf" + json.dumps([MESSAGE]).encode(), {}, 400, "invalid_body"),
    ("half a surrogate pair in the event", '["\ud800"]', {}, 400, "invalid_body"),
    ("JSON text", json.dumps(CANARY), {}, 400, "invalid_body"),
    ("a JSON number", "5", {}, 400, "invalid_body"),
    ("a JSON null", "null", {}, 400, "invalid_body"),
    ("ids of the wrong type", {"ids": 5}, {}, 400, "invalid_id"),
    ("an id of the wrong type", [MESSAGE, 5], {}, 400, "invalid_id"),
    ("no ids", {}, {}, 400, "ids_missing"),
    ("an empty array", [], {}, 400, "ids_missing"),
    ("an empty string of ids", {"ids": ""}, {}, 400, "ids_missing"),
    ("ids under two names", {"ids": MESSAGE, "id": MESSAGE}, {}, 400, "ids_ambiguous"),
    ("too many ids", [f"4Njp3P0STMz{number:05}" for number in range(1001)], {}, 400, "too_many_ids"),
    ("a short id", [MESSAGE, "short"], {}, 400, "invalid_id"),
    ("a Postfix id of 9 characters", ["a" * 9], {}, 400, "invalid_id"),
    ("an alert id with 26 characters before its time", [f"{'a' * 26}-2024-01-05T10:00:00"], {}, 400, "invalid_id"),
    ("an id with a path in it", ["../../accounts/x"], {}, 400, "invalid_id"),
    ("an id with a line end", [f"{MESSAGE}\n"], {}, 400, "invalid_id"),
    ("an id with a full-width digit", ["\uff14Njp3P0STMz2c02Q"], {}, 400, "invalid_id"),
    ("an id with a superscript digit", ["\u00b2Njp3P0STMz2c02Q"], {}, 400, "invalid_id"),
    ("an id with an arabic digit", ["\u0664Njp3P0STMz2c02Q"], {}, 400, "invalid_id"),
    ("an id with half a surrogate pair", b'["\\ud8004Njp3P0STMz2c02Q"]', {}, 400, "invalid_id"),
    ("an id with a letter that looks like another", ["\u0410Njp3P0STMz2c02Q"], {}, 400, "invalid_id"),
    ("an id that is percent-encoded", ["4Njp3P0STMz2c02Q%2e%2e%2f"], {}, 400, "invalid_id"),
    ("a number of 5,000 digits", f'{{"ids": "{MESSAGE}", "reason": {"9" * 5000}}}', {}, 400, "invalid_field"),
    ("a number beyond all others", f'{{"ids": "{MESSAGE}", "force": 1e999}}', {}, 400, "invalid_field"),
    ("a Message-ID with a space", ["<a b@example.com>"], {}, 400, "invalid_id"),
    ("a Message-ID of 251 characters", [f"<{'a' * 251}>"], {}, 400, "invalid_id"),
    ("a Message-ID of two", ["<a@example.com><b@example.com>"], {}, 400, "invalid_id"),
    ("a Message-ID that is not ASCII", ["<\u00e4@example.com>"], {}, 400, "invalid_id"),
    ("a recipient that is no address", {"ids": MESSAGE, "recipient": f"{CANARY} <x>"}, {}, 400, "invalid_field"),
    ("a sender that is no text", {"ids": MESSAGE, "sender": 5}, {}, 400, "invalid_field"),
    ("a since without an offset", {"ids": MESSAGE, "since": "2026-11-01T00:00:00"}, {}, 400, "invalid_field"),
    ("a since that is no time", {"ids": MESSAGE, "since": CANARY}, {}, 400, "invalid_field"),
    ("a since in the far future", {"ids": MESSAGE, "since": "9999-12-31T00:00:00Z"}, {}, 400, "invalid_field"),
    ("a since of the wrong type", {"ids": MESSAGE, "since": [CANARY]}, {}, 400, "invalid_field"),
    ("a count of none", {"ids": MESSAGE, "expect_count": 0}, {}, 400, "invalid_field"),
    ("a count that is no number", {"ids": MESSAGE, "expect_count": CANARY}, {}, 400, "invalid_field"),
    ("a count that is not whole", {"ids": MESSAGE, "expect_count": 1.5}, {}, 400, "invalid_field"),
    ("a dry_run that is no boolean", {"ids": MESSAGE, "dry_run": CANARY}, {}, 400, "invalid_field"),
    (
        "too many ids to try",
        {"ids": [f"4Njp3P0STMz{number:05}" for number in range(26)], "dry_run": True},
        {},
        400,
        "too_many_ids",
    ),
    ("override without reason", {"ids": MESSAGE, "override": True}, {}, 400, "override_needs_reason"),
    ("no scope to override", {"ids": MESSAGE, "override": True, "reason": "known"}, {}, 403, "scope_missing"),
    ("a long reason", {"ids": MESSAGE, "reason": CANARY * 63}, {}, 400, "field_too_long"),
    ("a long ticket", {"ids": MESSAGE, "ticket": CANARY * 13}, {}, 400, "field_too_long"),
    ("a long requested_by", {"ids": MESSAGE, "requested_by": CANARY * 26}, {}, 400, "field_too_long"),
    ("control characters", {"ids": MESSAGE, "reason": f"{CANARY}\r\n"}, {}, 400, "invalid_field"),
    ("a reason that is no text", {"ids": MESSAGE, "reason": {CANARY: 1}}, {}, 400, "invalid_field"),
    ("a force that is no boolean", {"ids": MESSAGE, "force": CANARY}, {}, 400, "invalid_field"),
    ("an unknown fail_on", {"ids": MESSAGE, "fail_on": CANARY}, {}, 400, "invalid_field"),
    ("a malformed account", {"ids": MESSAGE, "account_id": CANARY}, {}, 400, "invalid_field"),
    ("no base64", f"{CANARY}!", {"is_base64": True}, 400, "invalid_body"),
    ("a key twice", f'{{"ids": ["{CANARY}1"], "ids": ["{MESSAGE}"]}}', {}, 400, "invalid_body"),
    ("NaN", f'{{"ids": ["{MESSAGE}"], "{CANARY}": NaN}}', {}, 400, "invalid_body"),
    ("Infinity", f'{{"ids": ["{MESSAGE}"], "{CANARY}": -Infinity}}', {}, 400, "invalid_body"),
    ("depth 5", {"ids": [MESSAGE], CANARY: [[[[]]]]}, {}, 400, "invalid_body"),
    ("depth 60,000", "[" * 60_000, {}, 400, "invalid_body"),
    ("depth 100,000", "[" * 100_000, {}, 413, "body_too_large"),
    ("5 MB of arrays", "[]" * 2_500_000, {}, 413, "body_too_large"),
    ("an empty key", [MESSAGE], {"headers": [("Idempotency-Key", "")]}, 400, "invalid_idempotency_key"),
    (
        "two keys",
        [MESSAGE],
        {"headers": [("Idempotency-Key", "a"), ("idempotency-key", "b")]},
        400,
        "invalid_idempotency_key",
    ),
    (
        "force without reason",
        {"ids": MESSAGE, "force": True},
        {"client": "admin", "headers": KEY},
        400,
        "force_needs_reason",
    ),
    ("force without key", REASON, {"client": "admin"}, 400, "force_needs_key"),
    (
        "too many ids to force",
        REASON | {"ids": [f"4Njp3P0STMz{number:05}" for number in range(26)]},
        {"client": "admin", "headers": KEY},
        400,
        "too_many_ids",
    ),
    ("no token", [MESSAGE], {"client": None}, 401, "unauthenticated"),
    ("a wrong token", [MESSAGE], {"client": "nobody"}, 401, "unauthenticated"),
    ("an expired token", [MESSAGE], {"client": "former"}, 401, "unauthenticated"),
    (
        "a token in the query string",
        [MESSAGE],
        {"client": None, "query": [("token", token_of("soar"))]},
        401,
        "unauthenticated",
    ),
    ("a token there too", [MESSAGE], {"query": [("access_token", token_of("soar"))]}, 401, "unauthenticated"),
    ("two different tokens", [MESSAGE], {"headers": [("x-api-key", token_of("other"))]}, 401, "unauthenticated"),
    ("no token and no JSON", CANARY, {"client": None}, 401, "unauthenticated"),
    ("no token and no UTF-8", b"\xff", {"client": None}, 401, "unauthenticated"),
    ("no token and no base64", "!", {"client": None, "is_base64": True}, 401, "unauthenticated"),
    ("no token and too large", "x" * 70_000, {"client": None}, 401, "unauthenticated"),
    ("an account that is not configured", {"ids": MESSAGE, "account_id": "c" * 32}, {}, 403, "account_not_allowed"),
    ("an account of others", [MESSAGE], {"client": "guest"}, 403, "account_not_allowed"),
    (
        "an own account that is not configured",
        {"ids": MESSAGE, "account_id": OTHER_ACCOUNT},
        {"client": "guest"},
        403,
        "account_not_allowed",
    ),
    ("no scope to release", [MESSAGE], {"client": "reader"}, 403, "scope_missing"),
    ("no scope to release, and no JSON", CANARY, {"client": "reader"}, 403, "scope_missing"),
    ("no scope to force", REASON, {"headers": KEY}, 403, "scope_missing"),
    ("64 KB and a byte", json.dumps([MESSAGE]).ljust(65_537), {}, 413, "body_too_large"),
    ("base64 of more than 64 KB", b"x" * 65_537, {}, 413, "body_too_large"),
    ("64 KB of two bytes each", "ä" * 32_769, {}, 413, "body_too_large"),
    ("compressed", [MESSAGE], {"headers": [("Content-Encoding", "gzip")]}, 415, "unsupported_encoding"),
    (
        "multipart beside JSON",
        [MESSAGE],
        {"headers": [("Content-Type", "application/json"), ("content-type", "multipart/form-data")]},
        415,
        "unsupported_encoding",
    ),
    (
        "multipart",
        [MESSAGE],
        {"headers": [("Content-Type", " Multipart/form-data; boundary=x")]},
        415,
        "unsupported_encoding",
    ),
]


@pytest.mark.parametrize(
    ("body", "given_event", "status", "code"), [case[1:] for case in BAD_INPUT], ids=[case[0] for case in BAD_INPUT]
)
def test_bad_input_is_named_claims_nothing_and_sends_nothing(
    deployment: Deployment, body: Any, given_event: dict[str, Any], status: int, code: str
) -> None:
    answer = deployment.post(body, **given_event)
    assert (answer.status, answer.code) == (status, code)
    assert (answer.body["retryable"], answer.body["request_id"]) == (False, GATEWAY_REQUEST_ID)
    assert answer.body["type"] == f"urn:quarantine-release:problem:{code}"
    assert ("field" in answer.body) == (status == 400 or code == "account_not_allowed")
    assert ("WWW-Authenticate" in answer.headers) == (status == 401)
    assert CANARY not in str(answer)
    assert MESSAGE not in str(answer)
    assert deployment.is_untouched
    assert set(deployment.aws_calls) == {"GetSecretValue"}
    assert CANARY not in deployment.log
    assert [event["code"] for event in deployment.events("declined")] == [code]
