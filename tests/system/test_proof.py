"""What proves a release, over HTTP: a listed operation of a held message does not, its action log does."""

import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest

from tests.support.scripted_cloudflare import Deployed, Row, action, deployed, row

pytestmark = pytest.mark.slow

LISTED: Mapping[str, Any] = {"post_delivery_operations": ["QUARANTINE_RELEASE"]}
GONE: Mapping[str, Any] = {**LISTED, "is_quarantined": False, "delivery_status": ["delivered"]}
FRESH = count()
FAILED = action(success=False)
# Each of these, beside "still quarantined", may mean that the message was released.
TRACES: tuple[Mapping[str, Any], ...] = (
    {"post_delivery_operations": "QUARANTINE_RELEASE"},
    {"post_delivery_operations": "quarantineRelease"},
    {"post_delivery_operations": ["QUARANTINE_RELEASED"]},
    {"post_delivery_operations": ["quarantineRelease"]},
    {"post_delivery_operations": ["PREVIEW", "RELEASE"]},
    {"post_delivery_operations": ["quarantine-release"]},
    {"post_delivery_operations": {"QUARANTINE_RELEASE": 1}},
    {"post_delivery_operations": [{"operation": "Quarantine Release"}]},
    {"properties": {"allowlisted_pattern_type": "QUARANTINE_RELEASE"}},
    {"properties": {"whitelisted_pattern_type": "quarantine_release"}},
    {"properties": [{"allowlisted_pattern_type": ["quarantineRelease"]}]},
    {"action_log": [{"operation": "quarantineRelease", "success": True}]},
    {"action_log": ["QUARANTINE_RELEASED"]},
    {"message_action": "QUARANTINE_RELEASED"},
    {"delivery_status": ["quarantined", "DELIVERED"]},
    {"events": [{"operation": "QUARANTINE_RELEASE"}]},
    {"quarantine": {"state": "released"}},
    {"destination": "Released"},
)


@pytest.fixture(scope="module")
def system() -> Iterator[Deployed]:
    shortened = {"LEASE_SECONDS": "2", "SETTLE_SECONDS": "1", "BUDGET_INLINE_CALLS": "800"}
    with deployed(shortened) as running:
        yield running


@pytest.fixture(autouse=True)
def _fresh(system: Deployed) -> None:
    """Begin with a call that works: three that do not, in a row, would pause all calls."""
    system.cloudflare.reset()
    full = investigate_id(f"kFresh{next(FRESH):04}nB")
    system.cloudflare.rows = [row(full)]
    assert [outcome(each) for each in system.results([full])] == [("released", None)]
    system.cloudflare.reset()


def investigate_id(name: str, *, days: float = 2.0, digits: int = 10_000_000) -> str:
    at = datetime.now(UTC) - timedelta(days=days)
    return f"4Wt{name}-{at:%Y-%m-%dT%H:%M:%S}-{digits}"


def loses_answer(
    system: Deployed, after: list[Row], status: int = 500, logs: Mapping[str, list[Row]] | None = None
) -> None:
    """Hold the messages; the first release call gets no answer and leaves these rows and logs. Later calls work."""
    cloudflare = system.cloudflare
    cloudflare.rows = [row(each["id"]) for each in after]

    def release(ids: list[str]) -> list[Row] | int:
        if len(cloudflare.releases) > 1:
            return [{"id": each, "delivered": ["ann@example.com"]} for each in ids]
        cloudflare.rows, cloudflare.logs = after, dict(logs or {})
        return status

    cloudflare.on_release = release


def outcome(result: Mapping[str, Any]) -> tuple[str, str | None]:
    return result["outcome"], result["code"]


# --- After a call ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [500, 504])
def test_a_failed_release_is_never_reported_as_released(system: Deployed, status: int) -> None:
    full = investigate_id(f"kFai1{status}nB")
    loses_answer(system, [row(full, **LISTED)], status, {full: [FAILED]})
    (result,) = system.results([full])
    assert outcome(result) == ("needs_review", "unsettled")
    assert system.cloudflare.released(full) == 1


def test_a_logged_success_ends_a_held_message_without_another_call(system: Deployed) -> None:
    ids = [investigate_id(f"kWorked{each}nBz") for each in "abc"]
    loses_answer(system, [row(full) for full in ids], logs={full: [FAILED, action()] for full in ids})
    assert [outcome(each) for each in system.results(ids)] == [("released", None)] * 3
    assert [system.cloudflare.released(each) for each in ids] == [1, 1, 1]
    assert any("/action_log" in read for read in system.cloudflare.reads)


