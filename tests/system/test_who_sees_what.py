"""Who sees what, over HTTP: several clients, two accounts, and entries of clients with misspelt members."""

import os
import signal
from base64 import b32encode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final

import pytest
import requests

from tests.support.scripted_cloudflare import ACCOUNT, Deployed, deployed, row

pytestmark = pytest.mark.slow

OTHER_ACCOUNT: Final = "f" * 32
RECIPIENT: Final = "hidden-ann@example.com"
READS: Final = ["read", "read:all"]
CLIENTS: Final[list[dict[str, Any]]] = [
    {"name": "first", "scopes": ["release", "read"]},
    {"name": "second", "scopes": ["release", "read"]},
    {"name": "auditor", "scopes": READS, "accounts": [ACCOUNT]},
    {"name": "overseer", "scopes": READS},
    {"name": "misspelt-account", "scopes": READS, "account": [ACCOUNT]},
    {"name": "misspelt-size", "scopes": READS, "max-ids": 1},
    {"name": "misspelt-end", "scopes": READS, "token_members": {"expire_at": "2020-01-01T00:00:00Z"}},
    {"name": "described", "scopes": READS, "note": "no limits", "contact": "ann"},
]


@pytest.fixture(scope="module")
def system() -> Iterator[Deployed]:
    with deployed(processes=1) as running:
        running.accounts(OTHER_ACCOUNT)
        running.clients(*({**entry, "token": f"token-of-{entry['name']}"} for entry in CLIENTS))
        yield running


@pytest.fixture(autouse=True)
def _fresh(system: Deployed) -> None:
    system.cloudflare.reset()


def as_(client: str) -> dict[str, str]:
    return {"Authorization": f"Bearer token-of-{client}"}


def held(system: Deployed, name: str, digits: int = 10_000_000, **members: Any) -> str:
    """Put a mail of two days ago into quarantine; `name` completes its Postfix id. Return its investigate id."""
    full = f"4Wt{name}-{datetime.now(UTC) - timedelta(days=2):%Y-%m-%dT%H:%M:%S}-{digits}"
    system.cloudflare.rows.append(row(full, **members))
    return full


def delivers(system: Deployed, **lists: list[str]) -> None:
    system.cloudflare.on_release = lambda ids: [{"id": each, **lists} for each in ids]


def release(system: Deployed, message_id: str, client: str, **members: Any) -> dict[str, Any]:
    answer = system.post({"ids": [message_id], **members}, **as_(client))
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def request_id_of(client: str, key: str) -> str:
    """Compute a request's id as anybody can who knows client and key."""
    digest = sha256(client.encode() + bytes(1) + key.encode()).digest()
    return f"rq_{b32encode(digest).decode().lower()[:26]}"


def read_secrets_again(system: Deployed) -> None:
    """Replace the processes of the webhook, because each keeps its copies for 300 s."""
    for pid in system.stack.pids("webhook"):
        os.kill(pid, signal.SIGKILL)


def status(answer: requests.Response) -> tuple[int, str | None]:
    return answer.status_code, answer.json().get("code")


def test_read_all_ends_at_the_accounts_of_the_client(system: Deployed) -> None:
    full = held(system, "kVis1ain1Bz")
    body = {"ids": [full], "account_id": OTHER_ACCOUNT}
    assert system.post(body, **as_("first"), Idempotency_Key="guess-me").status_code == 200
    guessed = request_id_of("first", "guess-me")
    path = f"/v1/releases/{guessed}"
    assert status(system.get(path, **as_("auditor"))) == (404, "not_found")
    (listed,) = system.get(f"/v1/releases?ids={guessed}", **as_("auditor")).json()["releases"]
    assert (listed.get("code"), "results" in listed) == ("not_found", False)
    assert system.get(path, **as_("overseer")).json()["released_ids"] == [full]


def test_read_all_shows_the_requests_of_the_clients_own_accounts(system: Deployed) -> None:
    asked = release(system, held(system, "kVis2ain1Bz"), "first")
    assert system.get(f"/v1/releases/{asked['request_id']}", **as_("auditor")).json()["ok"] is True


def test_a_client_sees_when_another_released_and_not_to_whom(system: Deployed) -> None:
    full = held(system, "kVis3ain1Bz")
    delivers(system, delivered=[RECIPIENT, "hidden-bob@example.com"])
    first = release(system, full, "first")
    second = release(system, full, "second")
    (result,) = second["results"]
    assert (result["outcome"], second["ok"]) == ("already_released", True)
    assert result["released_by"]["request_id"] is None
    assert result["released_by"]["at"] == result["updated_at"]
    assert (result["delivered"], result["recipient_counts"]["delivered"]) == ([], 2)
    polled = system.get(f"/v1/releases/{second['request_id']}", **as_("second")).text
    for told in (str(second), polled):
        assert "hidden" not in told
        assert first["request_id"] not in told
    assert first["results"][0]["delivered"] == [RECIPIENT, "hidden-bob@example.com"]
    (audited,) = system.get(f"/v1/releases/{second['request_id']}", **as_("overseer")).json()["results"]
    assert audited["released_by"]["request_id"] == first["request_id"]
    assert RECIPIENT in audited["delivered"]


