"""What the id of a message tells: when it arrived, and whether another message may go by it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarantine_release.cloudflare.windows import plan_windows
from quarantine_release.domain.ids import MessageId, decode_time, is_partial, is_undated
from tests.support.cloudflare_entries import DAY, HOUR, full_id, queue_id, want
from tests.support.stand_ins import BARE, FULL, NOON

ALERT = MessageId("4Njp3P0STMz2c02Q-2024-01-05T10:00:00")


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
    assert decode_time(MessageId(message_id), at + DAY) == at


@given(st.integers(1, 15 * 10**9).map(lambda seconds: datetime.fromtimestamp(seconds, UTC)))
def test_a_long_queue_id_tells_the_second(at: datetime) -> None:
    assert decode_time(queue_id(at), at + DAY) == at


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
    assert decode_time(MessageId(message_id), NOON) is None
    assert plan_windows([want(message_id)], NOON) == []


@pytest.mark.parametrize("make", [queue_id, full_id])
def test_only_times_that_a_search_could_reach_are_believed(make: Any) -> None:
    reachable = [NOON - 366 * DAY + timedelta(seconds=1), NOON, NOON + DAY - timedelta(seconds=1)]
    assert [decode_time(make(at), NOON) for at in reachable] == reachable
    assert [decode_time(make(at), NOON) for at in (NOON - 366 * DAY, NOON + DAY)] == [None, None]


@pytest.mark.parametrize("message_id", ["AEIOUAEIOU", "3F2B1D4C5D", "zzzzzzzzzz", queue_id(NOON + 2 * DAY)])
def test_a_bare_id_whose_first_characters_are_no_time_is_undated(message_id: str) -> None:
    assert is_undated(MessageId(message_id), NOON)
    assert decode_time(MessageId(message_id), NOON) is None


@pytest.mark.parametrize("message_id", ["4Njp3P0STMz2c02Q", queue_id(NOON + HOUR), full_id(NOON), "an:odd.1"])
def test_any_other_id_is_not(message_id: str) -> None:
    assert not is_undated(MessageId(message_id), NOON)


@pytest.mark.parametrize(
    ("message_id", "expected"), [(BARE, True), (ALERT, True), (FULL, False), ("another.shape-1", False)]
)
def test_a_partial_id_leaves_open_which_message_it_is(message_id: str, expected: bool) -> None:
    assert is_partial(MessageId(message_id)) is expected
