"""The ledger tells the truth about a message: over HTTP, with a scripted Cloudflare behind the whole system."""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Event, Lock
from typing import Any

import pytest
import requests

from local.cloudflare_messages import POSTFIX_ALPHABET
from quarantine_release.domain.ids import AccountId, MessageId
from quarantine_release.domain.lookup import Question
from quarantine_release.domain.request_options import ANY
from quarantine_release.ledger.keys import alias_key
from tests.support.scripted_cloudflare import ACCOUNT, Deployed, Row, deployed, row

pytestmark = pytest.mark.slow
PROCESSES = 4
# Below the five seconds that a read may take while its caller waits.
PATIENCE = 3.0
BULK_ONLY, INSIDE, DOMAINS = "token-of-the-client-bulk-only", "token-of-the-client-inside", ["inside.example"]
# So that no test uses up the calls of another.
PLENTY = {"BUDGET_INLINE_CALLS": "5000", "BUDGET_CALLS": "9000"}
DONE = {"is_quarantined": False, "delivery_status": ["delivered"]}


@pytest.fixture(scope="module")
def system() -> Iterator[Deployed]:
    with deployed(PLENTY, processes=PROCESSES) as running:
        running.clients(
            {
                "name": "bulk-only",
                "token": BULK_ONLY,
                "scopes": ["release", "read"],
                "policy": {"dispositions": ["BULK"]},
            },
            {
                "name": "inside",
                "token": INSIDE,
                "scopes": ["release", "read"],
                "policy": {"recipient_domains": DOMAINS},
            },
        )
        yield running


@pytest.fixture(autouse=True)
def _fresh(system: Deployed) -> None:
    system.cloudflare.reset()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(40) as threads:
        yield threads


def investigate_id(name: str, *, days: float = 2.0, digits: int = 10_000_000) -> str:
    """Return the id of a mail that arrived so many days ago, as its Postfix id tells too, which `name` completes."""
    at = datetime.now(UTC) - timedelta(days=days)
    seconds, encoded = int(at.timestamp()), ""
    while seconds:
        seconds, digit = divmod(seconds, len(POSTFIX_ALPHABET))
        encoded = POSTFIX_ALPHABET[digit] + encoded
    return f"{encoded}{name}-{at:%Y-%m-%dT%H:%M:%S}-{digits}"


def shows_the_effect_early(system: Deployed) -> Event:
    """Have each release visible in the search 0.3 s before its call is answered; return when there was one."""
    visible = Event()

    def on_release(ids: list[str]) -> list[Row]:
        for each in system.cloudflare.rows:
            each.update(DONE)
        visible.set()
        time.sleep(0.3)
        return [{"id": each, "delivered": ["ann@example.com"]} for each in ids]

    system.cloudflare.on_release = on_release
    return visible


def outcomes(results: list[dict[str, Any]]) -> list[tuple[str, str | None]]:
    return [(result["outcome"], result["code"]) for result in results]


# --- A release by somebody else, seen before the ledger is asked


def test_of_thirty_parallel_requests_one_is_released_and_none_is_told_otherwise(
    system: Deployed, pool: ThreadPoolExecutor
) -> None:
    full = investigate_id("kTh1rtyAtOnce")
    system.cloudflare.rows = [row(full)]
    visible, lock, seen = shows_the_effect_early(system), Lock(), []

    def on_read(target: str) -> None:
        """Let every process read the ledger first, one go on, and the others see what that one did."""
        with lock:
            seen.append(target)
            number = len(seen)
        until = time.monotonic() + PATIENCE
        if number == 1:
            while len(seen) < PROCESSES and time.monotonic() < until:
                time.sleep(0.01)
        else:
            visible.wait(PATIENCE)

    system.cloudflare.on_read = on_read
    answers = list(pool.map(lambda _: system.post([full]), range(30)))
    assert {answer.status_code for answer in answers} <= {200, 202}
    first = [answer.json()["results"][0]["outcome"] for answer in answers]
    assert set(first) <= {"released", "already_released", "in_progress"}
    last = [system.ended(answer)["results"][0]["outcome"] for answer in answers]
    assert sorted(last) == ["already_released"] * 29 + ["released"]
    assert system.cloudflare.released(full) == 1


