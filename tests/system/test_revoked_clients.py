"""A client is revoked or limited while its work waits in the queue: what leaves then, over HTTP, and what goes on."""

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, Final

import pytest

from tests.support.scripted_cloudflare import Deployed, Row, deployed, row

pytestmark = pytest.mark.slow

_NUMBERS: Final = count(10)
CACHE_SECONDS: Final = 1
# The sweep finds what a revoked client left after lease and settle time together.
WAITS: Final = {"SECRET_SECONDS": str(CACHE_SECONDS), "LEASE_SECONDS": "6", "SETTLE_SECONDS": "1"}
PATIENCE_SECONDS: Final = 60
ELSEWHERE: Final = "b" * 32


LOST: Final = ("gone", "invalid", "disabled", "expired", "scope", "account", "override")
# All of them from the start: a process looks for an unknown token once in 30 s.
CLIENTS: Final[dict[str, dict[str, Any]]] = {
    name: {"name": name, "token": f"token-of-{name}-0123456789", "scopes": ["release", "read", "override"]}
    for name in (*LOST, "fine", "tightened", "unlucky", "switched-off")
}


@pytest.fixture(scope="module")
def system() -> Iterator[Deployed]:
    with deployed(WAITS) as running:
        put_clients(running)
        yield running


@pytest.fixture(autouse=True)
def _fresh(system: Deployed) -> None:
    system.cloudflare.reset()
    put_clients(system)


def put_clients(system: Deployed, **changes: Mapping[str, Any] | None) -> None:
    """Set the clients, these with other members, or without their entry."""
    left = {name: entry for name, entry in CLIENTS.items() if changes.get(name, {}) is not None}
    system.clients(*({**entry, **(changes.get(name) or {})} for name, entry in left.items()))


def held_mail(system: Deployed, disposition: str = "SPAM") -> str:
    """Put a mail of two days ago into quarantine; return its investigate id."""
    at = datetime.now(UTC) - timedelta(days=2)
    message_id = f"4Wtkrev0ked{next(_NUMBERS)}-{at:%Y-%m-%dT%H:%M:%S}-10000000"
    system.cloudflare.rows = [*system.cloudflare.rows, row(message_id, final_disposition=disposition)]
    return message_id


def queue(system: Deployed, client: str, *ids: str, **members: Any) -> str:
    """Ask for a release that Cloudflare does not take for now; return the request."""
    body = {"ids": list(ids), **members}
    answer = system.post(body, Authorization=authorization(client))
    assert answer.status_code == 202, answer.text
    return str(answer.json()["request_id"])


def authorization(client: str) -> str:
    return f"Bearer {CLIENTS[client]['token']}"


def refuse_for(system: Deployed, seconds: int) -> None:
    """Have Cloudflare refuse every call, and none be made for so many seconds after the first."""
    system.cloudflare.on_release, system.cloudflare.retry_after = (lambda _: 429), seconds


def accept_again(system: Deployed) -> list[str]:
    """Have Cloudflare release again once all processes know the clients as they are; return what it has released."""
    delivered: list[str] = []

    def release(ids: list[str]) -> list[Row]:
        delivered.extend(ids)
        return [{"id": each, "delivered": ["ann@example.com"]} for each in ids]

    time.sleep(3 * CACHE_SECONDS)
    system.cloudflare.on_release = release
    return delivered


def wait_until(happened: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while not happened() and time.monotonic() < until:
        time.sleep(0.2)


def reasons(system: Deployed) -> Callable[[], set[str]]:
    """Return what tells why work was withheld, of what is logged from now on."""
    before = len(system.stack.log_path.read_text())

    def found() -> set[str]:
        new = system.stack.log_path.read_text()[before:]
        known = ("gone", "invalid", "disabled", "tokens_expired", "scope_lost", "account_lost", "unreadable")
        events = [line for line in new.splitlines() if "work_withheld" in line]
        return {reason for reason in known if any(reason in line for line in events)}

    return found


def ended(system: Deployed, request_id: str) -> list[dict[str, Any]]:
    return list(system.ended(system.get(f"/v1/releases/{request_id}"))["results"])


def test_what_a_revoked_client_asked_for_waits_until_the_client_is_back(system: Deployed) -> None:
    refuse_for(system, 10)
    mails = {name: held_mail(system, "MALICIOUS" if name == "override" else "SPAM") for name in LOST}
    shared = held_mail(system)
    own = queue(system, "fine", shared)
    requests = {
        name: queue(system, name, mails[name], shared, override=name == "override", reason="reported") for name in LOST
    }

    told = reasons(system)
    put_clients(
        system,
        gone=None,
        invalid={"max_ids": 0},
        disabled={"disabled": True},
        expired={"token_members": {"expires_at": "2026-01-01T00:00:00Z"}},
        scope={"scopes": ["read", "override"]},
        account={"accounts": [ELSEWHERE]},
        override={"scopes": ["release", "read"]},
    )
    delivered = accept_again(system)
    (result,) = ended(system, own)
    assert result["outcome"] == "released"
    wait_until(lambda: len(told()) == 6 or delivered != [shared])
    assert delivered == [shared]
    assert told() == {"gone", "invalid", "disabled", "tokens_expired", "scope_lost", "account_lost"}
    open_now = [system.get(f"/v1/releases/{each}").json()["outcome"] for each in requests.values()]
    assert open_now == ["pending"] * len(LOST)

    put_clients(system)
    for name, request_id in requests.items():
        assert [one["outcome"] for one in ended(system, request_id)] == ["released", "already_released"], name
    assert sorted(delivered) == sorted([shared, *mails.values()])


def test_a_policy_that_was_tightened_meanwhile_holds_for_queued_work(system: Deployed) -> None:
    refuse_for(system, 8)
    spam, bulk = held_mail(system), held_mail(system, "BULK")
    request_id = queue(system, "tightened", spam, bulk)
    put_clients(system, tightened={"policy": {"dispositions": ["BULK"]}})
    delivered = accept_again(system)
    results = ended(system, request_id)
    assert [(one["outcome"], one["code"]) for one in results] == [
        ("denied", "disposition_not_allowed"),
        ("released", None),
    ]
    assert delivered == [bulk]


def test_nothing_leaves_the_queue_while_the_clients_secret_cannot_be_read(system: Deployed) -> None:
    refuse_for(system, 8)
    request_id = queue(system, "unlucky", held_mail(system))
    told = reasons(system)
    system.put_secret("CLIENTS_SECRET_ID", "this is no JSON")
    delivered = accept_again(system)
    wait_until(lambda: bool(told() or delivered))
    assert delivered == []
    assert told() == {"unreadable"}
    put_clients(system)
    assert [one["outcome"] for one in ended(system, request_id)] == ["released"]


def test_a_disabled_client_is_not_let_in(system: Deployed) -> None:
    for is_disabled, status in ((False, 200), (True, 401), (False, 200)):
        put_clients(system, **{"switched-off": {"disabled": is_disabled}})
        time.sleep(2 * CACHE_SECONDS)
        answer = system.get("/v1/health", Authorization=authorization("switched-off"))
        assert answer.status_code == status
