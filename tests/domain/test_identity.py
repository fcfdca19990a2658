"""By which ids a message is known: only Cloudflare's word makes another id a wrong one, whatever callers ask by."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarantine_release.domain.identity import (
    CANDIDATES_KEPT,
    believed,
    combined,
    ids_to_read,
    tells_id,
    under,
    with_candidate,
    with_confirmed,
)
from quarantine_release.domain.ids import MessageId, contradict, postfix_part
from quarantine_release.domain.results import claimable, derive_results
from quarantine_release.domain.rows import MessageRow, Target
from quarantine_release.domain.states import Code, Outcome, State
from quarantine_release.domain.transitions import claimed, given_back
from quarantine_release.domain.verdicts import Evidence, ReadBack, Seen, Verdict
from quarantine_release.ledger.items import message_item, message_row
from tests.domain.test_transitions import sent
from tests.support.shapes import family, message_rows
from tests.support.stand_ins import ACCOUNT, BARE, DELIVERED, FULL, NOON, OK, OTHER, request_row

PART = postfix_part(BARE)
ALERT = MessageId("4Njp3P0STMz2c02Q-2024-01-05T10:00:00")
MADE_UP = MessageId("4Njp3P0STMz2c02Q-2024-01-05T10:00:00-87654321")
LATER = MessageId("4Njp3P0STMz2c02Q-2024-01-06T10:00:00-12345678")
LONGER = MessageId(f"{FULL}-1")


def message(state: State = State.UNKNOWN, message_id: MessageId = BARE, **members: Any) -> MessageRow:
    known: dict[str, Any] = {"account_id": ACCOUNT, "part": PART, "attempt": "a1", "updated_at": NOON}
    return MessageRow(**known, state=state, message_id=message_id, **members)


# --- What is confirmed -----------------------------------------------------------------------------------------------


def test_a_message_takes_over_the_id_that_cloudflare_tells() -> None:
    row = with_confirmed(message(message_id=MADE_UP), FULL)
    assert (row.confirmed_id, row.message_id, row.own_id, row.known_id) == (FULL, FULL, FULL, FULL)


@pytest.mark.parametrize("told", [None, BARE, OTHER])
def test_what_tells_no_full_id_of_the_message_confirms_nothing(told: MessageId | None) -> None:
    row = message(message_id=MADE_UP)
    assert with_confirmed(row, told) == row


@pytest.mark.parametrize(
    ("known", "told", "own"),
    [(FULL, MADE_UP, FULL), (FULL, LATER, FULL), (FULL, ALERT, FULL), (ALERT, FULL, FULL), (FULL, FULL, FULL)],
)
def test_a_confirmed_id_gives_way_only_to_a_fuller_one(known: MessageId, told: MessageId, own: MessageId) -> None:
    assert with_confirmed(message(confirmed_id=known), told).own_id == own


@given(message_rows(), st.lists(family, max_size=8))
def test_no_id_that_callers_give_changes_what_is_known(row: MessageRow, given_ids: list[MessageId]) -> None:
    asked = row
    for each in given_ids:
        asked = with_candidate(asked, each)
    assert replace(asked, candidates=row.candidates) == row
    assert len(asked.candidates) <= CANDIDATES_KEPT
    assert (asked.own_id, asked.known_id) == (row.own_id, row.known_id)


# --- What callers give -----------------------------------------------------------------------------------------------


def test_the_first_three_other_ids_are_kept_each_once() -> None:
    row = message()
    for each in (BARE, FULL, FULL, MADE_UP, LATER, LONGER):
        row = with_candidate(row, each)
    assert row.candidates == {FULL, MADE_UP, LATER}
    assert ids_to_read(row) == (BARE, *sorted((FULL, MADE_UP, LATER)))


def test_once_an_id_is_confirmed_only_what_continues_it_may_say_more() -> None:
    row = message(confirmed_id=ALERT, candidates=frozenset({LATER}))
    assert with_candidate(row, LATER) == row
    assert with_candidate(row, BARE) == row
    fuller = with_candidate(row, FULL)
    assert fuller.candidates == {LATER, FULL}
    assert ids_to_read(fuller) == (ALERT, FULL)
    assert ids_to_read(replace(fuller, message_id=MADE_UP)) == (ALERT, MADE_UP, FULL)


def test_a_claim_under_another_id_keeps_the_one_before_for_reading() -> None:
    row = under(message(State.RELEASING, MADE_UP), FULL)
    assert row.message_id == FULL
    assert row.candidates == {MADE_UP}
    assert under(row, FULL) == row


def test_an_id_that_was_rejected_is_kept_as_such_up_to_twenty() -> None:
    row = message(State.FAILED, MADE_UP, code=Code.CLOUDFLARE_REJECTED)
    row = under(row, FULL)
    assert (row.message_id, row.candidates) == (FULL, frozenset())
    assert row.rejected == {MADE_UP}
    for number in range(30):
        row = under(row, MessageId(f"{BARE}-2024-01-05T10:00:00-{number}"))
    assert len(row.rejected) == 20


@pytest.mark.parametrize(
    ("row", "told", "is_believed"),
    [
        (message(confirmed_id=FULL), MADE_UP, False),
        (message(message_id=FULL), MADE_UP, False),
        (message(message_id=FULL), BARE, True),
        (message(confirmed_id=FULL), FULL, True),
        (message(confirmed_id=FULL), None, True),
        (message(), MADE_UP, True),
    ],
)
def test_an_answer_by_another_id_proves_nothing(row: MessageRow, told: MessageId | None, is_believed: bool) -> None:
    verdict = replace(DELIVERED, message_id=told)
    assert believed(row, verdict) == (verdict if is_believed else Verdict(State.UNKNOWN, Code.UNCLEAR_ANSWER))


# --- What a request is told ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [state for state in State if state is not State.UNREADABLE])
def test_only_a_confirmed_id_makes_another_one_a_conflict(state: State) -> None:
    request, target = request_row(MADE_UP, name="two"), Target(PART, MADE_UP)
    code = Code.CLOUDFLARE_REJECTED if state is State.FAILED else None
    unsure = message(state, code=code)
    confirmed = replace(unsure, confirmed_id=FULL)
    (told,) = derive_results(request, {PART: confirmed}, NOON)
    assert (told.outcome, told.code, told.row) == (Outcome.NEEDS_REVIEW, Code.ID_CONFLICT, None)
    assert not claimable(confirmed, target, force=True, now=NOON)
    (told,) = derive_results(request, {PART: unsure}, NOON)
    assert told.code is not Code.ID_CONFLICT
    (other,) = derive_results(request_row(FULL, name="three"), {PART: confirmed}, NOON)
    assert other.code is not Code.ID_CONFLICT


def test_what_was_rejected_under_one_id_may_be_tried_under_another() -> None:
    row = message(State.FAILED, MADE_UP, code=Code.CLOUDFLARE_REJECTED, rejected=frozenset({LATER}))
    for given_id, outcome in ((FULL, Outcome.IN_PROGRESS), (MADE_UP, Outcome.FAILED), (LATER, Outcome.FAILED)):
        (told,) = derive_results(request_row(given_id), {PART: row}, NOON)
        assert told.outcome is outcome
        assert claimable(row, Target(PART, given_id), force=False, now=NOON)


def test_a_request_of_several_shapes_has_failed_with_the_one_that_was_sent() -> None:
    row = message(State.FAILED, FULL, code=Code.CLOUDFLARE_REJECTED)
    assert {told.outcome for told in derive_results(request_row(BARE, FULL), {PART: row}, NOON)} == {Outcome.FAILED}


@pytest.mark.parametrize(
    ("seen", "hours", "outcome"),
    [
        (Seen.ABSENT, 0, Outcome.UNCONFIRMED),
        (None, 23, Outcome.UNCONFIRMED),
        (Seen.ABSENT, 24, Outcome.NEEDS_REVIEW),
        (Seen.UNCLEAR, 0, Outcome.NEEDS_REVIEW),
    ],
)
def test_a_message_under_review_is_unconfirmed_for_an_id_that_was_not_read_yet(
    seen: Seen | None, hours: int, outcome: Outcome
) -> None:
    evidence = Evidence(seen=seen) if seen else None
    row = message(State.NEEDS_REVIEW, code=Code.UNSETTLED, candidates=frozenset({FULL}), evidence=evidence)
    now = NOON + timedelta(hours=hours)
    (told,) = derive_results(request_row(FULL), {PART: row}, now)
    assert (told.outcome, told.code) == (outcome, Code.UNSETTLED)
    (told,) = derive_results(request_row(BARE), {PART: row}, now)
    assert told.outcome is Outcome.NEEDS_REVIEW


# --- What readings under several ids show together -------------------------------------------------------------------


def reading(seen: Seen, message_id: MessageId | None = None) -> ReadBack:
    return ReadBack(seen, OK, message_id)


ABSENT, UNREAD = reading(Seen.ABSENT), reading(Seen.UNREAD)
HELD, OUT, ELSE = reading(Seen.QUARANTINED, FULL), reading(Seen.RELEASED, FULL), reading(Seen.QUARANTINED, LATER)


@pytest.mark.parametrize(
    ("readings", "together"),
    [
        ([(BARE, ABSENT), (MADE_UP, ABSENT), (FULL, HELD)], HELD),
        ([(BARE, ABSENT), (FULL, OUT), (MADE_UP, ABSENT)], OUT),
        ([(BARE, ABSENT), (MADE_UP, ABSENT)], ABSENT),
        ([(MADE_UP, ABSENT), (BARE, HELD)], HELD),
        # Two messages go by the one Postfix id.
        ([(BARE, ABSENT), (FULL, HELD), (LATER, ELSE)], reading(Seen.UNCLEAR)),
        # One that was not read may be the other message, unless it says nothing but the Postfix id.
        ([(BARE, ABSENT), (FULL, HELD), (LATER, UNREAD)], UNREAD),
        ([(BARE, UNREAD), (FULL, HELD)], HELD),
        ([(BARE, UNREAD), (MADE_UP, ABSENT)], UNREAD),
        ([(BARE, reading(Seen.RELEASED, BARE)), (FULL, OUT)], OUT),
        ([(BARE, reading(Seen.RELEASED, BARE)), (FULL, HELD)], reading(Seen.UNCLEAR)),
        ([(BARE, reading(Seen.UNCLEAR)), (FULL, HELD)], reading(Seen.UNCLEAR)),
        ([(BARE, reading(Seen.RELEASED)), (MADE_UP, ABSENT)], reading(Seen.RELEASED)),
    ],
)
def test_only_what_cloudflare_shows_counts(readings: list[tuple[MessageId, ReadBack]], together: ReadBack) -> None:
    assert combined(readings) == together


readings = st.lists(
    st.tuples(family.filter(lambda each: postfix_part(each) == PART), st.sampled_from(Seen)).map(
        lambda pair: (pair[0], reading(pair[1], pair[0] if pair[1] not in (Seen.ABSENT, Seen.UNREAD) else None))
    ),
    min_size=1,
    max_size=4,
)


@given(readings)
def test_a_message_is_released_or_held_only_if_some_id_shows_it_and_none_shows_another(
    several: list[tuple[MessageId, ReadBack]],
) -> None:
    together = combined(several)
    if together.seen in (Seen.RELEASED, Seen.QUARANTINED):
        shown = [one for _, one in several if one.message_id is not None]
        assert {one.seen for one in shown} == {together.seen}
        told = [one.message_id for one in shown if one.message_id is not None]
        assert not any(contradict(one, other) for one in told for other in told)
        assert together.message_id in told


@pytest.mark.parametrize(("one", "expected"), [(None, False), (UNREAD, False), (HELD, True)])
def test_a_reading_tells_the_message_by_its_full_id(one: ReadBack | None, expected: bool) -> None:
    assert tells_id(one) is expected
    assert not tells_id(reading(Seen.QUARANTINED, BARE))


# --- Rows of version 4c3b95d, as that version wrote them -------------------------------------------------------------

OLD_ROW: dict[str, dict[str, Any]] = {
    "pk": {"S": f"M#{ACCOUNT}#4Njp3P0STMz2c02Q"},
    "state": {"S": "RELEASED"},
    "attempt": {"S": "01A"},
    "message_id": {"S": FULL},
    "updated_at": {"N": "1795348800000"},
    "owner": {"S": "rq_one"},
    "expires_at": {"N": "1829908800"},
    "recipients": {"S": '[["a@example.com"],[],[],[1,0,0]]'},
    "evidence": {"S": '{"status":200,"error_codes":[],"cf_ray":"ray-1","failure":null,"seen":null}'},
    "attempts": {"SS": ["01A"]},
    "asks": {"SS": ["rq_one"]},
}
UNKNOWN: dict[str, dict[str, Any]] = {
    "state": {"S": "UNKNOWN"},
    "deadline": {"N": "1795348890000"},
    "code": {"S": "no_answer"},
}
REJECTED: dict[str, dict[str, Any]] = {"state": {"S": "FAILED"}, "code": {"S": "cloudflare_rejected"}}


@pytest.mark.parametrize(
    ("members", "own", "told"),
    [
        ({}, FULL, Code.ID_CONFLICT),
        ({"state": {"S": "PARTIAL"}, "code": {"S": "partly_delivered"}}, FULL, Code.ID_CONFLICT),
        ({"message_id": {"S": BARE}}, None, None),
        (UNKNOWN, None, Code.NO_ANSWER),
        (REJECTED, None, None),
    ],
)
def test_in_a_row_of_4c3b95d_only_the_full_id_of_a_released_message_counts_as_confirmed(
    members: dict[str, Any], own: MessageId | None, told: Code | None
) -> None:
    row = message_row({**OLD_ROW, **members})
    assert (row.own_id, row.confirmed_id, row.candidates, row.rejected) == (own, None, frozenset(), frozenset())
    (result,) = derive_results(request_row(MADE_UP, name="two"), {PART: row}, NOON)
    assert result.code is told
    assert message_row(message_item(row)) == row


def test_a_forced_claim_on_a_row_of_4c3b95d_keeps_its_id() -> None:
    row = message_row(OLD_ROW)
    forced = claimed(row, Target(PART, BARE), request_row(BARE, name="two"), sent("02B"))
    assert (forced.message_id, forced.own_id) == (BARE, FULL)
    assert given_back(row, forced, NOON).own_id == FULL