def overtaken(system: Deployed, pool: ThreadPoolExecutor, full: str, body: Any, **headers: str) -> requests.Response:
    """Post; while Cloudflare is read for it, have another client release the message; return the first answer."""
    visible, arrived = shows_the_effect_early(system), Event()

    def on_read(_: str) -> None:
        if not arrived.is_set():
            arrived.set()
            visible.wait(PATIENCE)

    system.cloudflare.on_read = on_read
    asking: Future[requests.Response] = pool.submit(system.post, body, **headers)
    assert arrived.wait(60)
    assert system.results([full])[0]["outcome"] == "released"
    return asking.result()


@pytest.mark.parametrize("shape", ["id", "alert_id", "postfix_id", "message_id"])
@pytest.mark.parametrize("how", ["inline", "worker", "dry run"])
def test_a_release_that_overtakes_the_read_decides(
    system: Deployed, pool: ThreadPoolExecutor, how: str, shape: str
) -> None:
    full = investigate_id(f"{shape}{how}".translate(str.maketrans("", "", " _")))
    message = row(full)
    given = full if shape == "id" else message[shape]
    system.cloudflare.rows = [message]
    if shape == "message_id":  # what it means is known from now on, so that the message itself is read
        system.results({"ids": [given], "dry_run": True})
    headers = {"Prefer": "respond-async"} if how == "worker" else {}
    answer = overtaken(system, pool, full, {"ids": [given], "dry_run": how == "dry run"}, **headers)
    assert outcomes(system.ended(answer)["results"]) == [("already_released", None)]
    assert system.cloudflare.released(full) == 1


# --- What was true once


def alias_key_of(header: str) -> str:
    """Return the key under which the ledger keeps what a Message-ID was found to mean."""
    return alias_key(AccountId(ACCOUNT), Question(MessageId(header), ANY, datetime.now(UTC)).text)


def grow_old(system: Deployed, key: str, *names: str) -> None:
    """Have a row of the ledger look as if it was written ten minutes ago."""
    item = system.item(key)
    assert item, key
    for name in names:
        if name in item:
            item[name] = {"N": str(int(item[name]["N"]) - 600_000)}
    system.put_item(item)


def message_ended_long_ago(system: Deployed, full: str) -> None:
    """Release a message, and have its end look old."""
    assert outcomes(system.results([full])) == [("released", None)]
    grow_old(system, f"M#{ACCOUNT}#{full.partition('-')[0]}", "updated_at")


@pytest.mark.parametrize("kept_by", ["this version", "4c3b95d"])
def test_a_second_mail_under_a_message_id_is_not_told_as_released(system: Deployed, kept_by: str) -> None:
    name = f"kSecond{kept_by[:4]}"
    first, second = investigate_id(f"{name}1"), investigate_id(f"{name}2", days=0.5)
    header = f"<{kept_by.replace(' ', '.')}@example.net>"
    system.cloudflare.rows = [row(first, message_id=header)]
    assert outcomes(system.results([header])) == [("released", None)]
    system.cloudflare.rows[0].update(DONE)
    grow_old(system, alias_key_of(header), "kept_at")
    if kept_by == "4c3b95d":  # which kept them for a day, and did not write down since when
        item = system.item(alias_key_of(header))
        system.put_item({name: value for name, value in item.items() if name != "kept_at"})
    assert outcomes(system.results([header])) == [("already_released", None)]
    grow_old(system, alias_key_of(header), "kept_at")
    system.cloudflare.rows.append(row(second, message_id=header))
    (result,) = system.results([header])
    assert (result["outcome"], result["code"]) == ("ambiguous", "several_matches")
    assert {each["id"] for each in result["candidates"]} == {first, second}