def test_a_logged_success_for_one_recipient_is_a_partial_release(system: Deployed) -> None:
    full = investigate_id("kPartia1nBz")
    log = [
        action(properties={"recipient": "ann@example.com"}),
        action(success=False, properties={"recipient": "bob@example.com"}),
    ]
    loses_answer(system, [row(full, **LISTED)], logs={full: log})
    (result,) = system.results([full])
    assert outcome(result) == ("partially_released", "partly_delivered")
    assert (result["delivered"], result["failed"]) == (["ann@example.com"], ["bob@example.com"])
    assert system.cloudflare.released(full) == 1


def test_a_success_on_a_later_page_of_the_log_counts(system: Deployed) -> None:
    full = investigate_id("kPaged11nBz")
    loses_answer(system, [row(full)], logs={full: [action(operation="PREVIEW"), FAILED, action()]})
    system.cloudflare.page_size = 1
    (result,) = system.results([full])
    assert outcome(result) == ("released", None)
    assert system.cloudflare.released(full) == 1


def test_a_full_page_of_the_log_that_is_told_twice_frees_nothing(system: Deployed) -> None:
    """Such a server does not know `page`, so what comes after the first page is not known."""
    full = investigate_id("kRepeat1nBz")
    loses_answer(system, [row(full)], logs={full: [action(operation="PREVIEW")] * 20 + [action()]})
    system.cloudflare.knows_pages = False
    request_id = system.post([full]).json()["request_id"]
    time.sleep(8)  # lease and settle time are over after three
    (result,) = system.get(f"/v1/releases/{request_id}").json()["results"]
    assert outcome(result) == ("unconfirmed", "unclear_answer")
    assert system.cloudflare.released(full) == 1


def test_in_a_pack_each_message_is_settled_by_its_own_log(system: Deployed) -> None:
    failed, worked, gone, held = (investigate_id(f"kPack{each}nBz") for each in ("Fai1d", "Workd", "Gone1", "He1d1"))
    rows = [row(failed, **LISTED), row(worked, **LISTED), row(gone, **GONE), row(held)]
    loses_answer(system, rows, logs={failed: [FAILED], worked: [action()], gone: [action()]})
    results = system.results([failed, worked, gone, held])
    assert [outcome(each) for each in results] == [
        ("needs_review", "unsettled"),
        ("released", None),
        ("released", None),
        ("released", None),
    ]
    assert [system.cloudflare.released(each) for each in (failed, worked, gone, held)] == [1, 1, 1, 2]


def test_a_list_alone_does_not_free_a_held_message(system: Deployed) -> None:
    ids = [investigate_id(f"kList{each}1nBz") for each in "abcd"]
    loses_answer(system, [row(each) for each in ids], logs={ids[0]: [FAILED], ids[1]: [action()]})
    results = system.results(ids)
    assert [outcome(each)[0] for each in results] == ["needs_review", "released", "released", "released"]
    assert [system.cloudflare.released(each) for each in ids] == [1, 1, 2, 2]


def test_rows_that_contradict_each_other_prove_no_release(system: Deployed) -> None:
    ids = [investigate_id(f"kRows{each}1nBz") for each in "abc"]
    rows = [each for full in ids for each in (row(full, **GONE), row(full))]
    loses_answer(system, rows, logs={full: [FAILED] for full in ids})
    assert {outcome(each) for each in system.results(ids)} == {("needs_review", "unsettled")}
    assert [system.cloudflare.released(each) for each in ids] == [1, 1, 1]


@pytest.mark.parametrize("pack", [TRACES, TRACES[:1], TRACES[9:10]], ids=["many", "text", "property"])
def test_a_trace_of_a_release_never_frees_a_held_message(system: Deployed, pack: tuple[Mapping[str, Any], ...]) -> None:
    ids = [investigate_id(f"kTrace{len(pack):02}{number:02}z") for number in range(len(pack))]
    if len(pack) == 1:
        ids = [investigate_id(f"kTraceOne{TRACES.index(pack[0]):02}z")]
    loses_answer(system, [row(full, **trace) for full, trace in zip(ids, pack, strict=True)])
    results = dict(zip(ids, system.results(ids), strict=True))
    assert {full: outcome(each) for full, each in results.items()} == dict.fromkeys(ids, ("needs_review", "unsettled"))
    assert [system.cloudflare.released(each) for each in ids] == [1] * len(ids)


