"""How rows move on: only as states.TRANSITIONS allows, and giving back leaves nothing behind but the trace of it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarantine_release.domain.identity import CANDIDATES_KEPT
from quarantine_release.domain.ids import AttemptId, MessageId, OperationId, RequestId, contradict, postfix_part
from quarantine_release.domain.results import claimable
from quarantine_release.domain.rows import AttemptRow, AttemptState, MessageRow, RequestState, Target, WireForm
from quarantine_release.domain.settlement import CALLS_LIMIT, found_out, settled, settled_by_hand
from quarantine_release.domain.states import EXPIRING, TRANSITIONS, UNSETTLED, Code, State
from quarantine_release.domain.transitions import (
    ASKS_KEPT,
    answered,
    asked,
    claimed,
    closed,
    given_back,
    not_made,
    recorded,
    refused,
)
from quarantine_release.domain.verdicts import NO_RECIPIENTS, Evidence, ReadBack, Recipients, Seen, Verdict
from tests.support.shapes import evidence, family, request_ids, verdicts
from tests.support.stand_ins import ACCOUNT, BARE, DELIVERED, FULL, NOON, OK, TERMS, request_row

ALERT = MessageId("4Njp3P0STMz2c02Q-2024-01-05T10:00:00")
CONTRARY = MessageId("4Njp3P0STMz2c02Q-2024-01-05T10:00:00-87654321")
PART = postfix_part(BARE)
LATER = NOON + timedelta(seconds=5)


def sent(name: str = "a1", at: datetime = NOON, owner: str = "rq_one", message_id: MessageId = BARE) -> AttemptRow:
    """Return the attempt that calls for the one message."""
    return AttemptRow(
        account_id=ACCOUNT,
        attempt=AttemptId(name),
        wire_form=WireForm.ARRAY,
        targets=(Target(PART, message_id),),
        owners={PART: RequestId(owner)},
        sent_at=at,
        deadline=at + TERMS.lease,
        state=AttemptState.OPEN,
    )


def claim(row: MessageRow | None = None, name: str = "one", message_id: MessageId = BARE) -> MessageRow:
    """Claim the one message."""
    return claimed(row, Target(PART, message_id), request_row(message_id, name=name), sent(f"a-{name}"))


def test_a_claim_of_an_unknown_message_makes_its_row() -> None:
    assert claim() == MessageRow(
        account_id=ACCOUNT,
        part=PART,
        state=State.RELEASING,
        attempt=AttemptId("a-one"),
        message_id=BARE,
        updated_at=NOON,
        owner=RequestId("rq_one"),
        owner_client="soar",
        deadline=NOON + TERMS.lease,
        attempts=frozenset({AttemptId("a-one")}),
        asks=frozenset({RequestId("rq_one")}),
    )


def test_a_claim_of_a_known_message_keeps_its_history() -> None:
    failed = recorded(claim(), Verdict(State.FAILED, Code.CLOUDFLARE_REJECTED), OK, LATER, TERMS)
    again = claim(failed, "two", FULL)
    assert (again.state, again.attempt, again.owner) == (State.RELEASING, "a-two", "rq_two")
    assert again.attempts == {"a-one", "a-two"}
    assert again.asks == {"rq_one", "rq_two"}
    assert (again.message_id, again.expires_at, again.forced_over) == (FULL, None, None)


def test_a_claim_of_what_has_ended_keeps_what_it_overrides_and_since_when() -> None:
    released = recorded(claim(), Verdict(State.RELEASED), OK, LATER, TERMS)
    again = claim(released, "two")
    assert (again.forced_over, again.forced_after) == (State.RELEASED, LATER)


def test_a_claim_of_what_is_free_is_forced_over_nothing() -> None:
    free = given_back(None, claim(), LATER)
    assert claim(free, "two").forced_over is None


@pytest.mark.parametrize("state", [state for state in State if state not in (State.RELEASED, State.PARTIAL)])
def test_asking_adds_the_request_and_its_id_as_a_candidate_and_nothing_else(state: State) -> None:
    row, wanted = replace(claim(), state=state), request_row(FULL, name="two")
    more: Any = {"candidates": frozenset({FULL}), "asks": row.asks | {wanted.request_id}}
    assert asked(row, Target(PART, FULL), wanted) == replace(row, **more)
    assert asked(row, Target(PART, BARE), request_row(BARE)) == row


def test_only_a_claim_sends_a_message_under_another_id() -> None:
    """Anybody may ask by a wrong one."""
    row, wanted = replace(claim(), state=State.RETRYABLE), request_row(FULL, name="two")
    assert asked(row, Target(PART, FULL), wanted).message_id == BARE
    again = claimed(row, Target(PART, FULL), wanted, sent("a2"))
    assert (again.message_id, again.confirmed_id) == (FULL, None)
    assert again.candidates == {BARE}


def test_a_claim_keeps_the_id_that_the_guard_has_read() -> None:
    target, wanted = Target(PART, BARE), request_row(BARE)
    for row in (None, replace(claim(), state=State.RETRYABLE)):
        read = claimed(row, target, wanted, sent("a2"), confirmed=FULL)
        assert (read.message_id, read.confirmed_id, read.own_id, read.known_id) == (BARE, FULL, FULL, FULL)
    assert claimed(None, target, wanted, sent("a2"), confirmed=BARE).own_id is None


def test_a_released_message_goes_by_what_cloudflare_confirmed() -> None:
    lost = claim(message_id=CONTRARY)
    row = recorded(lost, Verdict(State.RELEASED), OK, LATER, TERMS)
    assert (row.message_id, row.own_id) == (BARE, None)
    row = recorded(lost, Verdict(State.RELEASED, message_id=FULL), OK, LATER, TERMS)
    assert (row.message_id, row.own_id) == (FULL, FULL)


def test_after_100_requests_the_others_are_counted() -> None:
    row = claim()
    for number in range(ASKS_KEPT + 5):
        row = asked(row, Target(PART, BARE), request_row(name=str(number)))
    assert len(row.asks) == ASKS_KEPT
    assert row.asks_uncounted == 6
    assert asked(row, Target(PART, BARE), request_row(name="one")) == row


@pytest.mark.parametrize("state", [State.RELEASED, State.PARTIAL, State.FAILED])
def test_an_ended_row_is_kept_for_the_retention_and_has_no_deadline(state: State) -> None:
    row = recorded(claim(), replace(DELIVERED, state=state, message_id=FULL), OK, LATER, TERMS)
    assert (row.state, row.recipients, row.evidence, row.updated_at) == (state, DELIVERED.recipients, OK, LATER)
    assert (row.deadline, row.expires_at, row.message_id) == (None, TERMS.expiry(LATER), FULL)


def test_an_unknown_row_keeps_its_deadline_and_never_expires() -> None:
    row = recorded(claim(), Verdict(State.UNKNOWN, Code.NO_ANSWER), OK, LATER, TERMS)
    assert (row.state, row.code, row.deadline, row.expires_at) == (
        State.UNKNOWN,
        Code.NO_ANSWER,
        NOON + TERMS.lease,
        None,
    )


@pytest.mark.parametrize(("ids_in_call", "largest"), [(98, 10), (11, 10), (10, 1), (2, 1)])
def test_what_was_rejected_with_others_is_sent_with_fewer_and_then_alone(ids_in_call: int, largest: int) -> None:
    rejected = Verdict(State.UNKNOWN, Code.CALL_REJECTED)
    row = recorded(claim(), rejected, Evidence(400), LATER, TERMS, ids_in_call=ids_in_call)
    assert (row.state, row.code, row.largest_call) == (State.UNKNOWN, Code.CALL_REJECTED, largest)
    back = given_back(None, claim(), LATER, rejected_with=ids_in_call)
    assert (back.state, back.largest_call, back.attempts) == (State.RETRYABLE, largest, frozenset())


def test_how_many_may_be_in_a_call_is_kept_until_another_is_rejected() -> None:
    row = recorded(claim(), Verdict(State.UNKNOWN, Code.CALL_REJECTED), OK, LATER, TERMS, ids_in_call=98)
    free = settled(row, sent("a-one"), ReadBack(Seen.QUARANTINED, OK), WAITED, WAITED, TERMS)
    assert free is not None
    again = claim(free, "two")
    lost = recorded(again, Verdict(State.UNKNOWN, Code.NO_ANSWER), OK, LATER, TERMS, ids_in_call=10)
    assert [each.largest_call for each in (free, again, lost, given_back(None, again, LATER))] == [10] * 4
    assert claim().largest_call is None


def test_an_answered_attempt_expires_once_nothing_about_it_is_unknown() -> None:
    known = answered(sent(), {PART: DELIVERED}, OK, LATER, TERMS)
    assert (known.state, known.ended_at, known.expires_at) == (AttemptState.ANSWERED, LATER, TERMS.expiry(LATER))
    unknown = answered(sent(), {PART: Verdict(State.UNKNOWN)}, OK, LATER, TERMS)
    assert (unknown.state, unknown.expires_at, unknown.is_open) == (AttemptState.ANSWERED, None, True)


def test_an_attempt_that_was_not_made_is_refused_and_expires() -> None:
    ended = not_made(sent(), Evidence(429), LATER, TERMS)
    assert (ended.state, ended.ended_at, ended.evidence) == (AttemptState.REFUSED, LATER, Evidence(429))
    assert ended.expires_at == TERMS.expiry(LATER)
    assert not ended.is_open


def test_what_is_given_back_is_free_and_belongs_to_nobody() -> None:
    row = given_back(None, claim(), LATER)
    assert (row.state, row.owner, row.deadline, row.updated_at) == (State.RETRYABLE, None, None, LATER)
    assert (row.attempts, row.last_refused, row.refusals) == (frozenset(), "a-one", 1)
    assert row.asks == {"rq_one"}


def test_what_had_ended_before_a_forced_claim_has_ended_as_before_once_it_is_given_back() -> None:
    before = recorded(claim(), DELIVERED, OK, LATER, TERMS)
    row = given_back(before, claim(before, "two", FULL), LATER + timedelta(days=1))
    assert row == replace(
        before,
        asks=frozenset(map(RequestId, ("rq_one", "rq_two"))),
        candidates=frozenset({BARE}),
        refusals=1,
        last_refused=AttemptId("a-two"),
    )


def test_a_refused_request_can_be_told_from_a_closed_one() -> None:
    ended = refused(request_row(), LATER, TERMS)
    assert (ended.state, ended.closed_at, ended.expires_at) == (RequestState.REFUSED, LATER, TERMS.expiry(LATER))


def test_a_request_without_results_has_ended() -> None:
    ended = closed(request_row(), (), LATER, TERMS)
    assert ended is not None
    assert ended.letters == ""


UNKNOWN = recorded(claim(), Verdict(State.UNKNOWN, Code.NO_ANSWER), OK, LATER, TERMS)
CLAIMED = claim()
WAITED = NOON + TERMS.lease + TERMS.settle
A_DAY = timedelta(days=1)
FORCED = replace(UNKNOWN, forced_over=State.RELEASED)
OFTEN = replace(UNKNOWN, attempts=frozenset(AttemptId(f"a{number}") for number in range(CALLS_LIMIT)))
REVIEWED = replace(
    UNKNOWN, state=State.NEEDS_REVIEW, deadline=None, updated_at=NOON, evidence=Evidence(200, seen=Seen.ABSENT)
)


@pytest.mark.parametrize(
    ("row", "seen", "read_at", "now", "state"),
    [
        (UNKNOWN, Seen.RELEASED, LATER, LATER, State.RELEASED),
        (CLAIMED, Seen.RELEASED, LATER, LATER, None),
        (CLAIMED, Seen.RELEASED, LATER, NOON + TERMS.lease, State.RELEASED),
        (UNKNOWN, Seen.QUARANTINED, LATER, WAITED, None),
        (UNKNOWN, Seen.QUARANTINED, WAITED, WAITED, State.RETRYABLE),
        (CLAIMED, Seen.QUARANTINED, WAITED, WAITED, State.RETRYABLE),
        (FORCED, Seen.QUARANTINED, WAITED, WAITED, State.NEEDS_REVIEW),
        (OFTEN, Seen.QUARANTINED, WAITED, WAITED, State.NEEDS_REVIEW),
        (UNKNOWN, Seen.UNCLEAR, WAITED, WAITED, State.NEEDS_REVIEW),
        (UNKNOWN, Seen.ABSENT, WAITED, WAITED, State.NEEDS_REVIEW),
        (UNKNOWN, Seen.UNREAD, WAITED, WAITED, None),
        (UNKNOWN, Seen.UNREAD, NOON + A_DAY, NOON + A_DAY, State.NEEDS_REVIEW),
        (REVIEWED, Seen.ABSENT, WAITED, WAITED, None),
        (REVIEWED, Seen.UNCLEAR, WAITED, WAITED, State.NEEDS_REVIEW),
        (REVIEWED, Seen.RELEASED, WAITED, WAITED, State.RELEASED),
        (UNKNOWN, Seen.PARTIAL, LATER, LATER, State.PARTIAL),
        (REVIEWED, Seen.PARTIAL, WAITED, WAITED, State.PARTIAL),
    ],
)
def test_a_read_settles_what_it_proves_once_it_can(
    row: MessageRow, seen: Seen, read_at: datetime, now: datetime, state: State | None
) -> None:
    reading = ReadBack(seen, Evidence(200), FULL)
    after = settled(row, sent("a-one"), reading, read_at, now, TERMS)
    assert (after.state if after else None) is state
    if after:
        assert (after.evidence, after.message_id, after.updated_at) == (Evidence(200, seen=seen), FULL, now)
        assert (after.expires_at is not None) == (after.state in EXPIRING)


def test_a_partial_release_with_a_result_to_come_waits_for_it() -> None:
    pending = Recipients.of(["ann"], ["bob"])
    for named in (pending, pending.unnamed):
        reading = ReadBack(Seen.PARTIAL, OK, FULL, named)
        assert settled(UNKNOWN, sent("a-one"), reading, LATER, LATER, TERMS) is None
        after = settled(UNKNOWN, sent("a-one"), reading, WAITED, WAITED, TERMS)
        assert after is not None
        assert (after.state, after.code, after.recipients) == (State.PARTIAL, Code.PARTLY_DELIVERED, named)


def test_an_attempt_whose_messages_are_settled_says_what_each_was_found_to_be() -> None:
    attempt = answered(sent("a-one"), {PART: Verdict(State.UNKNOWN)}, OK, LATER, TERMS)
    released = settled(UNKNOWN, attempt, ReadBack(Seen.RELEASED, OK, FULL), LATER, LATER, TERMS)
    assert released is not None
    ended = found_out(attempt, {PART: released}, WAITED, TERMS)
    assert (ended.state, ended.ended_at, ended.expires_at) == (AttemptState.SETTLED, LATER, TERMS.expiry(WAITED))
    assert ended.verdicts == {PART: Verdict(State.RELEASED, None, NO_RECIPIENTS, FULL)}
    assert not ended.is_open
    for not_its_own in (UNKNOWN, replace(released, attempt=AttemptId("a-two"))):
        assert found_out(attempt, {PART: not_its_own}, WAITED, TERMS).verdicts == attempt.verdicts
    assert found_out(sent("a-one"), {}, WAITED, TERMS).ended_at == WAITED


@dataclass
class Life:
    """One message, whatever is done with it."""

    row: MessageRow | None = None
    before: MessageRow | None = None
    now: datetime = NOON
    attempts: int = 0
    attempt: AttemptRow = field(init=False)
    moves: list[tuple[MessageRow | None, MessageRow]] = field(default_factory=list)

    def move(self, row: MessageRow) -> None:
        self.moves.append((self.row, row))
        self.row = row

    def want(self, name: RequestId, message_id: MessageId, force: bool) -> None:
        request, target = replace(request_row(message_id), request_id=name), Target(PART, message_id)
        if claimable(self.row, target, force=force, now=self.now):
            self.attempts += 1
            self.before = self.row
            self.attempt = sent(f"a{self.attempts:03}", self.now, name)
            self.move(claimed(self.row, target, request, self.attempt))
        elif self.row is not None:
            self.move(asked(self.row, target, request))

    def answer(self, verdict: Verdict, found: Evidence) -> None:
        if self.row is not None and self.row.state is State.RELEASING:
            self.move(recorded(self.row, verdict, found, self.now, TERMS))

    def give_back(self) -> None:
        if self.row is not None and self.row.state is State.RELEASING:
            self.move(given_back(self.before, self.row, self.now))

    def read(self, seen: Seen, found: Evidence) -> None:
        if self.row is not None and self.row.state in UNSETTLED:
            row = settled(self.row, self.attempt, ReadBack(seen, found), self.now, self.now, TERMS)
            if row is not None:
                self.move(row)

    def wait(self, time: timedelta) -> None:
        self.now += time


def step(method: Callable[..., None], **drawn: st.SearchStrategy[Any]) -> st.SearchStrategy[Callable[[Life], None]]:
    return st.fixed_dictionaries(drawn).map(lambda arguments: partial(method, **arguments))


steps = st.one_of(
    step(
        Life.want,
        name=request_ids,
        message_id=family.filter(lambda each: postfix_part(each) == PART),
        force=st.booleans(),
    ),
    step(Life.answer, verdict=verdicts, found=evidence),
    step(Life.give_back),
    step(Life.read, seen=st.sampled_from(Seen), found=evidence),
    step(Life.wait, time=st.sampled_from([timedelta(seconds=60), timedelta(days=1), timedelta(days=401)])),
)


@st.composite
def lives(draw: st.DrawFn) -> Life:
    """Draw a message with everything that was done with it."""
    life = Life()
    for take in draw(st.lists(steps, min_size=1, max_size=12)):
        take(life)
    return life


@given(lives())
def test_every_move_is_legal(life: Life) -> None:
    for before, after in life.moves:
        state = before.state if before is not None else None
        assert after.state is state or after.state in TRANSITIONS[state]


@given(lives())
def test_a_row_says_of_itself_what_its_state_needs(life: Life) -> None:
    for _, row in life.moves:
        assert (row.expires_at is not None) == (row.state in EXPIRING)
        assert (row.owner is None) == (row.state is State.RETRYABLE)
        assert (row.deadline is not None) == (row.state in (State.RELEASING, State.UNKNOWN))
        assert row.attempt in row.attempts or row.refusals
        assert len(row.asks) <= ASKS_KEPT


@given(lives())
def test_a_message_stays_the_same_message_and_loses_neither_attempts_nor_requests(life: Life) -> None:
    for before, after in life.moves:
        if before is None:
            continue
        assert (after.account_id, after.part) == (before.account_id, before.part)
        assert not (before.own_id and after.own_id and contradict(before.own_id, after.own_id))
        assert after.own_id is not None or before.own_id is None
        assert len(after.candidates) <= CANDIDATES_KEPT
        assert after.asks >= before.asks
        assert after.attempts >= before.attempts - {after.last_refused}


@given(lives(), st.booleans())
def test_no_state_that_may_hide_a_call_under_way_is_ever_claimed(life: Life, force: bool) -> None:
    if life.row is not None and life.row.state in (State.RELEASING, State.UNKNOWN):
        assert not claimable(life.row, Target(PART, life.row.message_id), force=force, now=life.now)


# --- What a person says ----------------------------------------------------------------------------------------------

BY_HAND = OperationId("01OPERATION")
LONG_AFTER = NOON + TERMS.lease + TERMS.settle


@given(
    state=st.sampled_from(State),
    seen=st.sampled_from([Seen.RELEASED, Seen.QUARANTINED]),
    calls=st.integers(1, 9),
    after=st.timedeltas(timedelta(0), timedelta(days=1)),
    forced_over=st.none() | st.sampled_from([State.RELEASED, State.PARTIAL, State.FAILED, State.NEEDS_REVIEW]),
)
def test_a_person_settles_only_what_is_unsettled_and_only_as_the_table_allows(
    state: State, seen: Seen, calls: int, after: timedelta, forced_over: State | None
) -> None:
    now = NOON + after
    has_deadline = state in (State.RELEASING, State.UNKNOWN)
    row = replace(
        unsettled(state, NOON + TERMS.lease if has_deadline else None),
        owner=RequestId("rq_one"),
        attempts=frozenset(AttemptId(f"a{number}") for number in range(calls)),
        forced_over=forced_over,
    )
    told = settled_by_hand(row, BY_HAND, seen, now, TERMS)
    is_under_way = state is State.RELEASING and now < NOON + TERMS.lease
    is_early = has_deadline and now < LONG_AFTER
    if state not in UNSETTLED or is_under_way:
        assert told is None
    elif seen is Seen.RELEASED:
        assert told is not None
        assert (told.state, told.owner, told.expires_at) == (State.RELEASED, row.owner, TERMS.expiry(now))
    elif is_early or forced_over in EXPIRING:
        assert told is None
    else:
        assert told is not None
        assert (told.state, told.owner, told.deadline, told.expires_at) == (State.RETRYABLE, None, None, None)
        assert (told.forced_over, told.forced_after) == (None, None)
    if told is not None:
        assert told.state in TRANSITIONS[state]
        assert told.evidence == Evidence(seen=seen, operation=BY_HAND)
        assert (told.operations, told.attempts) == (frozenset({BY_HAND}), row.attempts)


def unsettled(state: State, deadline: datetime | None = None) -> MessageRow:
    return MessageRow(
        account_id=ACCOUNT,
        part=PART,
        state=state,
        attempt=AttemptId("a1"),
        message_id=BARE,
        updated_at=NOON,
        deadline=deadline,
    )


@pytest.mark.parametrize("seen", [Seen.UNCLEAR, Seen.ABSENT, Seen.UNREAD])
def test_a_person_says_one_thing_or_the_other(seen: Seen) -> None:
    assert settled_by_hand(unsettled(State.NEEDS_REVIEW), BY_HAND, seen, LONG_AFTER, TERMS) is None


def test_what_a_person_has_freed_is_claimed_by_whoever_asks_next_and_keeps_the_operation() -> None:
    row = unsettled(State.UNKNOWN, NOON + TERMS.lease)
    told = settled_by_hand(row, BY_HAND, Seen.QUARANTINED, LONG_AFTER, TERMS)
    again = claimed(told, Target(PART, BARE), request_row(), sent("a2", at=LONG_AFTER))
    assert (again.state, again.forced_over) == (State.RELEASING, None)
    assert again.operations == {BY_HAND}


def test_what_an_attempt_was_found_to_have_left_in_quarantine_is_nobodys() -> None:
    """A reconciler died between the attempt, which tells it, and the message: the next brings it there."""
    attempt = sent()
    row = claimed(None, attempt.targets[0], request_row(), attempt)
    free = recorded(row, Verdict(State.RETRYABLE), Evidence(), NOON, TERMS)
    assert (row.owner, free.owner) == (request_row().request_id, None)
