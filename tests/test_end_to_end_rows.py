"""Rows that another version wrote, over HTTP: edited in the table itself, past the product's code."""

import json
from base64 import b32encode
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any

import pytest

from tests.scripted_cloudflare import ACCOUNT, Deployed, deployed, row

pytestmark = pytest.mark.slow
FULL = "4WtRwOLDKEY1z9s-2026-11-20T10:00:00-12345678"
PART = FULL.partition("-")[0]
BODY: Mapping[str, Any] = {"ids": [FULL], "reason": "a false positive", "fail_on": "partial"}
# What version 4c3b95d stored as the fingerprint of BODY for this account.
STORED = "af10ba52d593d679d33351414e6dd76b2850c2795c4a9ef99d099046f0574f71"
# As the current rule has it: the members that were given, by name.
MEMBERS = {"account_id": ACCOUNT, "fail_on": "partial", "ids": [FULL], "reason": "a false positive"}
CURRENT = f"2:{sha256(json.dumps(MEMBERS).encode()).hexdigest()}"


@pytest.fixture(scope="module")
def system() -> Iterator[Deployed]:
    with deployed() as running:
        yield running


@pytest.fixture(autouse=True)
def _fresh(system: Deployed) -> None:
    system.cloudflare.reset()
    system.cloudflare.rows = [row(FULL)]


def request_id_of(key: str) -> str:
    digest = sha256(f"local\0{key}".encode()).digest()
    return f"rq_{b32encode(digest).decode().lower()[:26]}"


def request_item(key: str, fingerprint: str, **members: Any) -> dict[str, Any]:
    """Make the row of BODY under a key as version 4c3b95d wrote it."""
    return {
        "pk": {"S": f"R#{request_id_of(key)}"},
        "client": {"S": "local"},
        "account_id": {"S": ACCOUNT},
        "fingerprint": {"S": fingerprint},
        "nonce": {"S": "0a" * 20},
        "ids": {"S": FULL},
        "created_at": {"N": "1795348800000"},
        "reason": {"S": "a false positive"},
        "fail_on": {"S": "partial"},
        **members,
    }


def closed_item(key: str, fingerprint: str) -> dict[str, Any]:
    """Make the row of a request that has ended, whose message was out already."""
    ended = {"closed_at": {"N": "1795348804000"}, "expires_at": {"N": "1995348800"}}
    return request_item(key, fingerprint, state={"S": "CLOSED"}, letters={"S": "A"}, **ended)


@pytest.mark.parametrize("fingerprint", [STORED, CURRENT], ids=["of 4c3b95d", "of what was given"])
def test_a_key_from_before_an_upgrade_brings_its_answer(system: Deployed, fingerprint: str) -> None:
    key = f"upgraded-{fingerprint[:4]}"
    system.put_item(closed_item(key, fingerprint))
    answer = system.post(BODY, Idempotency_Key=key)
    assert answer.status_code == 200, answer.text
    assert answer.json()["replayed"]
    assert answer.json()["results"][0]["outcome"] == "already_released"
    assert system.cloudflare.releases == []


@pytest.mark.parametrize("fingerprint", [STORED, CURRENT], ids=["of 4c3b95d", "of what was given"])
def test_a_key_from_before_an_upgrade_executes_no_other_payload(system: Deployed, fingerprint: str) -> None:
    key = f"other-{fingerprint[:4]}"
    system.put_item(closed_item(key, fingerprint))
    for other in ({**BODY, "ids": ["4WtRwOTHER21z9s"]}, {**BODY, "fail_on": "none"}, {"ids": [FULL]}):
        answer = system.post(other, Idempotency_Key=key)
        assert (answer.status_code, answer.json()["code"]) == (400, "idempotency_key_reused")
    assert system.cloudflare.releases == []


@pytest.mark.parametrize("fingerprint", [CURRENT, STORED], ids=["of what was given", "of 4c3b95d"])
def test_a_request_refused_before_an_upgrade_starts_again(system: Deployed, fingerprint: str) -> None:
    key = f"refused-{fingerprint[:4]}"
    ended = {"closed_at": {"N": "1795348804000"}, "expires_at": {"N": "1995348800"}}
    system.put_item(request_item(key, fingerprint, state={"S": "REFUSED"}, **ended))
    answer = system.ended(system.post(BODY, Idempotency_Key=key))
    assert answer["request_id"] == request_id_of(key)
    assert answer["results"][0]["outcome"] in ("released", "already_released")
    assert system.item(f"R#{request_id_of(key)}")["state"]["S"] == "CLOSED"