def test_whoever_expects_one_message_has_them_counted(system: Deployed) -> None:
    first, second, header = investigate_id("kCounted001"), investigate_id("kCounted002"), "<counted@example.net>"
    system.cloudflare.rows = [row(first, message_id=header)]
    assert outcomes(system.results({"ids": [header], "expect_count": 1})) == [("released", None)]
    system.cloudflare.rows.append(row(second, message_id=header))
    assert outcomes(system.results({"ids": [header], "expect_count": 1})) == [("ambiguous", "count_differs")]


@pytest.mark.parametrize("how", ["inline", "forced", "dry run", "worker"])
def test_a_postfix_id_that_was_used_again_is_ambiguous(system: Deployed, how: str) -> None:
    name = f"kUsed{how.replace(' ', '')}"
    first, second = investigate_id(name, days=2), investigate_id(name, days=2, digits=77)
    bare = first.partition("-")[0]
    second = second.replace(second.partition("-")[0], bare)
    system.cloudflare.rows = [row(first)]
    message_ended_long_ago(system, first)
    system.cloudflare.rows = [row(second)]
    system.cloudflare.paths[bare] = [row(second)]
    body = {"ids": [bare], "dry_run": how == "dry run", "force": how == "forced", "reason": "a test"}
    headers = {"forced": {"Idempotency_Key": name}, "worker": {"Prefer": "respond-async"}}.get(how, {})
    (result,) = system.results(body, **headers)
    assert (result["outcome"], result["code"]) == ("ambiguous", "several_matches")
    assert [each["id"] for each in result["candidates"]] == [first, second]
    assert [each["is_quarantined"] for each in result["candidates"]] == [False, True]
    assert system.cloudflare.releases == [[first]]


@pytest.mark.parametrize("how", ["inline", "worker"])
def test_an_alert_id_that_two_messages_go_by_is_ambiguous_though_one_was_released(system: Deployed, how: str) -> None:
    first = investigate_id(f"kAlert{how}")
    alert = first.rpartition("-")[0]
    system.cloudflare.rows = [row(first)]
    message_ended_long_ago(system, first)
    system.cloudflare.rows = [row(first, **DONE)]
    headers = {"Prefer": "respond-async"} if how == "worker" else {}
    assert outcomes(system.results([alert], **headers)) == [("already_released", None)]
    system.cloudflare.rows.append(row(f"{alert}-77"))
    (result,) = system.results([alert], **headers)
    assert (result["outcome"], result["code"]) == ("ambiguous", "several_matches")
    assert [each["id"] for each in result["candidates"]] == [first, f"{alert}-77"]
    assert system.cloudflare.releases == [[first]]


def test_the_ledgers_answer_stands_for_a_postfix_id_that_cannot_be_read(system: Deployed) -> None:
    full = investigate_id("kUnreadable1")
    system.cloudflare.rows = [row(full)]
    message_ended_long_ago(system, full)
    bare = full.partition("-")[0]
    for shown in (404, [row(full, **DONE)]):
        system.cloudflare.rows = []
        system.cloudflare.paths = {bare: shown}
        assert outcomes(system.results([bare])) == [("already_released", None)]
        assert outcomes(system.results([bare], Prefer="respond-async")) == [("already_released", None)]


@pytest.mark.parametrize("how", ["inline", "worker"])
def test_a_message_id_of_another_mail_than_the_ledger_knows_is_ambiguous(system: Deployed, how: str) -> None:
    first = investigate_id(f"kNamed{how}")
    second, header = f"{first.rpartition('-')[0]}-77", f"<{how}.named@example.net>"
    system.cloudflare.rows = [row(first, message_id="<other@example.net>")]
    message_ended_long_ago(system, first)
    system.cloudflare.rows = [row(second, message_id=header)]
    headers = {"Prefer": "respond-async"} if how == "worker" else {}
    (result,) = system.results([header], **headers)
    assert (result["outcome"], result["code"], result["resolved_id"]) == ("ambiguous", "several_matches", second)
    assert [each["id"] for each in result["candidates"]] == [first, second]


# --- What was read holds for the bare Postfix id too


