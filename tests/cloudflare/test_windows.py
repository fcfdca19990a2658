"""Which stretches of time are listed for messages."""

from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from quarantine_release.cloudflare.windows import Window, plan_windows
from quarantine_release.domain.ids import MessageId, decode_time, is_bare
from tests.support.cloudflare_entries import DAY, HOUR, MINUTE, full_id, queue_id, want
from tests.support.shapes import message_ids
from tests.support.stand_ins import BARE, NOON


@pytest.mark.parametrize(
    ("message_id", "around"),
    [(full_id(NOON - 9 * DAY), HOUR), (full_id(NOON - 9 * DAY)[:-9], HOUR), (queue_id(NOON - 9 * DAY), 36 * HOUR)],
    ids=["full", "alert", "bare"],
)
def test_a_message_is_sought_around_its_time(message_id: str, around: timedelta) -> None:
    one = want(message_id)
    assert plan_windows([one], NOON) == [Window(NOON - 9 * DAY - around, NOON - 9 * DAY + around, [one])]


def test_no_window_reaches_into_the_future() -> None:
    assert [window.end for window in plan_windows([want(queue_id(NOON - HOUR))], NOON)] == [NOON]
    assert [window.end for window in plan_windows([want(full_id(NOON + 59 * MINUTE))], NOON)] == [NOON]
    assert plan_windows([want(full_id(NOON + HOUR))], NOON) == []


def test_windows_that_are_near_are_one_and_the_latest_comes_first() -> None:
    at = NOON - 20 * DAY
    together = [want(full_id(at + hours * HOUR)) for hours in (0, 1, 3, 11)]
    apart = want(full_id(at + 20 * HOUR))
    within = want(full_id(at + 30 * MINUTE, "2"))
    assert plan_windows([*together, apart, within], NOON) == [
        Window(at + 19 * HOUR, at + 21 * HOUR, [apart]),
        Window(at - HOUR, at + 12 * HOUR, [together[0], within, *together[1:]]),
    ]


def test_a_wide_window_swallows_a_narrow_one() -> None:
    wide, narrow = want(queue_id(NOON - 9 * DAY)), want(full_id(NOON - 9 * DAY))
    assert plan_windows([narrow, wide], NOON) == [
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
    windows = plan_windows(wanted, NOON)
    assert all(window.start < window.end <= NOON for window in windows)
    assert all(later.start - earlier.end > 6 * HOUR for later, earlier in pairwise(windows))
    placed = {id(one): window for window in windows for one in window.wanted}
    for one in wanted:
        at = decode_time(one.message_id, NOON)
        around = 36 * HOUR if is_bare(one.message_id) else HOUR
        if at is None or at - around >= NOON:
            assert id(one) not in placed
        else:
            window = placed[id(one)]
            assert window.start <= at - around < min(at + around, NOON) <= window.end
