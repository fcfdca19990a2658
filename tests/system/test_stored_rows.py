"""Rows that another version wrote or that are damaged, over HTTP: edited in the table, past the product's code."""

import json
import time
import zlib
from base64 import b32encode
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from typing import Any

import pytest

from tests.support.scripted_cloudflare import ACCOUNT, Deployed, deployed, row

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
    # The reconciler leaves a request alone for lease and settle time together.
    with deployed({"LEASE_SECONDS": "4", "SETTLE_SECONDS": "1"}) as running:
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


# --- Rows that cannot be read

Item = dict[str, Any]
DAMAGES: Mapping[str, Mapping[str, Any]] = {
    "a newer version": {"v": {"N": "99"}},
    "an unknown state": {"state": {"S": "TELEPORTED"}},
    "a missing attribute": {"message_id": None},
    "another type": {"updated_at": {"S": "yesterday"}},
    "broken JSON": {"recipients": {"S": "[["}},
}


def damaged(item: Mapping[str, Any], damage: Mapping[str, Any]) -> Item:
    """Return the row with some attributes replaced, or taken away for None."""
    return {name: value for name, value in {**item, **damage}.items() if value is not None}


def id_of(name: str) -> str:
    return f"4WtR{name}-2026-11-20T10:00:00-12345678"


def message_key(message_id: str) -> str:
    return f"M#{ACCOUNT}#{message_id.partition('-')[0]}"


def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.2)


def logged(system: Deployed, key: str) -> bool:
    lines = system.stack.log_path.read_text().splitlines()
    events = [json.loads(line) for line in lines if '"row_unreadable"' in line]
    return any(event["key"] == key and event["kind"] == key[0] for event in events)


def told(answer: Any) -> tuple[int, str | None, list[str]]:
    body = answer.json()
    return answer.status_code, body.get("code"), body.get("ids", [])


@pytest.mark.parametrize("name", DAMAGES)
def test_for_a_message_whose_row_cannot_be_read_nothing_is_done_and_everybody_gets_503(
    system: Deployed, name: str
) -> None:
    number = list(DAMAGES).index(name)
    full, other = id_of(f"RoW{number}1z9sNHk"), id_of(f"oTh{number}1z9sNHk")
    system.cloudflare.rows = [row(full), row(other)]
    system.ended(system.post({"ids": [full]}, Idempotency_Key=f"damaged-{number}"))
    others = system.ended(system.post({"ids": [other]}))
    request_id = request_id_of(f"damaged-{number}")
    sound = system.item(message_key(full))
    system.put_item(damaged(sound, DAMAGES[name]))

    unreadable = (503, "ledger_row_unreadable", [full])
    forced = {"ids": [full], "force": True, "reason": "again"}
    assert told(system.post({"ids": [full]}, Idempotency_Key=f"damaged-{number}")) == unreadable
    assert told(system.post({"ids": [other, full]})) == unreadable
    assert told(system.post(forced, Idempotency_Key=f"forced-{number}")) == unreadable
    assert told(system.post({"ids": [full], "dry_run": True})) == unreadable
    assert told(system.get(f"/v1/releases/{request_id}")) == unreadable
    assert told(system.post({}, f"/v1/releases/{request_id}/cancel")) == unreadable
    assert told(system.get(f"/v1/messages/{full}")) == unreadable
    listed = system.get(f"/v1/releases?ids={request_id},{others['request_id']}").json()
    assert [each.get("code") for each in listed["releases"]] == ["ledger_row_unreadable", None]
    assert listed["open"] == 1

    assert system.item(message_key(full)) == damaged(sound, DAMAGES[name])
    assert system.cloudflare.released(full) == 1
    assert logged(system, message_key(full))
    system.put_item(sound)
    assert system.get(f"/v1/releases/{request_id}").json()["results"][0]["outcome"] == "released"