def test_the_trace_shows_neither_recipients_nor_evidence_of_anothers_release(system: Deployed) -> None:
    full = held(system, "kVis4ain1Bz")
    delivers(system, delivered=[RECIPIENT])
    first = release(system, full, "first", reason="hidden reason")
    release(system, full, "second", reason="ours")
    answer = system.get(f"/v1/messages/{full}", **as_("second"))
    trace = answer.json()
    assert "hidden" not in answer.text
    assert first["request_id"] not in answer.text
    assert (trace["state"], trace["released_by"]["request_id"]) == ("RELEASED", None)
    assert (trace["delivered"], trace["evidence"], trace["guard"], trace["disposition"]) == ([], None, None, None)
    assert [each.keys() for each in trace["attempts"]] == [{"state", "sent_at", "ended_at", "verdict"}]
    assert [each["outcome"] for each in trace["requests"]] == ["released", "already_released"]
    for client in ("first", "overseer"):
        shown = system.get(f"/v1/messages/{full}", **as_(client)).json()
        assert (shown["delivered"], shown["evidence"]["status"]) == ([RECIPIENT], 200)
        assert (shown["released_by"]["request_id"], shown["guard"]) == (first["request_id"], "passed")
        assert shown["attempts"][0]["evidence"]["status"] == 200


@pytest.mark.parametrize(
    ("name", "lists", "outcome", "counts"),
    [
        ("kVis5ain1Bz", {"delivered": [RECIPIENT], "failed": ["hidden-bob@example.com"]}, "partially_released", [1, 1]),
        ("kVis6ain1Bz", {"failed": ["hidden-bob@example.com"]}, "failed", [0, 1]),
    ],
)
def test_of_anothers_incomplete_release_a_client_sees_numbers(
    system: Deployed, name: str, lists: dict[str, list[str]], outcome: str, counts: list[int]
) -> None:
    full = held(system, name)
    delivers(system, **lists)
    assert RECIPIENT.partition("-")[0] in str(release(system, full, "first"))
    body = release(system, full, "second")
    (result,) = body["results"]
    assert result["outcome"] == outcome
    assert "hidden" not in str(body)
    assert [result["recipient_counts"][kind] for kind in ("delivered", "failed")] == counts


def test_a_row_of_an_earlier_version_shows_its_recipients_to_the_owner_alone(system: Deployed) -> None:
    full = held(system, "kVis7ain1Bz")
    delivers(system, delivered=[RECIPIENT])
    first = release(system, full, "first")
    item = system.item(f"M#{ACCOUNT}#{full.partition('-')[0]}")
    item.pop("owner_client", None)
    system.put_item(item)
    assert RECIPIENT not in str(release(system, full, "second"))
    assert RECIPIENT in system.get(f"/v1/releases/{first['request_id']}", **as_("first")).text
    assert RECIPIENT in system.get(f"/v1/messages/{full}", **as_("first")).text
    assert RECIPIENT not in system.get(f"/v1/messages/{full}", **as_("second")).text


def test_what_the_guard_has_read_is_shown_to_the_client_it_was_read_for(system: Deployed) -> None:
    full = held(system, "kVis8ain1Bz", final_disposition="MALICIOUS")
    assert release(system, full, "first")["results"][0]["outcome"] == "denied"
    path = f"/v1/messages/{full}"
    assert "MALICIOUS" in system.get(path, **as_("first")).text
    trace = system.get(path, **as_("second"))
    assert "MALICIOUS" not in trace.text
    assert trace.json()["requests"] == [{"at": trace.json()["requests"][0]["at"], "outcome": "denied"}]


@pytest.mark.parametrize("client", ["misspelt-account", "misspelt-size", "misspelt-end"])
def test_a_misspelt_limit_disables_its_client_instead_of_lifting_the_limit(system: Deployed, client: str) -> None:
    assert status(system.get("/v1/health", **as_(client))) == (401, "unauthenticated")
    assert system.get("/v1/health", **as_("described")).status_code == 200


def test_a_misspelt_member_of_the_cloudflare_secret_is_an_error(system: Deployed) -> None:
    system.accounts(OTHER_ACCOUNT, api_tokens="meant-instead")
    read_secrets_again(system)
    try:
        assert status(system.get("/v1/health", **as_("first"))) == (503, "cloudflare_not_configured")
    finally:
        system.accounts(OTHER_ACCOUNT)
        read_secrets_again(system)
    assert system.get("/v1/health", **as_("first")).status_code == 200


def test_a_client_no_longer_sees_its_requests_of_an_account_that_was_taken_from_it(system: Deployed) -> None:
    full = held(system, "kVis9ain1Bz")
    asked = release(system, full, "first", account_id=OTHER_ACCOUNT)
    path = f"/v1/releases/{asked['request_id']}"
    assert system.get(path, **as_("first")).status_code == 200
    limited = [{**entry, "accounts": [ACCOUNT]} if entry["name"] == "first" else entry for entry in CLIENTS]
    system.clients(*({**entry, "token": f"token-of-{entry['name']}"} for entry in limited))
    read_secrets_again(system)
    assert status(system.get(path, **as_("first"))) == (404, "not_found")
    assert status(system.post({}, f"{path}/cancel", **as_("first"))) == (404, "not_found")
    (listed,) = system.get(f"/v1/releases?ids={asked['request_id']}", **as_("first")).json()["releases"]
    assert listed["code"] == "not_found"
    assert system.get(path, **as_("overseer")).status_code == 200
