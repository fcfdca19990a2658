"""What the search tells of a message: when to look for it, which entries are its own, and what they prove."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import pairwise, permutations
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from quarantine_release.cloudflare.entries import RELEASE, agree, dicts, id_of, judge, match
from quarantine_release.cloudflare.windows import Window, windows_of
from quarantine_release.domain.ids import MessageId, contradict, is_bare, is_partial, is_undated, postfix_part, time_of
from quarantine_release.domain.verdicts import Reading, Seen
from tests.support.cloudflare_entries import (
    DAY,
    FREED,
    HELD,
    HOUR,
    MINUTE,
    QUARANTINED,
    RELEASED,
    UNCLEAR,
    anything,
    full_id,
    likely,
    queue_id,
    want,
)
from tests.support.shapes import family, message_ids
from tests.support.stand_ins import BARE, FULL, NOON, OK, OTHER

ALERT = MessageId("4Njp3P0STMz2c02Q-2024-01-05T10:00:00")
SIBLING = MessageId("4Njp3P0STMz2c02Q-2024-01-05T10:00:00-87654321")


# --- When a message arrived ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message_id", "at"),
    [
        ("4WtWkr6nlBz9sNH", datetime(2024, 8, 27, 15, 32, 36, tzinfo=UTC)),
        ("4Njp3P0STMz2c02Q", datetime(2022, 12, 30, 1, 44, 49, tzinfo=UTC)),
        ("4WtWkr6nlBz9sNH-2024-08-28T15:32:35", datetime(2024, 8, 28, 15, 32, 35, tzinfo=UTC)),
        ("4Njp3P0STMz2c02Q-2024-01-05T10:00:00-12345678", datetime(2024, 1, 5, 10, tzinfo=UTC)),
    ],
)
def test_the_published_examples_tell_their_time(message_id: str, at: datetime) -> None:
    assert time_of(MessageId(message_id), at + DAY) == at


@given(st.integers(1, 15 * 10**9).map(lambda seconds: datetime.fromtimestamp(seconds, UTC)))
def test_a_long_queue_id_tells_the_second(at: datetime) -> None:
    assert time_of(queue_id(at), at + DAY) == at


@pytest.mark.parametrize(
    "message_id",
    [
        "another.shape-1",
        "4NAp3P0STMz2c02Q",  # a vowel is no digit
        "4_Wkr6nlBz9sNHxx",
        "AAAAAAAAAA",
        f"{BARE}-2026-02-30T10:00:00-1",
        f"{BARE}-2026-11-22T25:00:00-1",
        f"{BARE}-2026-11-22T10:00:00x1",
        f"{BARE}-0001-01-01T00:00:00-1",  # no time to search around: it would begin before there are years
        f"{BARE}-9999-12-31T23:59:59-1",
        f"{BARE}-0000-01-01T00:00:00-1",
        "0000000000",
        "zzzzzzzzzzzz",
    ],
)
def test_nonsense_tells_no_time(message_id: str) -> None:
    assert time_of(MessageId(message_id), NOON) is None
    assert windows_of([want(message_id)], NOON) == []


@pytest.mark.parametrize("make", [queue_id, full_id])
def test_only_times_that_a_search_could_reach_are_believed(make: Any) -> None:
    reachable = [NOON - 366 * DAY + timedelta(seconds=1), NOON, NOON + DAY - timedelta(seconds=1)]
    assert [time_of(make(at), NOON) for at in reachable] == reachable
    assert [time_of(make(at), NOON) for at in (NOON - 366 * DAY, NOON + DAY)] == [None, None]


@pytest.mark.parametrize("message_id", ["AEIOUAEIOU", "3F2B1D4C5D", "zzzzzzzzzz", queue_id(NOON + 2 * DAY)])
def test_a_bare_id_whose_first_characters_are_no_time_is_undated(message_id: str) -> None:
    assert is_undated(MessageId(message_id), NOON)
    assert time_of(MessageId(message_id), NOON) is None


@pytest.mark.parametrize("message_id", ["4Njp3P0STMz2c02Q", queue_id(NOON + HOUR), full_id(NOON), "an:odd.1"])
def test_any_other_id_is_not(message_id: str) -> None:
    assert not is_undated(MessageId(message_id), NOON)


# --- Where to look ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message_id", "around"),
    [(full_id(NOON - 9 * DAY), HOUR), (full_id(NOON - 9 * DAY)[:-9], HOUR), (queue_id(NOON - 9 * DAY), 36 * HOUR)],
    ids=["full", "alert", "bare"],
)
def test_a_message_is_sought_around_its_time(message_id: str, around: timedelta) -> None:
    one = want(message_id)
    assert windows_of([one], NOON) == [Window(NOON - 9 * DAY - around, NOON - 9 * DAY + around, [one])]


def test_no_window_reaches_into_the_future() -> None:
    assert [window.end for window in windows_of([want(queue_id(NOON - HOUR))], NOON)] == [NOON]
    assert [window.end for window in windows_of([want(full_id(NOON + 59 * MINUTE))], NOON)] == [NOON]
    assert windows_of([want(full_id(NOON + HOUR))], NOON) == []


def test_windows_that_are_near_are_one_and_the_latest_comes_first() -> None:
    at = NOON - 20 * DAY
    together = [want(full_id(at + hours * HOUR)) for hours in (0, 1, 3, 11)]
    apart = want(full_id(at + 20 * HOUR))
    within = want(full_id(at + 30 * MINUTE, "2"))
    assert windows_of([*together, apart, within], NOON) == [
        Window(at + 19 * HOUR, at + 21 * HOUR, [apart]),
        Window(at - HOUR, at + 12 * HOUR, [together[0], within, *together[1:]]),
    ]


def test_a_wide_window_swallows_a_narrow_one() -> None:
    wide, narrow = want(queue_id(NOON - 9 * DAY)), want(full_id(NOON - 9 * DAY))
    assert windows_of([narrow, wide], NOON) == [
        Window(NOON - 9 * DAY - 36 * HOUR, NOON - 9 * DAY + 36 * HOUR, [wide, narrow])
    ]


@given(
    st.lists(
        st.builds(
            lambda make, ago: make(NOON - ago),
            st.sampled_from([queue_id, full_id]),
            st.timedeltas(-2 * DAY, 400 * DAY).map(lambda ago: timedelta(seconds=int(ago.total_seconds()))),
        )
        | message_ids
    )
)
@example([MessageId(f"{BARE}-0001-01-01T00:00:00-1"), MessageId(f"{BARE}-9999-12-31T23:59:59")])
def test_windows_are_apart_and_hold_every_message_that_tells_its_time(ids: list[MessageId]) -> None:
    wanted = [want(each) for each in ids]
    windows = windows_of(wanted, NOON)
    assert all(window.start < window.end <= NOON for window in windows)
    assert all(later.start - earlier.end > 6 * HOUR for later, earlier in pairwise(windows))
    placed = {id(one): window for window in windows for one in window.wanted}
    for one in wanted:
        at = time_of(one.message_id, NOON)
        around = 36 * HOUR if is_bare(one.message_id) else HOUR
        if at is None or at - around >= NOON:
            assert id(one) not in placed
        else:
            window = placed[id(one)]
            assert window.start <= at - around < min(at + around, NOON) <= window.end


@pytest.mark.parametrize(
    ("message_id", "expected"), [(BARE, True), (ALERT, True), (FULL, False), ("another.shape-1", False)]
)
def test_a_partial_id_leaves_open_which_message_it_is(message_id: str, expected: bool) -> None:
    assert is_partial(MessageId(message_id)) is expected


# --- Whose an entry is -----------------------------------------------------------------------------------------------


def told(*entries: Mapping[str, Any], of: str = FULL) -> Reading | None:
    """Return what entries show of one message."""
    found = match(entries, [want(of)], OK)
    assert found.keys() <= {BARE}
    return found.get(postfix_part(BARE))


@pytest.mark.parametrize("of", [BARE, ALERT, FULL])
def test_an_entry_is_found_by_its_id_whatever_shape_is_wanted(of: str) -> None:
    assert told({"id": FULL, **FREED}, of=of) == Reading(RELEASED, OK, FULL)
    assert told({"id": FULL, "postfix_id": BARE, **HELD}, of=of) == Reading(QUARANTINED, OK, FULL)


@pytest.mark.parametrize("nothing", [{}, {"id": None}, {"id": ""}, {"id": 7}, {"id": ["x"]}, {"id": "ä" * 20}])
def test_an_entry_without_an_id_is_found_by_its_postfix_id(nothing: Mapping[str, Any]) -> None:
    assert told({**nothing, "postfix_id": BARE, **FREED}) == Reading(RELEASED, OK, BARE)
    assert told({**nothing, "postfix_id": 7, **FREED}) is None
    assert told({**nothing, **FREED}) is None


@pytest.mark.parametrize("given_id", ["a" * 9, "a" * 26, f"{'a' * 26}-2024-01-05T10:00:00-1"])
def test_an_id_whose_message_could_have_two_keys_makes_an_entry_unreadable(given_id: str) -> None:
    assert id_of({"id": given_id, "postfix_id": BARE}) is None
    assert id_of({"postfix_id": given_id}) is None
    assert id_of({"id": "short", "postfix_id": BARE}) == BARE


def test_a_postfix_id_never_overrules_an_id() -> None:
    assert told({"id": "4WtWkr6nlBz9sNH-2024-08-28T15:32:35-1", "postfix_id": BARE, **FREED}) is None


@pytest.mark.parametrize("other", [SIBLING, OTHER, "4Njp3P0STMz2c02Q-2024-01-05T10:00:01-12345678", "another.shape-1"])
def test_what_tells_another_message_is_not_believed(other: str) -> None:
    assert told({"id": other, **FREED}) is None
    assert told({"id": other, **FREED}, {"id": FULL, **HELD}) == Reading(QUARANTINED, OK, FULL)


@pytest.mark.parametrize("of", [BARE, ALERT])
def test_of_two_messages_that_go_by_one_partial_id_nothing_is_said(of: str) -> None:
    """Also when a released message is processed again, and comes up a second time."""
    again = {"id": SIBLING, "is_quarantined": False, "properties": {"allowlisted_pattern_type": "quarantine_release"}}
    for entries in permutations([{"id": FULL, **FREED}, again, {"id": FULL, **FREED}]):
        assert told(*entries, of=of) == Reading(UNCLEAR, OK, None)
    assert told({"id": FULL, **HELD}, {"id": SIBLING, **HELD}, of=of) == Reading(UNCLEAR, OK, None)


def test_a_full_id_is_not_confused_by_what_else_goes_by_its_postfix_id() -> None:
    assert told({"id": SIBLING, **HELD}, {"id": FULL, **FREED}, {"id": OTHER, **HELD}) == Reading(RELEASED, OK, FULL)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (HELD, HELD, QUARANTINED),
        (FREED, FREED, RELEASED),
        (FREED, HELD, UNCLEAR),
        (FREED, {}, UNCLEAR),
        (HELD, {}, UNCLEAR),
        ({}, {}, UNCLEAR),
    ],
)
def test_rows_of_one_message_that_differ_show_nothing_clear(
    first: Mapping[str, Any], second: Mapping[str, Any], expected: Seen
) -> None:
    one, other = {"id": FULL, **first}, {"id": FULL, **second}
    assert told(one, other) == told(other, one) == Reading(expected, OK, FULL)


readings = st.builds(Reading, st.sampled_from([RELEASED, QUARANTINED, UNCLEAR]), st.just(OK), family)


@given(st.lists(readings, min_size=1, max_size=4))
def test_in_which_order_entries_come_makes_no_difference(several: list[Reading]) -> None:
    def together(order: tuple[Reading, ...]) -> Reading:
        reading = order[0]
        for other in order[1:]:
            reading = agree(reading, other)
        return reading

    assert len({together(order) for order in permutations(several)}) == 1


DEEP: list[Any] = []
for _ in range(500):
    DEEP = [DEEP]


# --- What an entry shows ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"delivery_status": ["quarantined"]},
        {"post_delivery_operations": ["PREVIEW", RELEASE, "MOVE"]},
        {"properties": {"allowlisted_pattern_type": "quarantine_release"}},
    ],
)
def test_the_operation_proves_the_release_of_a_message_that_is_no_longer_held(more: Mapping[str, Any]) -> None:
    assert judge({"post_delivery_operations": [RELEASE], "is_quarantined": False, **more}) is RELEASED


@pytest.mark.parametrize("held", [True, None, 0, "false", []])
def test_a_listed_operation_proves_nothing_while_the_message_may_be_held(held: object) -> None:
    assert judge({"post_delivery_operations": [RELEASE], "is_quarantined": held}) is UNCLEAR
    assert judge({"post_delivery_operations": [RELEASE]}) is UNCLEAR


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"post_delivery_operations": []},
        {"post_delivery_operations": None},
        {"post_delivery_operations": ["PREVIEW", "SUBMISSION"]},
        {"delivery_status": ["quarantined"]},
        {"delivery_status": "quarantined"},
        {"delivery_status": ["queued", "quarantined"]},
        {"delivery_status": []},
        {"delivery_status": None},
        {"properties": {"allowlisted_pattern_type": "acceptable_sender"}},
        {"properties": None},
        {"action_log": []},
        {"action_log": None},
        {"action_log": [{"operation": "MOVE"}, "PREVIEW", None]},
        {
            "subject": "RELEASE",
            "from": "release@example.net",
            "properties": {"allowlisted_pattern": "releases@x.example"},
        },
        {"is_released": False, "released_at": None, "quarantine_release": ""},
    ],
)
def test_quarantined_is_what_says_so_and_bears_no_trace_of_a_release(more: Mapping[str, Any]) -> None:
    assert judge({"is_quarantined": True, **more}) is QUARANTINED
    assert judge({"is_quarantined": False, **more}) is UNCLEAR


@pytest.mark.parametrize("claim", [None, 1, "true", "quarantined", [True], {}])
def test_only_true_is_quarantined(claim: object) -> None:
    assert judge({"is_quarantined": claim, "delivery_status": ["quarantined"]}) is UNCLEAR
    assert judge({"delivery_status": ["quarantined"]}) is UNCLEAR


@pytest.mark.parametrize(
    "trace",
    [
        {"delivery_status": ["delivered"]},
        {"delivery_status": "delivered"},
        {"delivery_status": ["quarantined", "delivered"]},
        {"delivery_status": ["moved"]},
        {"delivery_status": [None]},
        {"delivery_status": {"quarantined": True}},
        {"properties": {"allowlisted_pattern_type": "quarantine_release"}},
        {"action_log": [{"operation": "RELEASE"}]},
        {"action_log": [{"operation": "MOVE"}, {"operation": RELEASE, "success": False}]},
        {"action_log": {"operation": RELEASE}},
        {"action_log": [{"operation": "MOVE"}, "RELEASE", None]},
        *({"post_delivery_operations": each} for each in (RELEASE, "RELEASE", {RELEASE: 1}, [[RELEASE]])),
        *({"post_delivery_operations": [each]} for each in ("QUARANTINE_RELEASED", "quarantineRelease", "Released")),
        {"post_delivery_operations": [{"operation": "quarantine release", "success": False}]},
        {"properties": {"whitelisted_pattern_type": "QUARANTINE-RELEASE"}},
        {"properties": {"quarantine_release": True}},
        {"postDeliveryOperations": [RELEASE]},
        {"message_action": "QUARANTINE_RELEASED"},
        {"released_at": "2026-11-22T12:00:00Z"},
        {"is_released": True},
        {"delivery_status": ["quarantined", "DELIVERED"]},
        {"post_delivery_operations": DEEP},
    ],
)
def test_a_trace_of_a_release_forbids_to_say_still_quarantined(trace: Mapping[str, Any]) -> None:
    assert judge({"is_quarantined": True, **trace}) is UNCLEAR


@pytest.mark.parametrize(
    "operations", [RELEASE, {RELEASE: 1}, "QUARANTINE_RELEASED", ["QUARANTINE_RELEASED"], [[RELEASE]]]
)
def test_what_only_resembles_the_proof_is_none(operations: object) -> None:
    assert judge({"post_delivery_operations": operations, "is_quarantined": False}) is UNCLEAR


# --- Whatever Cloudflare sends ---------------------------------------------------------------------------------------


@given(anything | st.lists(likely | anything, max_size=5), st.sampled_from([BARE, ALERT, FULL, OTHER]))
def test_whatever_is_listed_nothing_is_raised_and_nothing_claimed_without_its_proof(result: Any, of: MessageId) -> None:
    for part, reading in match(dicts(result), [want(of)], OK).items():
        assert part == postfix_part(of)
        listed = result if isinstance(result, list) else [result]
        own = [each for each in listed if isinstance(each, dict) and id_of(each) == reading.message_id is not None]
        if reading.seen is RELEASED:
            assert any(
                isinstance(each.get("post_delivery_operations"), list) and RELEASE in each["post_delivery_operations"]
                for each in own
            )
            assert all(each["is_quarantined"] is False for each in own)
        if reading.seen is QUARANTINED:
            assert own
            assert all(each["is_quarantined"] is True for each in own)
        if reading.message_id is not None:
            assert not contradict(reading.message_id, of)
