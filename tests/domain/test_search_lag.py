"""Mail too new to be found: who waits, and how often it is looked for."""

from datetime import datetime, timedelta
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarantine_release.domain.details import Details, NotRead, NotYetRead, Several, Unreadable
from quarantine_release.domain.ids import MessageId, postfix_part
from quarantine_release.domain.search_lag import PATIENCE, retry_seconds, searchable_at
from tests.support.cloudflare_entries import full_id, queue_id
from tests.support.stand_ins import FULL, NOON

LAG = timedelta(seconds=120)
SECOND = timedelta(seconds=1)
HELD = Details(FULL, is_quarantined=True)


def shapes(at: datetime) -> list[MessageId]:
    """Return the ids by which a mail of that time goes."""
    full = full_id(at)
    return [full, MessageId(full.rpartition("-")[0]), MessageId(postfix_part(full))]


@pytest.mark.parametrize("told", [Unreadable.ABSENT, Unreadable.NOT_LISTED])
def test_mail_younger_than_the_lag_that_is_not_found_should_be_soon(told: NotRead) -> None:
    for at in (NOON - LAG + SECOND, NOON, NOON + SECOND):
        assert [searchable_at(told, each, NOON, LAG) for each in shapes(at)] == [at + LAG] * 3
    assert [searchable_at(told, each, NOON, LAG) for each in shapes(NOON - LAG)] == [None] * 3


@pytest.mark.parametrize(
    "told",
    [
        HELD,
        Several((HELD, HELD)),
        *(each for each in (*Unreadable, *NotYetRead) if each not in (Unreadable.ABSENT, Unreadable.NOT_LISTED)),
    ],
    ids=str,
)
def test_what_was_found_or_not_looked_for_is_not_waited_for(told: Details | Several | NotRead) -> None:
    assert searchable_at(told, full_id(NOON), NOON, LAG) is None


@pytest.mark.parametrize("message_id", ["AEIOUAEIOU", "an:odd.shape_1", "4Njp3P0STMz2c02Q", queue_id(NOON + 999 * LAG)])
def test_an_id_that_tells_no_time_is_not_waited_for(message_id: str) -> None:
    assert searchable_at(Unreadable.ABSENT, MessageId(message_id), NOON, LAG) is None


@pytest.mark.parametrize(("lag", "looks"), [(120, 14), (600, 6)])
def test_it_is_looked_for_every_20_s_at_first_and_less_often_later(lag: int, looks: int) -> None:
    waited, seen = timedelta(0), []
    while waited < PATIENCE:
        seen.append(retry_seconds(timedelta(seconds=lag), waited))
        waited += timedelta(seconds=seen[-1])
    assert len(seen) <= looks
    assert seen[0] == lag / 6


@given(st.integers(1, 600))
def test_no_lag_makes_a_function_feed_its_own_queue_for_as_long_as_aws_stops_it(lag: int) -> None:
    waited, looks = 0, 0
    while timedelta(seconds=waited) < PATIENCE:
        waited += ceil(retry_seconds(timedelta(seconds=lag), timedelta(seconds=waited)))
        looks += 1
    assert looks < 16


@given(st.integers(1, 600), st.integers(0, 600))
def test_no_wait_is_longer_than_a_quarter_of_the_patience(lag: int, waited: int) -> None:
    assert 0 < retry_seconds(timedelta(seconds=lag), timedelta(seconds=waited)) <= PATIENCE.total_seconds() / 4
