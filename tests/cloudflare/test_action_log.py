"""What an action log proves: a release that worked, for whom, and since when."""

from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarantine_release.cloudflare.action_log import ActionLog, clarify, released, unnamed
from quarantine_release.cloudflare.entries import RELEASE, dicts
from quarantine_release.domain.details import NotRead, NotYetRead, Unreadable
from quarantine_release.domain.verdicts import Evidence, ReadBack, Recipients, Seen
from tests.support.cloudflare_entries import (
    DAY,
    MINUTE,
    QUARANTINED,
    RELEASED,
    UNCLEAR,
    action,
    anything,
    members,
    scalars,
)
from tests.support.stand_ins import FULL, NOON, OK

PARTIAL = Seen.PARTIAL
LOG = Evidence(200, (), "ray of the log")


def has_success(actions: list[dict[str, Any]], since: datetime | None) -> bool:
    reading = released(actions, since)
    return reading is not None and reading.seen is RELEASED


@pytest.mark.parametrize(
    "started_at",
    [
        "2026-11-22T12:00:00Z",
        "2026-11-22T12:00:00.000Z",
        "2026-11-22T12:00:00.123456789Z",
        "2026-11-22T12:00:00+00:00",
        "2026-11-22T12:00:00-00:00",
        "2026-11-22T13:00:00+01:00",
        "2026-11-22T06:30:00-05:30",
        "2026-11-22 12:00:00Z",
        "2027-01-01T00:00:00Z",
        "9999-12-31T23:59:59-23:59",
    ],
)
def test_a_release_counts_from_the_moment_on(started_at: str) -> None:
    assert has_success([action(started_at=started_at)], NOON)


@pytest.mark.parametrize(
    "started_at",
    [
        "2026-11-22T11:59:59Z",
        "2026-11-22T11:59:59.999999999Z",
        "2026-11-22T12:59:59+01:00",
        "2026-11-22T12:00:00",  # without an offset: twelve o'clock where?
        "2026-11-23T12:00:00",
        "2026-11-23",
        "20261123",
        20261123,
        1795348800,
        1795348800000,
        1795348800.5,
        "1795348800",
        "2026-11-22T12:00:60Z",
        "2026-13-22T12:00:00Z",
        "Sun, 22 Nov 2026 12:00:00 GMT",
        "0001-01-01T00:00:00+23:59",
        "",
        "soon",
        None,
        True,
        ["2026-11-22T12:00:00Z"],
        {},
    ],
)
def test_a_release_before_or_at_no_certain_time_counts_only_without_a_moment(started_at: object) -> None:
    assert not has_success([action(started_at=started_at)], NOON)
    assert has_success([action(started_at=started_at)], None)


def test_a_log_without_times_counts_only_without_a_moment() -> None:
    log = [{"operation": RELEASE, "success": True}]
    assert (has_success(log, NOON), has_success(log, None)) == (False, True)


@pytest.mark.parametrize(
    "entry",
    [
        {},
        action(operation="MOVE"),
        action(operation="RELEASE"),
        action(operation=[RELEASE]),
        action(success=False),
        action(success=None),
        action(success=1),
        action(success="true"),
    ],
)
def test_only_a_release_that_worked_is_one(entry: dict[str, Any]) -> None:
    assert not has_success([entry], None)
    assert not has_success([entry], NOON - DAY)
    assert has_success([entry, action(), entry], NOON - DAY)


# --- What it makes of a reading --------------------------------------------------------------------------------------


CHANGED = {seen: ReadBack(seen, LOG, FULL) for seen in Seen}
KEPT = {seen: ReadBack(seen, OK, FULL) for seen in Seen}


def clarified(
    seen: Seen, actions: list[Any], since: datetime | None = None, why: NotRead | None = None
) -> ReadBack | None:
    return clarify(KEPT[seen], ActionLog(tuple(actions), LOG, why), since)


@pytest.mark.parametrize("seen", [RELEASED, QUARANTINED, UNCLEAR])
def test_the_log_proves_a_release_whatever_the_message_shows(seen: Seen) -> None:
    for why in (None, Unreadable.FAILED, Unreadable.TOO_MANY):
        assert clarified(seen, [action()], None, why) == CHANGED[RELEASED]
        assert clarified(seen, [action(success=False), action()], NOON, why) == CHANGED[RELEASED]


@pytest.mark.parametrize("log", [[], [action(operation="MOVE")], [{}]])
def test_a_log_without_a_release_changes_nothing_but_a_release_that_it_does_not_know(log: list[Any]) -> None:
    for why in (None, Unreadable.ABSENT):
        assert clarified(QUARANTINED, log, None, why) == KEPT[QUARANTINED]
        assert clarified(UNCLEAR, log, NOON, why) == KEPT[UNCLEAR]
        assert clarified(RELEASED, log, NOON, why) == CHANGED[UNCLEAR]