def read_before(system: Deployed, name: str, then: str, **members: Any) -> tuple[str, str]:
    """Have a dry run read a message by its full id; then Cloudflare shows only this id, or nothing. Return both ids."""
    full = investigate_id(name)
    message = row(full, **members)
    system.cloudflare.rows = [message]
    system.results({"ids": [full], "dry_run": True})
    system.cloudflare.rows = []
    system.cloudflare.paths = {full: [message]} if then == "full id" else {}
    return full, message["postfix_id"]


@pytest.mark.parametrize("then", ["full id", "nothing"])
@pytest.mark.parametrize("how", ["inline", "worker", "dry run"])
def test_mail_that_was_denied_as_malicious_is_not_released_by_its_postfix_id(
    system: Deployed, how: str, then: str
) -> None:
    full = investigate_id(f"kEvil{how[:3]}{then[:3]}".replace(" ", ""))
    message = row(full, final_disposition="MALICIOUS")
    system.cloudflare.rows = [message]
    assert outcomes(system.results([full])) == [("denied", "disposition_not_allowed")]
    system.cloudflare.rows = []
    system.cloudflare.paths = {full: [message]} if then == "full id" else {}
    headers = {"Prefer": "respond-async"} if how == "worker" else {}
    (result,) = system.results({"ids": [message["postfix_id"]], "dry_run": how == "dry run"}, **headers)
    assert (result["outcome"], result["code"]) == ("denied", "disposition_not_allowed")
    assert result["disposition"] == "MALICIOUS"
    assert system.cloudflare.releases == []


def shown_undecided(how: str, full: str) -> tuple[str, dict[str, Any], list[Row]]:
    """Return an id, more of a request, and rows of malicious mail that the request cannot be about, or not clearly."""
    alert, header = full.rpartition("-")[0], f"<{full[-30:-20]}{how.replace(' ', '')}@example.net>"
    evil = row(full, final_disposition="MALICIOUS", message_id=header)
    doubtful = {"post_delivery_operations": ["QUARANTINE_RELEASE"]}
    return {
        "two by alert id": (alert, {}, [row(f"{alert}-77"), evil]),
        "two by Message-ID": (header, {}, [row(investigate_id("kAnother001"), message_id=header), evil]),
        "another count": (header, {"expect_count": 2}, [evil]),
        "contradictory": (full, {}, [evil, evil | {"is_quarantined": False}]),
        "not clear by Message-ID": (header, {}, [evil, evil | {"is_quarantined": False}]),
        "lacking by Message-ID": (header, {}, [evil, evil | {"is_quarantined": None}]),
        "may be out": (full, {}, [row(full, **doubtful)]),
        "bare id only": (evil["postfix_id"], {}, [evil | {"id": evil["postfix_id"]}]),
    }[how]


@pytest.mark.parametrize("late", [False, True], ids=["inline", "worker"])
@pytest.mark.parametrize(
    "how",
    [
        "two by alert id",
        "two by Message-ID",
        "another count",
        "contradictory",
        "not clear by Message-ID",
        "lacking by Message-ID",
        "may be out",
        "bare id only",
    ],
)
def test_mail_of_which_nobody_knew_whether_it_was_meant_is_not_released_unread_either(
    system: Deployed, how: str, late: bool
) -> None:
    full = investigate_id(f"kDoubt{how[:3].replace(' ', '')}{how[-4:].replace('-', '')}{int(late)}".replace(" ", ""))
    given, members, rows = shown_undecided(how, full)
    headers = {"Prefer": "respond-async"} if late else {}
    system.cloudflare.rows = rows
    assert outcomes(system.results({"ids": [given], **members}, **headers))[0][0] in ("ambiguous", "denied")
    system.cloudflare.rows = []
    bare = full.partition("-")[0]
    expected = "disposition_not_allowed" if how in ("two by Message-ID", "another count", "bare id only") else None
    for body in ({"ids": [bare], "dry_run": True}, {"ids": [bare]}):
        (result,) = system.results(body)
        assert (result["outcome"], result["code"]) == ("denied", expected or "guard_cannot_read")
    assert system.cloudflare.releases == []


