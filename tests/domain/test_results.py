"""What the rows mean for a request, and that a closed one never says anything else again."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given

from quarantine_release.domain.ids import AttemptId, MessageId, PostfixPart, RequestId, postfix_part
from quarantine_release.domain.results import Result, claimable, derive_results, is_forgotten
from quarantine_release.domain.rows import MessageRow, RequestRow, RequestState, Target
from quarantine_release.domain.states import Code, Outcome, State
from quarantine_release.domain.transitions import closed
from quarantine_release.domain.unreadable import unreadable
from tests.support.shapes import message_rows, moments, requests, tables
from tests.support.stand_ins import ACCOUNT, BARE, FULL, NOON, OTHER, TERMS, request_row

ALERT = MessageId("4Njp3P0STMz2c02Q-2024-01-05T10:00:00")
CONTRARY = MessageId("4Njp3P0STMz2c02Q-2024-01-05T10:00:00-87654321")
PART = postfix_part(BARE)
OWN, FOREIGN = RequestId("rq_one"), RequestId("rq_two")
Table = dict[PostfixPart, MessageRow]


def message(state: State = State.RELEASED, **members: object) -> MessageRow:
    """Return the row of the one message, owned by the one request unless said otherwise."""
    row = MessageRow(
        account_id=ACCOUNT,
        part=PART,
        state=state,
        attempt=AttemptId("a1"),
        message_id=FULL,
        updated_at=NOON,
        owner=OWN,
        deadline=NOON + TERMS.lease,
    )
    return replace(row, **members)  # type: ignore[arg-type]


def test_an_unknown_message_may_be_claimed() -> None:
    assert claimable(None, Target(PART, BARE), force=False, now=NOON)


@pytest.mark.parametrize("force", [False, True])
def test_a_contradicting_id_claims_nothing_even_by_force(force: bool) -> None:
    row = message(expires_at=NOON)
    assert claimable(row, Target(PART, BARE), force=force, now=NOON)
    assert not claimable(row, Target(PART, CONTRARY), force=force, now=NOON)


def test_an_ended_row_past_its_time_counts_as_absent() -> None:
    row = message(expires_at=NOON)
    before = NOON - timedelta(milliseconds=1)
    assert not claimable(row, Target(PART, BARE), force=False, now=before)
    assert claimable(row, Target(PART, BARE), force=False, now=NOON)
    assert not is_forgotten(row, before)
    assert is_forgotten(row, NOON)
    assert not is_forgotten(message(), NOON)


OUTCOMES: list[tuple[MessageRow | None, Outcome, Code | None]] = [
    (None, Outcome.IN_PROGRESS, None),
    (message(), Outcome.RELEASED, None),
    (message(owner=FOREIGN), Outcome.ALREADY_RELEASED, None),
    (message(State.PARTIAL), Outcome.PARTIALLY_RELEASED, Code.PARTLY_DELIVERED),
    (message(State.FAILED, code=Code.NOT_DELIVERED), Outcome.FAILED, Code.NOT_DELIVERED),
    (message(State.FAILED, code=Code.CLOUDFLARE_REJECTED), Outcome.FAILED, Code.CLOUDFLARE_REJECTED),
    (message(State.NEEDS_REVIEW), Outcome.NEEDS_REVIEW, Code.UNSETTLED),
    (message(State.UNKNOWN, code=Code.NO_RECIPIENTS), Outcome.UNCONFIRMED, Code.NO_RECIPIENTS),
    (message(State.RELEASING), Outcome.IN_PROGRESS, None),
    (message(State.RELEASING, deadline=NOON), Outcome.UNCONFIRMED, Code.NO_ANSWER),
    (message(State.RETRYABLE, owner=None), Outcome.IN_PROGRESS, None),
    (message(message_id=CONTRARY), Outcome.NEEDS_REVIEW, Code.ID_CONFLICT),
    (unreadable(ACCOUNT, PART), Outcome.IN_PROGRESS, None),
]


@pytest.mark.parametrize(("row", "outcome", "code"), OUTCOMES)
def test_each_state_means_its_outcome(row: MessageRow | None, outcome: Outcome, code: Code | None) -> None:
    shown = None if code is Code.ID_CONFLICT else row  # it was never sent: what became of the message is not its own
    assert derive_results(request_row(FULL), {PART: row} if row else {}, NOON) == (Result(FULL, outcome, code, shown),)


def test_every_state_has_a_meaning() -> None:
    assert {row.state for row, _, _ in OUTCOMES if row} == set(State)


def test_one_result_per_id_as_given_whatever_their_shapes() -> None:
    results = derive_results(request_row(BARE, OTHER, FULL), {PART: message()}, NOON)
    assert [(result.id, result.outcome) for result in results] == [
        (BARE, Outcome.RELEASED),
        (OTHER, Outcome.IN_PROGRESS),
        (FULL, Outcome.RELEASED),
    ]


def test_ids_that_contradict_each_other_within_a_request_are_for_a_person_to_look_at() -> None:
    results = derive_results(request_row(FULL, CONTRARY, BARE), {PART: message()}, NOON)
    assert {(result.outcome, result.code) for result in results} == {(Outcome.NEEDS_REVIEW, Code.ID_CONFLICT)}


@pytest.mark.parametrize(("row", "outcome", "code"), OUTCOMES)
def test_cancelling_ends_what_is_not_claimed_and_leaves_the_rest_as_it_is(
    row: MessageRow | None, outcome: Outcome, code: Code | None
) -> None:
    (result,) = derive_results(replace(request_row(FULL), cancelled_at=NOON), {PART: row} if row else {}, NOON)
    if row is None or row.state is State.RETRYABLE:
        assert result == Result(FULL, Outcome.CANCELLED, None, None)
        return
    shown = None if code is Code.ID_CONFLICT else row
    assert result == Result(FULL, outcome, code, shown)


REJECTED = message(State.FAILED, code=Code.CLOUDFLARE_REJECTED)
OLD = message(owner=FOREIGN, updated_at=NOON - TERMS.retention, expires_at=NOON)


@pytest.mark.parametrize(
    ("row", "asked_at", "outcome"),
    [
        (REJECTED, NOON, Outcome.FAILED),  # asked for before it was rejected, or with whoever was
        (REJECTED, NOON + timedelta(seconds=1), Outcome.IN_PROGRESS),
        (message(State.FAILED, code=Code.NOT_DELIVERED), NOON + timedelta(seconds=1), Outcome.FAILED),
        (message(owner=FOREIGN), NOON + timedelta(seconds=1), Outcome.ALREADY_RELEASED),
        (OLD, NOON, Outcome.IN_PROGRESS),
        (replace(OLD, expires_at=NOON + timedelta(seconds=1)), NOON, Outcome.ALREADY_RELEASED),
        (OLD, OLD.updated_at, Outcome.ALREADY_RELEASED),
    ],
)
def test_what_was_over_before_it_was_asked_for_and_may_be_tried_again_has_not_ended(
    row: MessageRow, asked_at: datetime, outcome: Outcome
) -> None:
    request = request_row(FULL, name="three", created_at=asked_at)
    (result,) = derive_results(request, {PART: row}, NOON)
    assert (result.outcome, result.code) == (outcome, row.code if outcome is Outcome.FAILED else None)
    if outcome is Outcome.IN_PROGRESS:
        assert claimable(row, Target(PART, FULL), force=False, now=NOON)


def stored(letters: str) -> RequestRow:
    return replace(request_row(FULL), state=RequestState.CLOSED, letters=letters)


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("given_id", ["a" * 26, f"{'a' * 9}-2024-01-05T10:00:00"])
def test_an_id_whose_message_could_have_two_rows_claims_nothing(given_id: str, force: bool) -> None:
    message_id = MessageId(given_id)
    assert not claimable(None, Target(postfix_part(message_id), message_id), force=force, now=NOON)


def test_a_closed_request_says_what_it_said_also_when_the_row_is_gone_or_has_moved_on() -> None:
    released = Result(FULL, Outcome.RELEASED, None, None)
    assert derive_results(stored("R"), {}, NOON) == (released,)
    assert derive_results(stored("R"), {PART: message(State.RELEASING)}, NOON) == (released,)
    assert derive_results(stored("R"), {PART: message()}, NOON) == (replace(released, row=message()),)


def test_what_was_not_attempted_shows_nothing_of_an_attempt_made_for_another() -> None:
    row = message(State.FAILED, code=Code.NOT_DELIVERED, owner=FOREIGN)
    assert derive_results(stored("N"), {PART: row}, NOON) == (Result(FULL, Outcome.FAILED, Code.NOT_ATTEMPTED, None),)


def test_only_a_review_says_something_else_once_it_is_settled() -> None:
    settled = message(State.RELEASED)
    assert derive_results(stored("V"), {PART: settled}, NOON) == (Result(FULL, Outcome.RELEASED, None, settled),)
    for unsettled in (message(State.NEEDS_REVIEW), message(State.RELEASING)):
        (result,) = derive_results(stored("V"), {PART: unsettled}, NOON)
        assert (result.outcome, result.code) == (Outcome.NEEDS_REVIEW, Code.UNSETTLED)


@given(requests, tables, moments)
def test_a_request_closes_when_every_id_has_ended_and_then_says_the_same(
    request: RequestRow, rows: Table, now: object
) -> None:
    results = derive_results(request, rows, now)  # type: ignore[arg-type]
    ended = closed(request, results, NOON, TERMS)
    if ended is None:
        assert any(not result.is_end for result in results)
        return
    assert ended.letters is not None
    assert len(ended.letters) == len(request.ids)
    assert (ended.state, ended.closed_at, ended.expires_at) == (RequestState.CLOSED, NOON, TERMS.expiry(NOON))
    assert derive_results(ended, rows, NOON) == results


@given(requests, tables, tables)
def test_letters_do_not_change_whatever_becomes_of_the_rows(request: RequestRow, rows: Table, later: Table) -> None:
    results = derive_results(request, rows, NOON)
    ended = closed(request, results, NOON, TERMS)
    if ended is None:
        return
    for before, after in zip(results, derive_results(ended, later, NOON), strict=True):
        assert after.is_end
        if (before.outcome, before.code) != (Outcome.NEEDS_REVIEW, Code.UNSETTLED):
            assert (after.outcome, after.code) == (before.outcome, before.code)
            assert after.row in (None, later.get(postfix_part(after.id)))


@given(requests, tables)
def test_released_is_said_only_to_the_request_on_whose_behalf_it_was_done(request: RequestRow, rows: Table) -> None:
    for result in derive_results(request, rows, NOON):
        if result.outcome is Outcome.RELEASED:
            assert result.row is not None
            assert (result.row.state, result.row.owner) == (State.RELEASED, request.request_id)


@given(message_rows(), moments)
def test_nothing_uncertain_is_ever_told_as_success_or_failure(row: MessageRow, now: object) -> None:
    (result,) = derive_results(request_row(row.message_id), {row.part: row}, now)  # type: ignore[arg-type]
    assert result.is_end == (row.state not in (State.RELEASING, State.RETRYABLE, State.UNKNOWN))


@pytest.mark.parametrize(
    ("outcome", "code", "retryable"),
    [
        (Outcome.FAILED, Code.NOT_ATTEMPTED, True),
        (Outcome.CANCELLED, None, True),
        (Outcome.EXPIRED, None, True),
        (Outcome.FAILED, Code.NOT_DELIVERED, False),
        (Outcome.RELEASED, None, False),
        (Outcome.UNCONFIRMED, Code.NO_ANSWER, False),
    ],
)
def test_only_what_was_never_tried_is_worth_the_same_request_again(
    outcome: Outcome, code: Code | None, retryable: bool
) -> None:
    assert Result(BARE, outcome, code, None).retryable is retryable


@pytest.mark.parametrize(
    ("members", "waited", "outcome"),
    [
        ({}, timedelta(hours=23), Outcome.UNCONFIRMED),
        ({}, timedelta(hours=24), Outcome.NEEDS_REVIEW),
        ({"asks": frozenset({OWN})}, timedelta(0), Outcome.NEEDS_REVIEW),
        ({"asks": frozenset({OWN}), "candidates": frozenset({FULL})}, timedelta(0), Outcome.UNCONFIRMED),
        ({"asks_uncounted": 1}, timedelta(seconds=119), Outcome.UNCONFIRMED),
        ({"asks_uncounted": 1}, timedelta(seconds=120), Outcome.NEEDS_REVIEW),
        ({"confirmed_id": CONTRARY[:-8] + "1"}, timedelta(0), Outcome.NEEDS_REVIEW),
    ],
    ids=str,
)
def test_a_message_under_review_stays_open_for_a_request_that_is_not_in_its_row_yet(
    members: dict[str, object], waited: timedelta, outcome: Outcome
) -> None:
    row = message(State.NEEDS_REVIEW, **{"message_id": CONTRARY, **members})
    (result,) = derive_results(request_row(FULL), {PART: row}, NOON + waited)
    assert result.outcome is outcome