@pytest.mark.parametrize(
    "release",
    [
        action(success=False),
        action(success=None),
        {"operation": RELEASE},
        {"operation": "RELEASE"},
        {"operation": "quarantineRelease", "success": False},
        {"operation": ["QUARANTINE_RELEASED"]},
        {"type": "Quarantine release"},
        action(status="FAILED"),
    ],
)
def test_any_other_release_in_the_log_forbids_to_say_still_quarantined(release: dict[str, Any]) -> None:
    for since in (None, NOON):
        assert clarified(QUARANTINED, [release], since) == CHANGED[UNCLEAR]


@pytest.mark.parametrize("why", [Unreadable.FAILED, NotYetRead.NOT_NOW, Unreadable.TOO_MANY])
def test_a_log_that_was_cut_off_proves_only_the_successes_in_it(why: NotRead) -> None:
    for seen in (RELEASED, QUARANTINED, UNCLEAR):
        assert clarified(seen, [], None, why) is None
        assert clarified(seen, [action(success=False)], None, why) is None


def test_a_forced_message_that_was_only_released_before_is_unclear() -> None:
    for seen in (RELEASED, QUARANTINED, UNCLEAR):
        assert clarified(seen, [action()], NOON + MINUTE) == CHANGED[UNCLEAR]


# --- For whom --------------------------------------------------------------------------------------------------------


def of(name: str, *, success: bool | None = True, **more: Any) -> dict[str, Any]:
    return action(success=success, properties={"recipient": name}, **more)


@pytest.mark.parametrize(
    ("actions", "seen", "recipients"),
    [
        ([of("ann"), of("bob")], RELEASED, Recipients.of(["ann", "bob"])),
        ([of("ann"), of("bob", success=False)], PARTIAL, Recipients.of(["ann"], [], ["bob"])),
        ([of("bob", success=None), of("ann")], PARTIAL, Recipients.of(["ann"], ["bob"])),
        ([of("ann", success=False), of("ANN")], RELEASED, Recipients.of(["ANN"])),
        ([of("ann"), of("bob", status="FAILED")], PARTIAL, Recipients.of(["ann"], ["bob"])),
        ([action(), of("bob", success=False)], PARTIAL, Recipients.of([], [], ["bob"])),
        ([action(success=False), of("ann")], PARTIAL, Recipients.of(["ann"])),
        ([action(success=False), action()], RELEASED, Recipients.of()),
        ([of("ann", success=False), of("bob", success=False)], UNCLEAR, Recipients.of()),
        ([of("ann", started_at="2026-11-22T11:59:59Z"), of("bob", success=False)], UNCLEAR, Recipients.of()),
        ([of("ann"), of("bob", success=False, started_at="2026-11-22T11:59:59Z")], RELEASED, Recipients.of(["ann"])),
    ],
)
def test_a_success_for_any_recipient_is_a_release_and_names_those_whom_it_missed(
    actions: list[dict[str, Any]], seen: Seen, recipients: Recipients
) -> None:
    assert released(actions, NOON) == ReadBack(seen, Evidence(), None, recipients)


@pytest.mark.parametrize(
    "where",
    [
        {"recipient": "ann"},
        {"client_recipient": " ann "},
        {"recipients": ["ann", 7, ""]},
        {"client_recipients": ["ann"]},
    ],
)
def test_a_recipient_is_found_in_the_action_and_in_its_properties(where: dict[str, Any]) -> None:
    expected = ReadBack(RELEASED, Evidence(), None, Recipients.of(["ann"]))
    assert released([action(**where)], None) == released([action(properties=where)], None) == expected


def test_a_reading_without_names_keeps_their_number() -> None:
    named = ReadBack(PARTIAL, OK, FULL, Recipients.of(["ann"], [], ["bob"]))
    assert unnamed(named) == ReadBack(PARTIAL, OK, FULL, Recipients(counts=(1, 0, 1)))
    assert unnamed(KEPT[RELEASED]) is KEPT[RELEASED]


# --- Whatever Cloudflare sends ---------------------------------------------------------------------------------------


@given(
    anything | st.lists(st.builds(lambda more: action() | more, st.dictionaries(members, scalars)), max_size=4),
    st.sampled_from([RELEASED, QUARANTINED, UNCLEAR]),
    st.none() | st.just(NOON),
)
def test_whatever_is_logged_nothing_is_raised_and_no_release_claimed_without_its_proof(
    result: Any, seen: Seen, since: datetime | None
) -> None:
    reading = clarified(seen, dicts(result), since)
    assert reading is not None
    logged = result if isinstance(result, list) else [result]
    good = [
        each
        for each in logged
        if isinstance(each, dict) and each.get("operation") == RELEASE and each.get("success") is True
    ]
    if reading.seen in (RELEASED, PARTIAL):
        assert good
        assert since is None or any(str(each.get("started_at")) >= "2026-11-22" for each in good)
    if reading.seen is QUARANTINED:
        assert seen is QUARANTINED
        assert not good
