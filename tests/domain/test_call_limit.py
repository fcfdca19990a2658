"""What an account's row allows: never more than the limit in five minutes, few after a pause, no silence for ever."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarantine_release.domain.call_limit import (
    SLOT_SECONDS,
    AccountRow,
    allowed,
    find_slot,
    is_past,
    pause_after,
    pause_left,
    seconds_to_wait,
    seconds_until_free,
    used,
)
from tests.support.stand_ins import NOON

SLOT = find_slot(NOON)  # noon is where a slot begins
LIMIT = 900


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def counted(calls: Mapping[int, int]) -> AccountRow:
    """Return a row that counts so many calls in slots so far from the one at noon."""
    return AccountRow({SLOT + ago: number for ago, number in calls.items()})


def paused(seconds: float, resumed: int = 0) -> AccountRow:
    """Return a row that is paused until so many seconds after noon."""
    return AccountRow(paused_until=at(seconds), resumed=resumed)


def test_a_slot_is_half_a_minute() -> None:
    assert SLOT_SECONDS == 30
    assert [find_slot(at(seconds)) - SLOT for seconds in (-0.001, 0, 29.999, 30)] == [-1, 0, 0, 1]


def test_calls_count_for_five_minutes_and_at_most_a_minute_longer() -> None:
    """Half a minute for the rest of their slot, half a minute since they are made after they were counted."""
    row = counted({0: 1})
    for made_at in (0, 15, 29.9):
        assert used(row, at(made_at + 300)) == 1
        assert used(row, at(made_at + 301)) == 1
    assert not is_past(SLOT, at(359.999))
    assert is_past(SLOT, at(360))
    assert used(row, at(360)) == 0


def test_an_account_that_nobody_knows_may_call() -> None:
    assert seconds_to_wait(AccountRow(), 1, NOON) == 0
    assert allowed(AccountRow(), LIMIT, NOON) == LIMIT


@pytest.mark.parametrize(
    ("calls", "wait"),
    [
        ({0: 899}, 0),
        ({0: 900}, 360),
        ({0: 2000}, 360),
        ({-11: 900}, 30),
        ({-12: 900}, 0),
        ({-11: 1, -5: 400, 0: 499}, 30),
        ({-11: 1, -5: 400, 0: 500}, 210),  # 901 of 900: that the oldest is past is not enough
        ({-11: 1, -5: 1000, 0: 899}, 210),
        ({-40: 5000, -5: 899}, 0),
    ],
)
def test_who_has_used_up_the_limit_is_silent_until_enough_is_past(calls: dict[int, int], wait: float) -> None:
    assert seconds_to_wait(counted(calls), LIMIT, NOON) == wait


def test_the_wait_ends_no_sooner_than_in_a_second() -> None:
    assert seconds_to_wait(counted({-11: 900}), LIMIT, at(29.9)) == 1


@pytest.mark.parametrize(
    ("calls", "wait"),
    [
        ({}, 0),
        ({0: 870}, 0),
        ({-11: 1, 0: 870}, 30),
        ({-11: 1, -5: 870}, 30),
        ({-11: 1, -5: 2, 0: 870}, 210),
        ({-5: 900}, 210),
    ],
)
def test_the_wait_for_several_calls_ends_when_they_may_be_made(calls: dict[int, int], wait: float) -> None:
    assert seconds_until_free(counted(calls), LIMIT, 30, NOON) == wait
    assert seconds_until_free(replace(counted(calls), paused_until=at(300)), LIMIT, 30, NOON) == 300


@pytest.mark.parametrize("calls", [{-11: 1, -5: 1}, {-11: 4}, {-5: 4}])
def test_the_wait_for_more_calls_than_the_limit_ends_when_all_are_free(calls: dict[int, int]) -> None:
    assert seconds_until_free(counted(calls), 4, 30, NOON) == max(360 + SLOT_SECONDS * ago for ago in calls)


def test_of_no_call_there_is_none_whenever_asked() -> None:
    for row in (AccountRow(), counted({0: 5}), counted({-20: 5})):
        assert seconds_to_wait(row, 0, NOON) == 30


def test_what_was_counted_too_much_leaves_less_than_nothing() -> None:
    assert allowed(counted({0: 903}), LIMIT, NOON) == -3


def test_a_pause_is_silent_to_its_end() -> None:
    assert [seconds_to_wait(paused(10), LIMIT, at(seconds)) for seconds in (-5, 0, 9.5)] == [15, 10, 0.5]
    assert [pause_left(paused(10), at(seconds)) for seconds in (-5, 0, 9.5, 10, 11)] == [15, 10, 0.5, 0, 0]
    assert pause_left(AccountRow(), NOON) == 0


def test_a_pause_counts_before_the_limit() -> None:
    assert seconds_to_wait(replace(counted({0: 900}), paused_until=at(5)), LIMIT, NOON) == 5


@pytest.mark.parametrize(
    ("seconds", "calls"), [(0, 1), (0.49, 1), (0.5, 2), (1, 3), (10, 21), (59.9, 120), (60, LIMIT), (600, LIMIT)]
)
def test_after_a_pause_calls_begin_again_one_by_one(seconds: float, calls: int) -> None:
    assert allowed(paused(0), LIMIT, at(seconds)) == calls
    assert allowed(paused(0, resumed=calls - 1), LIMIT, at(seconds)) >= 1
    assert seconds_to_wait(paused(0, resumed=calls - 1), LIMIT, at(seconds)) == 0


def test_after_a_pause_who_is_too_soon_waits_for_the_next_call() -> None:
    assert seconds_to_wait(paused(0, resumed=1), LIMIT, NOON) == 0.5
    assert seconds_to_wait(paused(0, resumed=21), LIMIT, at(10)) == 0.5
    assert seconds_to_wait(paused(0, resumed=5000), LIMIT, at(60)) == 0


def test_after_a_pause_the_limit_still_holds() -> None:
    row = replace(counted({-1: 899}), paused_until=NOON)
    assert allowed(row, LIMIT, at(10)) == 1
    assert seconds_to_wait(replace(row, calls={SLOT: 900}), LIMIT, at(10)) == 350


def test_from_the_third_trouble_in_a_row_pauses_grow_to_a_minute() -> None:
    assert [pause_after(troubles) for troubles in range(9)] == [0, 0, 0, 5, 10, 20, 40, 60, 60]
    assert pause_after(10**6) == 60


rows = st.builds(
    AccountRow,
    st.dictionaries(st.integers(-14, 0).map(lambda ago: SLOT + ago), st.integers(0, 40), max_size=15),
    st.none() | st.integers(-90, 400).map(at),
    st.integers(-8, 200),
)
moments = st.floats(0, SLOT_SECONDS, exclude_max=True).map(at)


@given(rows, st.integers(1, 100), moments)
def test_to_wait_is_the_same_as_to_be_allowed_nothing(row: AccountRow, limit: int, now: datetime) -> None:
    may_call = not pause_left(row, now) and allowed(row, limit, now) > 0
    assert (seconds_to_wait(row, limit, now) == 0) == may_call
    assert used(row, now) + allowed(row, limit, now) <= limit


@given(rows, st.integers(1, 100), moments)
def test_silence_ends_and_soon_enough(row: AccountRow, limit: int, now: datetime) -> None:
    """At the latest with the pause and the gentle minute after it, and with the five minutes and a slot or two."""
    paused_until = row.paused_until or now
    latest = max(paused_until, now) + timedelta(seconds=60 + 360)
    waits = 0
    while wait := seconds_to_wait(row, limit, now):
        now += timedelta(seconds=wait)
        waits += 1
        assert now <= latest
    assert waits <= 200


@given(st.dictionaries(st.integers(-14, 0), st.integers(0, 40), max_size=15), st.integers(1, 100), moments)
def test_a_wait_is_no_longer_than_needed_but_for_the_last_second(
    calls: dict[int, int], limit: int, now: datetime
) -> None:
    row = counted(calls)
    wait = seconds_to_wait(row, limit, now)
    assert seconds_to_wait(row, limit, now + timedelta(seconds=wait)) == 0
    if wait > 1:
        assert seconds_to_wait(row, limit, now + timedelta(seconds=wait - 0.01)) > 0


@given(rows, st.integers(1, 100), moments, st.integers(1, 50))
def test_one_call_more_never_allows_more(row: AccountRow, limit: int, now: datetime, more: int) -> None:
    slot = find_slot(now)
    called = replace(row, calls={**row.calls, slot: row.calls.get(slot, 0) + more}, resumed=row.resumed + more)
    assert allowed(called, limit, now) <= allowed(row, limit, now)
    assert seconds_to_wait(called, limit, now) >= seconds_to_wait(row, limit, now)


def test_the_time_is_the_one_given_and_utc() -> None:
    assert find_slot(datetime(1970, 1, 1, 0, 1, tzinfo=UTC)) == 2