def test_the_rest_of_a_queued_request_is_released_beside_a_message_that_cannot_be_read(system: Deployed) -> None:
    ids = [id_of(f"pAcK{number:02}z9sNHk") for number in range(30)]
    hidden = ids[7]
    system.cloudflare.rows = [row(each) for each in ids]
    system.ended(system.post({"ids": [hidden]}))
    sound = system.item(message_key(hidden))
    system.put_item(damaged(sound, {"code": {"S": "out_of_space"}}))
    answer = system.post({"ids": ids}, Idempotency_Key="pack")
    assert answer.status_code == 202
    until(lambda: all(system.cloudflare.released(each) for each in ids))
    assert told(system.get(f"/v1/releases/{request_id_of('pack')}")) == (503, "ledger_row_unreadable", [hidden])
    assert system.item(message_key(hidden)) == damaged(sound, {"code": {"S": "out_of_space"}})

    system.put_item(sound)
    until(lambda: system.get(f"/v1/releases/{request_id_of('pack')}").status_code == 200)
    results = system.get(f"/v1/releases/{request_id_of('pack')}").json()["results"]
    assert {each["id"]: each["outcome"] for each in results} == {
        each: "already_released" if each == hidden else "released" for each in ids
    }
    assert {system.cloudflare.released(each) for each in ids} == {1}


def test_a_call_is_settled_for_the_messages_that_can_be_read_and_for_the_other_one_later(system: Deployed) -> None:
    full, hidden = id_of("UnK1z9sNHkA"), id_of("UnK2z9sNHkA")
    system.cloudflare.rows = [row(full), row(hidden)]
    system.cloudflare.on_release = lambda _: 500
    answer = system.post({"ids": [full, hidden]})
    assert answer.status_code == 202
    request_id = answer.json()["request_id"]
    sound = system.item(message_key(hidden))
    system.put_item(damaged(sound, {"state": {"S": "TELEPORTED"}}))
    out = {
        "is_quarantined": False,
        "post_delivery_operations": ["QUARANTINE_RELEASE"],
        "delivery_status": ["delivered"],
    }
    system.cloudflare.rows = [row(full, **out), row(hidden, **out)]
    until(lambda: system.item(message_key(full))["state"]["S"] == "RELEASED")
    assert system.item(message_key(hidden)) == damaged(sound, {"state": {"S": "TELEPORTED"}})
    assert "open_kind" in system.item(f"T#{ACCOUNT}#{sound['attempt']['S']}")

    system.put_item(sound)
    until(lambda: system.item(message_key(hidden))["state"]["S"] == "RELEASED")
    results = system.ended(system.get(f"/v1/releases/{request_id}"))["results"]
    assert [each["outcome"] for each in results] == ["released", "released"]
    assert len(system.cloudflare.releases) == 1


def open_item(key: str, message_id: str) -> Item:
    """Make the row of an open request under a key, in the index and due at once."""
    request_id = request_id_of(key)
    open_kind = f"R#{zlib.crc32(request_id.encode()) % 4}"
    indexed = {"state": {"S": "OPEN"}, "open_kind": {"S": open_kind}, "open_at": {"N": "1795348800000"}}
    created = {"N": str(int(time.time() * 1000) - 60_000)}
    return {**request_item(key, STORED, **indexed), "ids": {"S": message_id}, "created_at": created}


@pytest.mark.parametrize("damage", [{"v": {"N": "99"}}, {"fail_on": {"S": "mondays"}}, {"ids": None}])
def test_an_open_request_that_cannot_be_read_waits_and_the_others_go_on(
    system: Deployed, damage: Mapping[str, Any]
) -> None:
    (name,) = damage
    full, other = id_of(f"ReQ{name[:2]}z9sNHk"), id_of(f"GoN{name[:2]}z9sNHk")
    system.cloudflare.rows = [row(full), row(other)]
    key, other_key = f"request-{name}", f"other-{name}"
    body = {**BODY, "ids": [full]}
    sound = open_item(key, full)
    system.put_item(damaged(sound, damage))
    unreadable: tuple[int, str, list[str]] = (503, "ledger_row_unreadable", [])
    assert told(system.get(f"/v1/releases/{request_id_of(key)}")) == unreadable
    assert told(system.post({}, f"/v1/releases/{request_id_of(key)}/cancel")) == unreadable
    assert told(system.post(body, Idempotency_Key=key)) == unreadable
    system.ended(system.post({"ids": [other]}, Prefer="respond-async", Idempotency_Key=other_key))
    listed = system.get(f"/v1/releases?ids={request_id_of(key)},{request_id_of(other_key)}").json()["releases"]
    assert [each.get("code") for each in listed] == ["ledger_row_unreadable", None]
    assert logged(system, f"R#{request_id_of(key)}")
    assert system.item(f"R#{request_id_of(key)}") == damaged(sound, damage)
    assert system.cloudflare.released(full) == 0

    system.put_item(sound)
    until(lambda: system.item(f"R#{request_id_of(key)}")["state"]["S"] == "CLOSED")
    assert system.cloudflare.released(full) == 1