@pytest.mark.parametrize(("then", "guard"), [("full id", "passed"), ("nothing", "passed_by_record")])
def test_another_clients_denial_denies_nobody_else(system: Deployed, then: str, guard: str) -> None:
    full, bare = read_before(system, f"kDenied{then[:4]}".replace(" ", ""), then)
    denied = system.results([bare], Authorization=f"Bearer {BULK_ONLY}")
    assert outcomes(denied) == [("denied", "disposition_not_allowed")]
    denied = system.results([bare], Authorization=f"Bearer {INSIDE}")
    assert outcomes(denied) == [("denied", "recipient_not_allowed")]
    (result,) = system.results([bare])
    assert (result["outcome"], result.get("guard")) == ("released", guard)
    assert system.cloudflare.releases == [[full]]


def test_a_client_that_is_held_to_recipients_may_release_by_what_was_read(system: Deployed) -> None:
    full, bare = read_before(system, "kRecipients1", "nothing", client_recipients=["ann@inside.example"])
    (result,) = system.results([bare], Authorization=f"Bearer {INSIDE}")
    assert (result["outcome"], result.get("guard")) == ("released", "passed_by_record")
    assert system.cloudflare.releases == [[full]]


def test_override_passes_what_was_read_before(system: Deployed) -> None:
    full, bare = read_before(system, "kOverridden1", "nothing", final_disposition="MALICIOUS")
    assert outcomes(system.results([bare])) == [("denied", "disposition_not_allowed")]
    (result,) = system.results({"ids": [bare], "override": True, "reason": "a drill"})
    assert (result["outcome"], result.get("guard")) == ("released", "overridden")
    assert system.cloudflare.releases == [[full]]


def test_an_id_that_nobody_has_read_proves_nothing(system: Deployed) -> None:
    bare = investigate_id("kNeverRead01").partition("-")[0]
    (result,) = system.results([bare])
    assert (result["outcome"], result.get("guard")) == ("released", "not_checked")


# --- Dry runs end. Last, because what Cloudflare refuses here pauses all calls for some seconds.


def dry_run_beside(
    system: Deployed, pool: ThreadPoolExecutor, full: str
) -> tuple[requests.Response, requests.Response]:
    """Ask for a release that Cloudflare refuses, and for a dry run while the call is under way."""
    system.cloudflare.rows = [row(full)]
    called, looked = Event(), Event()
    refusal = 429 if "429" in full else 403

    def on_release(_: list[str]) -> int:
        called.set()
        looked.wait(8)
        return refusal

    system.cloudflare.on_release = on_release
    asking = pool.submit(system.post, [full])
    assert called.wait(60)
    dry_run = system.post({"ids": [full], "dry_run": True})
    looked.set()
    assert dry_run.status_code == 202
    return asking.result(), dry_run


def test_a_dry_run_ends_when_the_release_that_it_met_is_refused(system: Deployed, pool: ThreadPoolExecutor) -> None:
    full = investigate_id("kDryRefused1")
    refused, dry_run = dry_run_beside(system, pool, full)
    assert refused.status_code == 503
    (result,) = system.ended(dry_run, seconds=15)["results"]
    assert (result["outcome"], result["code"], result["retryable"]) == ("failed", "not_attempted", True)
    assert "again" in result["detail"]
    system.cloudflare.on_release = None
    assert outcomes(system.results({"ids": [full], "dry_run": True})) == [("would_release", None)]


def test_a_dry_run_ends_when_the_release_that_it_met_is_cancelled(system: Deployed, pool: ThreadPoolExecutor) -> None:
    full = investigate_id("kDryCance429")
    given_back, dry_run = dry_run_beside(system, pool, full)
    name = given_back.json()["request_id"]
    assert outcomes(system.post({}, f"/v1/releases/{name}/cancel").json()["results"]) == [("cancelled", None)]
    assert outcomes(system.ended(dry_run, seconds=15)["results"]) == [("failed", "not_attempted")]