def test_a_held_message_with_a_failed_release_is_not_confirmed(system: Deployed) -> None:
    full = investigate_id("kProof11nBz")
    system.cloudflare.rows = [row(full)]

    def release(ids: list[str]) -> list[Row]:
        system.cloudflare.rows, system.cloudflare.logs = [row(full, **LISTED)], {full: [FAILED]}
        return [{"id": each, "delivered": ["ann@example.com"]} for each in ids]

    system.cloudflare.on_release = release
    (result,) = system.results({"ids": [full], "confirm": True})
    assert outcome(result) == ("released", None)
    assert result["confirmed_at"] is None


@pytest.mark.parametrize("told", [{"delivered": [""]}, {"delivered": [" "]}, {"success": False}], ids=str)
def test_an_answer_that_contradicts_itself_proves_no_release(system: Deployed, told: Mapping[str, Any]) -> None:
    full = investigate_id(f"kOddAns{len(str(told))}nBz")
    system.cloudflare.rows = [row(full)]

    def release(ids: list[str]) -> list[Row]:
        system.cloudflare.rows = [row(full, **GONE)]
        return [{"id": each, "delivered": ["ann@example.com"], **told} for each in ids]

    system.cloudflare.on_release = release
    answer = system.post([full])
    assert answer.status_code == 202
    assert outcome(answer.json()["results"][0]) == ("unconfirmed", "unclear_answer")
    assert outcome(system.ended(answer)["results"][0]) == ("released", None)
    assert system.cloudflare.released(full) == 1


# --- Before a call ---------------------------------------------------------------------------------------------------


OUT = ("not_quarantined", "already_delivered")
UNREADABLE = ("denied", "guard_unavailable")
ODD: Mapping[str, Any] = {"post_delivery_operations": "quarantineRelease"}
PARTLY = [action(recipient="ann@example.com"), action(success=False, recipient="bob@example.com")]
BEFORE: Mapping[str, tuple[Mapping[str, Any], list[Row], tuple[str, str]]] = {
    "failed": (LISTED, [FAILED], UNREADABLE),
    "nothing": (LISTED, [], UNREADABLE),
    "unknown": (ODD, [action(success=None)], UNREADABLE),
    "worked": (ODD, [FAILED, action()], OUT),
    "partly": (ODD, PARTLY, OUT),
    "paged": ({"properties": {"whitelisted_pattern_type": "quarantine_release"}}, [FAILED] * 25 + [action()], OUT),
}


def show(system: Deployed, name: str, tag: str) -> tuple[str, tuple[str, str]]:
    trace, log, expected = BEFORE[name]
    full = investigate_id(f"k{tag}{name}zz")
    system.cloudflare.rows.append(row(full, **trace))
    system.cloudflare.logs[full] = log
    return full, expected


@pytest.mark.parametrize("name", BEFORE)
def test_the_guard_reads_the_log_of_a_held_message_that_may_be_out_already(system: Deployed, name: str) -> None:
    full, expected = show(system, name, "One")
    (dry,) = system.results({"ids": [full], "dry_run": True})
    (result,) = system.results([full])
    header = system.cloudflare.rows[0]["message_id"]
    (by_header,) = system.results([header])
    assert [outcome(each) for each in (dry, result, by_header)] == [expected] * 3
    assert system.cloudflare.releases == []


def test_in_a_pack_the_guard_reads_the_log_of_each_such_message(system: Deployed) -> None:
    shown = [show(system, name, "Pack") for name in BEFORE]
    plain = investigate_id("kB4Plain1zz")
    system.cloudflare.rows.append(row(plain))
    results = system.results([*(full for full, _ in shown), plain])
    assert [outcome(each) for each in results] == [*(expected for _, expected in shown), ("released", None)]
    assert system.cloudflare.releases == [[plain]]


def test_force_releases_a_message_whose_release_failed_before(system: Deployed) -> None:
    full = investigate_id("kB4Force1zz")
    system.cloudflare.rows, system.cloudflare.logs = [row(full, **LISTED)], {full: [FAILED]}
    assert [outcome(each) for each in system.results([full])] == [UNREADABLE]
    body = {"ids": [full], "force": True, "reason": "its release failed, and it is still held"}
    assert [outcome(each) for each in system.results(body, Idempotency_Key="b4-force")] == [("released", None)]
    assert system.cloudflare.releases == [[full]]