def test_a_call_whose_row_cannot_be_read_waits_and_other_calls_are_settled(system: Deployed) -> None:
    full, other = id_of("AtT1z9sNHkA"), id_of("AtT2z9sNHkA")
    system.cloudflare.rows = [row(full), row(other)]
    system.cloudflare.on_release = lambda _: 500
    for each in (full, other):
        assert system.post({"ids": [each]}).status_code == 202
        attempt = f"T#{ACCOUNT}#{system.item(message_key(full))['attempt']['S']}"
        if each == full:
            sound = system.item(attempt)
            system.put_item(damaged(sound, {"targets": {"B": b"damaged"}}))
    out = {
        "is_quarantined": False,
        "post_delivery_operations": ["QUARANTINE_RELEASE"],
        "delivery_status": ["delivered"],
    }
    system.cloudflare.rows = [row(full, **out), row(other, **out)]
    until(lambda: system.item(message_key(other))["state"]["S"] == "RELEASED")
    assert system.item(message_key(full))["state"]["S"] == "UNKNOWN"
    assert system.item(attempt) == damaged(sound, {"targets": {"B": b"damaged"}})
    assert logged(system, attempt)

    system.put_item(sound)
    until(lambda: system.item(message_key(full))["state"]["S"] == "RELEASED")


def test_no_call_is_made_for_an_account_whose_row_cannot_be_read(system: Deployed) -> None:
    inline, queued = id_of("AcC1z9sNHkA"), id_of("AcC2z9sNHkA")
    system.cloudflare.rows = [row(inline), row(queued)]
    sound = system.item(f"A#{ACCOUNT}") or {"pk": {"S": f"A#{ACCOUNT}"}}
    system.put_item(damaged(sound, {"switch": {"S": "{"}}))
    time.sleep(1.0)  # a process may rely on what it has read for 0.9 s
    system.put_item(open_item("account", queued))
    for prefer in ("wait", "respond-async"):
        assert told(system.post({"ids": [inline]}, Prefer=prefer)) == (503, "ledger_row_unreadable", [])
    until(lambda: logged(system, f"A#{ACCOUNT}"))
    time.sleep(3.0)
    assert system.cloudflare.releases == []
    system.put_item(sound)
    until(lambda: system.item(f"R#{request_id_of('account')}")["state"]["S"] == "CLOSED")
    assert system.cloudflare.releases == [[queued]]


@pytest.fixture(scope="module")
def unguarded() -> Iterator[Deployed]:
    with deployed({"GUARD_MODE": "off"}, processes=1) as running:
        yield running


def test_a_message_that_cannot_be_read_is_met_by_the_claim_itself_where_the_guard_is_off(unguarded: Deployed) -> None:
    full, other = id_of("OfF1z9sNHkA"), id_of("OfF2z9sNHkA")
    unguarded.ended(unguarded.post({"ids": [full]}))
    sound = unguarded.item(message_key(full))
    unguarded.put_item(damaged(sound, {"v": {"N": "99"}}))
    for body in ({"ids": [other, full]}, {"ids": [full], "force": True, "reason": "again"}):
        answer = unguarded.post(body, Idempotency_Key=f"off-{len(body)}")
        assert told(answer) == (503, "ledger_row_unreadable", [full])
        assert unguarded.item(f"R#{request_id_of(f'off-{len(body)}')}") == {}
    assert unguarded.item(message_key(full)) == damaged(sound, {"v": {"N": "99"}})
    assert unguarded.item(message_key(other)) == {}
    assert unguarded.cloudflare.releases == [[full]]
