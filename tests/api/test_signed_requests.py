"""A client that must sign, against the deployed webhook: replays are answered, not executed; changes are refused."""

import json
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.deployment import (
    INVESTIGATE_ID,
    MESSAGE,
    SIGNING_KEY,
    Answer,
    Deployment,
    path_of,
    proxy_event,
    token_of,
)
from tests.support.stand_ins import sign

BODY = json.dumps({"ids": [MESSAGE]}).encode()
Pairs = list[tuple[str, str]]


def signed(
    body: bytes = BODY, message_id: str = "msg_1", age: timedelta = timedelta(), key: bytes = SIGNING_KEY
) -> Pairs:
    """Return the headers of a signed request; the real clock decides how old it is."""
    timestamp = str(int((datetime.now(UTC) - age).timestamp()))
    return [
        ("Webhook-Id", message_id),
        ("Webhook-Timestamp", timestamp),
        ("Webhook-Signature", sign(key, message_id, timestamp, body)),
    ]


def post(deployment: Deployment, headers: Pairs, body: bytes = BODY, **given: Any) -> Answer:
    return deployment.post(body.decode(), client="signer", headers=headers, **given)


def refused(deployment: Deployment, headers: Pairs, body: bytes = BODY) -> str:
    """Return the reason in the log of a request that must be answered like any other without authentication."""
    known = len(deployment.events("unauthenticated"))
    answer = post(deployment, headers, body)
    stranger = deployment.post(client=None)
    assert (answer.status, answer.body, dict(answer.headers)) == (401, stranger.body, dict(stranger.headers))
    logged = deployment.events("unauthenticated")[known]
    assert logged["client"] == "signer"
    return str(logged["reason"])


def test_a_signed_request_releases_and_its_id_is_its_idempotency_key(deployment: Deployment) -> None:
    answer = post(deployment, signed())
    assert (answer.status, answer.result["outcome"]) == (200, "released")
    again = post(deployment, [*signed(), ("Idempotency-Key", "msg_1")])
    assert path_of(again) == path_of(answer)
    assert again.body["replayed"] is True


def test_a_recorded_request_sent_again_is_answered_from_the_ledger(deployment: Deployment) -> None:
    recorded = signed()
    first = post(deployment, recorded)
    rows = [deployment.rows(kind) for kind in "RMT"]
    for _ in range(3):
        replay = post(deployment, recorded)
        assert (replay.status, replay.body) == (first.status, first.body | {"replayed": True})
    assert len(deployment.upstream.releases) == 1
    assert [deployment.rows(kind) for kind in "RMT"] == rows


def test_a_recorded_request_cannot_be_made_another_by_another_key(deployment: Deployment) -> None:
    recorded = signed()
    answer = post(deployment, [*recorded, ("Idempotency-Key", "msg_2")])
    assert (answer.status, answer.code, answer.body["field"]) == (400, "invalid_idempotency_key", "Idempotency-Key")
    assert deployment.is_untouched


def test_an_id_signed_for_another_body_is_a_key_reused(deployment: Deployment) -> None:
    post(deployment, signed())
    other = json.dumps([INVESTIGATE_ID]).encode()
    answer = post(deployment, signed(other), other)
    assert (answer.status, answer.code) == (400, "idempotency_key_reused")
    assert len(deployment.upstream.releases) == 1


def test_what_is_not_signed_right_is_401_for_its_own_reason(deployment: Deployment) -> None:
    assert refused(deployment, []) == "not_signed"
    assert refused(deployment, signed(), BODY + b" ") == "wrong_signature"
    assert refused(deployment, signed(key=b"F" * 32)) == "wrong_signature"
    assert refused(deployment, signed()[:2]) == "not_signed"
    assert refused(deployment, signed()[1:]) == "wrong_signature"
    assert refused(deployment, [*signed(), *signed()]) == "wrong_signature"
    assert refused(deployment, signed(age=timedelta(minutes=6))) == "signed_long_ago"
    assert refused(deployment, signed(age=timedelta(minutes=-6))) == "signed_long_ago"
    assert deployment.is_untouched


def test_a_failed_authentication_is_counted_by_its_reason(
    deployment: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    deployment.post(client=None)
    post(deployment, [])
    counted = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [metrics["Unauthenticated"] for metrics in counted] == [[1.0], [1.0]]
    assert counted[0]["UnauthenticatedNoToken"] == [1.0]
    assert counted[1]["UnauthenticatedNotSigned"] == [1.0]


def test_the_bytes_that_are_signed_are_those_that_were_sent(deployment: Deployment) -> None:
    """API Gateway may hand a body on as base64; what is signed is what the caller sent."""
    answer = deployment.handle(
        proxy_event(
            "POST",
            "/v1/releases",
            headers=[("Authorization", f"Bearer {token_of('signer')}"), *signed()],
            body=b64encode(BODY).decode(),
            is_base64=True,
        )
    )
    assert answer.status == 200


def test_asking_is_signed_too(deployment: Deployment) -> None:
    path = path_of(post(deployment, signed()))
    assert deployment.get(path, client="signer").status == 401
    assert deployment.get(path, client="signer", headers=signed(b"", "msg_2")).status == 200


def test_the_signature_of_one_client_does_not_make_another(deployment: Deployment) -> None:
    """A client without keys may send the header for its own purposes: it is its key, and nothing more."""
    answer = deployment.post(BODY.decode(), client="soar", headers=signed(key=b"F" * 32))
    assert answer.status == 200
    assert deployment.post(BODY.decode(), client=None, headers=signed()).status == 401
