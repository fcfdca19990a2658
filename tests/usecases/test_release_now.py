"""The use case on the real ledger code and a model of DynamoDB: what is called, what is kept, what is told.

What waits is gone on with by the worker, and ended by the sweep.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from quarantine_release.domain.call_limit import Mark
from quarantine_release.domain.ids import AccountId, MessageId, postfix_part
from quarantine_release.domain.ledger_errors import LedgerUnavailable
from quarantine_release.domain.rows import AttemptState, MessageRow, RequestRow, RequestState, WireForm
from quarantine_release.domain.states import Code, Outcome, State
from quarantine_release.domain.verdicts import Answered, Evidence, NoEffect, Recipients, RefusalReason, Verdict
from quarantine_release.releasing.hints import CHUNK
from quarantine_release.releasing.ports import Hint
from quarantine_release.releasing.progress import Answer
from quarantine_release.usecases.accepted_request import KeyReused, cancel, status_of
from quarantine_release.usecases.admission import NotAccepted
from quarantine_release.usecases.release_now import release
from quarantine_release.usecases.release_queued import release_hinted
from quarantine_release.usecases.sweep import Swept, sweep
from tests.support.model_dynamodb import Fault, ModelDynamoDB
from tests.support.stand_ins import (
    ACCOUNT,
    BARE,
    DELIVERED,
    FULL,
    OK,
    OTHER,
    TERMS,
    RememberingBudget,
    World,
    request_row,
)

PART = postfix_part(BARE)
LOST = Evidence(failure="no_answer_in_time")
NO_ANSWER = Verdict(State.UNKNOWN, Code.NO_ANSWER)
RATE_LIMITED = NoEffect(RefusalReason.RATE_LIMITED, Evidence(429), 42)
UNREACHABLE = NoEffect(RefusalReason.UNREACHABLE, Evidence(failure="connection_refused"))
DENIED = NoEffect(RefusalReason.CREDENTIALS, Evidence(403, (10000,)))
REJECTED = NoEffect(RefusalReason.CALL_REJECTED, Evidence(400, (7003,)))
FULL_OTHER = MessageId("4WtWkr6nlBz9sNH-2024-08-28T15:32:35-7")


def all_unknown(ids: Sequence[MessageId]) -> Answered:
    return Answered(dict.fromkeys(ids, NO_ANSWER), LOST)


def answering(verdict: Verdict) -> Any:
    return lambda ids: Answered(dict.fromkeys(ids, verdict), OK)


def run(world: World, request: RequestRow, **ports: Any) -> Answer:
    answer = release(request, world.ports(**ports))
    assert isinstance(answer, Answer)
    return answer


def outcomes(answer: Answer) -> list[tuple[Outcome, Code | None]]:
    return [(result.outcome, result.code) for result in answer.results]


def message(world: World, given: MessageId = BARE) -> MessageRow:
    return world.ledger.messages(ACCOUNT, [postfix_part(given)])[postfix_part(given)]


def kept_request(world: World, request: RequestRow) -> RequestRow:
    return world.ledger.requests([request.request_id])[request.request_id]


def told(world: World, request: RequestRow) -> list[tuple[Outcome, Code | None]]:
    return outcomes(status_of(kept_request(world, request), world.ports()))


def test_a_new_message_is_released_once_and_closed(world: World) -> None:
    answer = run(world, request_row(BARE))
    assert outcomes(answer) == [(Outcome.RELEASED, None)]
    assert world.cloudflare.calls == [(WireForm.ARRAY, [BARE])]
    assert kept_request(world, answer.request).letters == "R"
    assert [row.part for row in answer.settled] == [PART]


@pytest.mark.parametrize(
    ("rounds", "expected"),
    [(["new"], 2), (["new", "again"], 2), (["new", "replay"], 1)],
    ids=["new", "already released", "replay"],
)
def test_one_message_costs_as_many_round_trips_as_promised(world: World, rounds: list[str], expected: int) -> None:
    dynamodb: ModelDynamoDB = world.dynamodb
    for name in rounds:
        dynamodb.calls.clear()
        run(world, request_row(BARE, name="new" if name == "replay" else name, nonce=name))
    assert len(dynamodb.calls) == expected


def test_whoever_asks_again_is_told_by_whom_and_when_it_was_released(world: World) -> None:
    first = run(world, request_row(BARE))
    again = run(world, request_row(FULL, name="two"))
    assert outcomes(again) == [(Outcome.ALREADY_RELEASED, None)]
    assert len(world.cloudflare.calls) == 1
    assert again.results[0].row is not None
    assert again.results[0].row.owner == first.request.request_id
    assert kept_request(world, again.request).letters == "A"
    assert message(world).asks == {first.request.request_id, again.request.request_id}
    assert message(world).candidates == {FULL}
    assert message(world).known_id == BARE


def test_several_shapes_of_one_message_are_sent_once_in_the_fullest(world: World) -> None:
    answer = run(world, request_row(BARE, FULL))
    assert world.cloudflare.calls == [(WireForm.OBJECT, [FULL])]
    assert [result.id for result in answer.results] == [BARE, FULL]
    assert outcomes(answer) == [(Outcome.RELEASED, None)] * 2


def test_both_wire_forms_are_two_calls_and_two_attempts(world: World) -> None:
    answer = run(world, request_row(BARE, FULL_OTHER))
    assert world.cloudflare.calls == [(WireForm.ARRAY, [BARE]), (WireForm.OBJECT, [FULL_OTHER])]
    assert outcomes(answer) == [(Outcome.RELEASED, None)] * 2
    assert kept_request(world, answer.request).letters == "RR"
    assert message(world).attempt != message(world, OTHER).attempt


def test_a_request_that_becomes_unreadable_between_two_calls_still_tells_of_the_first(world: World) -> None:
    def damage(ids: Sequence[MessageId]) -> Answered:
        world.dynamodb.items["R#rq_one"]["v"] = {"N": "99"}
        return Answered({each: replace(DELIVERED, message_id=each) for each in ids}, OK)

    world.cloudflare.answers.append(damage)
    answer = run(world, request_row(BARE, FULL_OTHER))
    assert sorted(outcome for outcome, _ in outcomes(answer)) == [Outcome.IN_PROGRESS, Outcome.RELEASED]
    assert len(world.cloudflare.calls) == 1


@pytest.mark.parametrize("form", list(WireForm))
def test_a_setting_forces_one_wire_form(world: World, form: WireForm) -> None:
    run(world, request_row(BARE, FULL_OTHER), wire_form=form)
    assert world.cloudflare.calls == [(form, [BARE, FULL_OTHER])]


@pytest.mark.parametrize(
    ("verdict", "told", "letter"),
    [
        (Verdict(State.PARTIAL, Code.PARTLY_DELIVERED, Recipients.of("a", "b")), Outcome.PARTIALLY_RELEASED, "P"),
        (Verdict(State.FAILED, Code.NOT_DELIVERED, Recipients.of((), "b")), Outcome.FAILED, "F"),
        (Verdict(State.FAILED, Code.CLOUDFLARE_REJECTED), Outcome.FAILED, "X"),
    ],
)
def test_each_verdict_is_told_and_closes_the_request(
    world: World, verdict: Verdict, told: Outcome, letter: str
) -> None:
    world.cloudflare.answers.append(answering(verdict))
    answer = run(world, request_row(BARE))
    assert outcomes(answer) == [(told, verdict.code)]
    assert kept_request(world, answer.request).letters == letter
    assert message(world).expires_at is not None


def test_what_is_ambiguous_is_unconfirmed_and_nobody_calls_again(world: World) -> None:
    world.cloudflare.answers.append(all_unknown)
    answer = run(world, request_row(BARE))
    assert outcomes(answer) == [(Outcome.UNCONFIRMED, Code.NO_ANSWER)]
    assert kept_request(world, answer.request).state is RequestState.OPEN
    row = message(world)
    assert (row.state, row.expires_at, row.evidence) == (State.UNKNOWN, None, LOST)
    for force in (False, True):
        again = run(world, request_row(BARE, name=f"force {force}", force=force))
        assert outcomes(again) == [(Outcome.UNCONFIRMED, Code.NO_ANSWER)]
    assert len(world.cloudflare.calls) == 1


def test_an_id_missing_in_the_answer_is_unconfirmed(world: World) -> None:
    world.cloudflare.answers.append(Answered({BARE: DELIVERED}, OK))
    answer = run(world, request_row(BARE, OTHER))
    assert outcomes(answer) == [(Outcome.RELEASED, None), (Outcome.UNCONFIRMED, Code.MISSING_IN_ANSWER)]


def test_a_claim_whose_process_died_is_in_progress_then_unconfirmed_and_never_claimed(world: World) -> None:
    class Died(BaseException):
        pass

    class Deadly:
        def release(self, *_: object) -> Answered:
            raise Died

    request = request_row(BARE)
    with pytest.raises(Died):
        release(request, world.ports(cloudflare=Deadly()))
    assert outcomes(run(world, request_row(BARE, name="two"))) == [(Outcome.IN_PROGRESS, None)]
    world.clock.move(seconds=TERMS.lease.total_seconds())
    assert outcomes(status_of(request, world.ports())) == [(Outcome.UNCONFIRMED, Code.NO_ANSWER)]
    assert outcomes(run(world, request_row(BARE, name="three"))) == [(Outcome.UNCONFIRMED, Code.NO_ANSWER)]
    assert world.cloudflare.calls == []


def test_an_id_that_contradicts_the_message_is_never_sent(world: World) -> None:
    run(world, request_row(FULL))
    wrong = MessageId(FULL[:-1] + "0")
    answer = run(world, request_row(wrong, name="two", force=True))
    assert outcomes(answer) == [(Outcome.NEEDS_REVIEW, Code.ID_CONFLICT)]
    assert len(world.cloudflare.calls) == 1
    assert kept_request(world, answer.request).letters == "I"


def test_ids_of_one_request_that_contradict_one_another_are_never_sent(world: World) -> None:
    answer = run(world, request_row(FULL, FULL[:-1] + "0"))
    assert outcomes(answer) == [(Outcome.NEEDS_REVIEW, Code.ID_CONFLICT)] * 2
    assert world.cloudflare.calls == []
    assert kept_request(world, answer.request).letters == "II"


@pytest.mark.parametrize(
    "verdict",
    [
        DELIVERED,
        Verdict(State.PARTIAL, Code.PARTLY_DELIVERED),
        Verdict(State.FAILED, Code.NOT_DELIVERED),
        Verdict(State.FAILED, Code.CLOUDFLARE_REJECTED),
    ],
)
def test_only_force_releases_again_what_has_ended_but_for_a_rejection(world: World, verdict: Verdict) -> None:
    world.cloudflare.answers.append(answering(verdict))
    run(world, request_row(BARE))
    run(world, request_row(BARE, name="two"))
    is_rejection = verdict.code is Code.CLOUDFLARE_REJECTED
    assert len(world.cloudflare.calls) == (2 if is_rejection else 1)
    forced = run(world, request_row(BARE, name="three", force=True))
    assert outcomes(forced) == [(Outcome.RELEASED, None)]
    assert message(world).forced_over is (State.RELEASED if is_rejection else verdict.state)
    assert len(message(world).attempts) == len(world.cloudflare.calls)


def test_an_ended_message_past_its_time_counts_as_absent(world: World) -> None:
    run(world, request_row(BARE))
    world.clock.move(seconds=TERMS.retention.total_seconds())
    assert outcomes(run(world, request_row(BARE, name="two"))) == [(Outcome.RELEASED, None)]
    assert len(world.cloudflare.calls) == 2


def test_the_same_key_with_the_same_payload_is_answered_from_the_rows(world: World) -> None:
    first = run(world, request_row(BARE, OTHER))
    replay = run(world, request_row(BARE, OTHER, nonce="second time"))
    assert replay.replayed
    assert replay.results == first.results
    assert not replay.settled
    assert len(world.cloudflare.calls) == 1


def test_a_replay_of_a_forced_request_reads_the_rows_and_forces_nothing(world: World) -> None:
    world.cloudflare.answers.append(answering(Verdict(State.FAILED, Code.CLOUDFLARE_REJECTED)))
    run(world, request_row(BARE, force=True))
    replay = run(world, request_row(BARE, force=True, nonce="second time"))
    assert (replay.replayed, outcomes(replay)) == (True, [(Outcome.FAILED, Code.CLOUDFLARE_REJECTED)])
    assert len(world.cloudflare.calls) == 1


def test_the_same_key_with_another_payload_never_executes(world: World) -> None:
    run(world, request_row(BARE))
    answer = release(request_row(OTHER, nonce="second time", fingerprint="other"), world.ports())
    assert isinstance(answer, KeyReused)
    assert len(world.cloudflare.calls) == 1
    assert world.ledger.messages(ACCOUNT, [postfix_part(OTHER)]) == {}


def test_refused_credentials_give_the_claim_back_and_refuse_the_request(world: World) -> None:
    world.cloudflare.answers.append(DENIED)
    request = request_row(BARE)
    refusal = release(request, world.ports())
    assert isinstance(refusal, NotAccepted)
    assert refusal.reason is RefusalReason.CREDENTIALS
    assert kept_request(world, request).state is RequestState.REFUSED
    assert (message(world).state, message(world).owner, message(world).attempts) == (State.RETRYABLE, None, frozenset())
    again = run(world, replace(request, nonce="second time"))
    assert outcomes(again) == [(Outcome.RELEASED, None)]
    assert not again.replayed


@pytest.mark.parametrize("no", [RATE_LIMITED, UNREACHABLE, REJECTED])
def test_a_refusal_that_passes_keeps_the_request_open_and_the_message_free(world: World, no: NoEffect) -> None:
    world.cloudflare.answers.append(no)
    request = request_row(BARE, FULL_OTHER)
    answer = run(world, request)
    assert outcomes(answer) == [(Outcome.IN_PROGRESS, None)] * 2
    assert len(world.cloudflare.calls) == 1
    assert (message(world).state, message(world).attempts) == (State.RETRYABLE, frozenset())
    assert world.queue.sent == [(Hint(request.request_id, 0), 0.0)]
    world.work()
    assert kept_request(world, request).letters == "RR"
    assert told(world, request) == [(Outcome.RELEASED, None)] * 2


@pytest.mark.parametrize("no", [RATE_LIMITED, UNREACHABLE, DENIED])
def test_a_refused_force_is_told_no_at_once_since_nobody_waits_for_it_later(world: World, no: NoEffect) -> None:
    world.cloudflare.answers.append(no)
    request = request_row(BARE, force=True)
    refusal = release(request, world.ports())
    assert isinstance(refusal, NotAccepted)
    assert refusal.reason is no.reason
    assert kept_request(world, request).state is RequestState.REFUSED


def test_a_refused_force_leaves_the_message_as_released_as_it_was(world: World) -> None:
    run(world, request_row(BARE))
    world.cloudflare.answers.append(DENIED)
    assert isinstance(release(request_row(BARE, name="two", force=True), world.ports()), NotAccepted)
    row = message(world)
    assert (row.state, row.owner) == (State.RELEASED, "rq_one")
    assert row.expires_at is not None
    assert outcomes(run(world, request_row(BARE, name="three"))) == [(Outcome.ALREADY_RELEASED, None)]


@pytest.mark.parametrize("no", [RATE_LIMITED, UNREACHABLE, DENIED])
def test_a_second_form_that_is_refused_waits_for_its_turn(world: World, no: NoEffect) -> None:
    world.cloudflare.answers += [answering(DELIVERED), no]
    answer = run(world, request_row(BARE, FULL_OTHER))
    assert outcomes(answer) == [(Outcome.RELEASED, None), (Outcome.IN_PROGRESS, None)]
    assert message(world, OTHER).state is State.RETRYABLE
    world.work()
    assert told(world, answer.request) == [(Outcome.RELEASED, None)] * 2


def test_a_second_form_of_a_forced_request_that_is_refused_ends_without_being_attempted(world: World) -> None:
    world.cloudflare.answers += [answering(DELIVERED), RATE_LIMITED]
    answer = run(world, request_row(BARE, FULL_OTHER, force=True))
    assert outcomes(answer) == [(Outcome.RELEASED, None), (Outcome.FAILED, Code.NOT_ATTEMPTED)]
    assert answer.results[1].retryable
    assert kept_request(world, answer.request).letters == "RN"


def test_a_second_form_without_time_waits_for_its_turn(world: World) -> None:
    world.seconds_left = [20.0, 20.0, 9.0]
    answer = run(world, request_row(BARE, FULL_OTHER))
    assert outcomes(answer) == [(Outcome.RELEASED, None), (Outcome.IN_PROGRESS, None)]
    assert len(world.cloudflare.calls) == 1
    assert world.ledger.messages(ACCOUNT, [postfix_part(OTHER)]) == {}


def test_nothing_is_claimed_without_time_to_call_and_record(world: World) -> None:
    world.seconds_left = [13.9]
    answer = run(world, request_row(BARE))
    assert outcomes(answer) == [(Outcome.IN_PROGRESS, None)]
    assert kept_request(world, answer.request).state is RequestState.OPEN
    assert world.ledger.messages(ACCOUNT, [PART]) == {}
    again = run(world, request_row(BARE, nonce="second time"))
    assert again.replayed


def test_a_force_without_time_is_refused_and_leaves_nothing(world: World) -> None:
    world.seconds_left = [13.9]
    refusal = release(request_row(BARE, force=True), world.ports())
    assert isinstance(refusal, NotAccepted)
    assert refusal.reason is RefusalReason.NO_TIME
    assert world.dynamodb.items == {}


def test_an_accepted_request_that_was_ended_meanwhile_claims_nothing(world: World) -> None:
    world.cloudflare.answers.append(RATE_LIMITED)
    request = request_row(BARE)
    run(world, request)
    open_row = kept_request(world, request)
    world.ledger.close([replace(open_row, state=RequestState.CLOSED, letters="C")])
    assert world.work().stale == 1
    assert told(world, request) == [(Outcome.CANCELLED, None)]
    assert len(world.cloudflare.calls) == 1
    assert message(world).state is State.RETRYABLE


def test_what_nobody_came_to_within_a_day_expires(world: World) -> None:
    world.cloudflare.answers.append(RATE_LIMITED)
    request = request_row(BARE, FULL_OTHER)
    run(world, request)
    world.clock.move(hours=24, minutes=5)
    assert world.work().stale == 1
    sweep(world.ports(), Swept())
    answer = status_of(kept_request(world, request), world.ports())
    assert outcomes(answer) == [(Outcome.EXPIRED, None)] * 2
    assert answer.results[0].retryable
    assert kept_request(world, request).letters == "EE"
    assert len(world.cloudflare.calls) == 1


def test_a_forced_request_is_never_gone_on_with(world: World) -> None:
    world.cloudflare.answers += [all_unknown]
    world.seconds_left = [20.0, 20.0, 9.0]
    request = request_row(BARE, FULL_OTHER, force=True)
    assert outcomes(run(world, request))[1] == (Outcome.FAILED, Code.NOT_ATTEMPTED)
    assert not world.queue.sent
    world.dynamodb.items[f"M#{ACCOUNT}#{PART}"]["state"] = {"S": State.RELEASED}  # settled meanwhile
    world.seconds_left = []
    world.clock.move(seconds=121)
    sweep(world.ports(), Swept())
    assert told(world, request) == [(Outcome.RELEASED, None), (Outcome.FAILED, Code.NOT_ATTEMPTED)]
    assert kept_request(world, request).letters == "RN"
    assert not world.queue.sent
    assert len(world.cloudflare.calls) == 1


def test_going_on_stops_where_time_or_cloudflare_ends(world: World) -> None:
    world.cloudflare.answers += [RATE_LIMITED, DENIED]
    request = request_row(BARE, FULL_OTHER)
    run(world, request)
    world.work()
    ((hint, delay),) = world.queue.sent
    assert hint == Hint(request.request_id, 0)
    assert 30 <= delay <= 90
    assert told(world, request) == [(Outcome.IN_PROGRESS, None)] * 2
    assert kept_request(world, request).state is RequestState.OPEN
    world.seconds_left = [17.9]
    world.work()
    assert world.queue.sent == [(Hint(request.request_id, 0), 0.0)]
    assert len(world.cloudflare.calls) == 2


def test_a_second_worker_with_the_same_hint_finds_nothing_free(world: World) -> None:
    world.cloudflare.answers.append(RATE_LIMITED)
    request = request_row(BARE)
    run(world, request)
    seen: list[list[tuple[Outcome, Code | None]]] = []

    def beside_a_second(ids: Sequence[MessageId]) -> Answered:
        release_hinted([Hint(request.request_id)], world.ports())
        seen.append(told(world, request))
        return Answered(dict.fromkeys(ids, DELIVERED), OK)

    world.cloudflare.answers.append(beside_a_second)
    world.work()
    assert seen == [[(Outcome.IN_PROGRESS, None)]]
    assert not world.queue.sent
    assert len(world.cloudflare.calls) == 2


def test_an_outcome_that_cannot_be_recorded_is_unconfirmed(world: World, faults: list[Fault | None]) -> None:
    faults += [None, Fault.TIMEOUT_BEFORE]
    answer = run(world, request_row(BARE))
    assert outcomes(answer) == [(Outcome.UNCONFIRMED, Code.NO_ANSWER)]
    assert answer.results[0].row is not None
    assert answer.results[0].row.recipients == Recipients()
    assert not answer.settled
    assert message(world).state is State.RELEASING


def test_a_claim_that_cannot_be_made_is_no_answer(world: World, faults: list[Fault | None]) -> None:
    faults += [Fault.TIMEOUT_AFTER]
    with pytest.raises(LedgerUnavailable):
        release(request_row(BARE), world.ports())
    assert world.cloudflare.calls == []


def test_a_second_claim_that_cannot_be_made_keeps_the_first_outcome(world: World, faults: list[Fault | None]) -> None:
    faults += [None, None, Fault.TIMEOUT_BEFORE]
    answer = run(world, request_row(BARE, FULL_OTHER))
    assert outcomes(answer) == [(Outcome.RELEASED, None), (Outcome.IN_PROGRESS, None)]
    assert kept_request(world, answer.request).state is RequestState.OPEN


@pytest.mark.parametrize("fault", [Fault.TIMEOUT_BEFORE, Fault.TIMEOUT_AFTER])
def test_a_refusal_that_may_not_have_been_written_is_neither_yes_nor_no(
    world: World, faults: list[Fault | None], fault: Fault
) -> None:
    faults += [None, fault]
    world.cloudflare.answers.append(DENIED)
    with pytest.raises(LedgerUnavailable):
        release(request_row(BARE), world.ports())


def test_a_claim_that_cannot_be_given_back_is_settled_like_any_other(world: World, faults: list[Fault | None]) -> None:
    faults += [None, Fault.TIMEOUT_BEFORE]
    world.cloudflare.answers.append(RATE_LIMITED)
    answer = run(world, request_row(BARE))
    assert outcomes(answer) == [(Outcome.IN_PROGRESS, None)]
    assert message(world).state is State.RELEASING


def test_an_end_that_cannot_be_written_is_told_all_the_same(world: World, faults: list[Fault | None]) -> None:
    world.cloudflare.answers.append(all_unknown)
    request = request_row(BARE)
    run(world, request)
    row = message(world)
    key = f"M#{ACCOUNT}#{PART}"
    world.dynamodb.items[key]["state"] = {"S": State.RELEASED}
    faults += [None, Fault.TIMEOUT_BEFORE]
    answer = status_of(request, world.ports())
    assert outcomes(answer) == [(Outcome.RELEASED, None)]
    assert kept_request(world, request).state is RequestState.OPEN
    assert outcomes(status_of(request, world.ports())) == [(Outcome.RELEASED, None)]
    assert kept_request(world, request).letters == "R"
    assert message(world).attempt == row.attempt


def test_a_message_that_moves_while_it_is_recorded_is_told_as_it_is(world: World) -> None:
    def settled_by_another(ids: Sequence[MessageId]) -> Answered:
        world.dynamodb.items[f"M#{ACCOUNT}#{PART}"]["state"] = {"S": State.NEEDS_REVIEW}
        return Answered(dict.fromkeys(ids, DELIVERED), OK)

    world.cloudflare.answers.append(settled_by_another)
    answer = run(world, request_row(BARE))
    assert outcomes(answer) == [(Outcome.NEEDS_REVIEW, Code.UNSETTLED)]
    assert not answer.settled


def test_a_request_whose_message_moves_in_every_round_of_its_claim_is_accepted_without_a_call(world: World) -> None:
    class Racing(ModelDynamoDB):
        def transact_write_items(self, **parameters: Any) -> dict[str, Any]:
            item = self.items.get(f"M#{ACCOUNT}#{PART}")
            if item is not None:
                item["attempt"] = {"S": item["attempt"]["S"] + "x"}
            return super().transact_write_items(**parameters)

    world = World(Racing())
    world.cloudflare.answers.append(all_unknown)
    run(world, request_row(BARE))
    answer = run(world, request_row(BARE, name="two"))
    assert outcomes(answer) == [(Outcome.IN_PROGRESS, None)]
    assert answer.request.state is RequestState.OPEN
    assert world.ledger.unclaimed(ACCOUNT, PART) == {"rq_two"}
    assert len(world.cloudflare.calls) == 1


def test_time_for_the_call_is_bounded_by_what_is_left_after_the_record(world: World) -> None:
    given: list[float] = []

    class Timing:
        def release(self, _: object, __: object, ids: Sequence[MessageId], seconds: float) -> Answered:
            given.append(seconds)
            return Answered(dict.fromkeys(ids, DELIVERED), OK)

    for name, left in (("one", [60.0, 60.0]), ("two", [14.0, 12.5])):
        world.seconds_left = left
        run(world, request_row(MessageId(f"4Njp3P0STM{name}"), name=name), cloudflare=Timing())
    assert given == [10.0, 8.5]


def test_a_finished_request_keeps_its_letters_whatever_becomes_of_the_message(world: World) -> None:
    first = request_row(BARE)
    run(world, first)
    world.cloudflare.answers.append(all_unknown)
    run(world, request_row(BARE, name="two", force=True))
    seen = status_of(kept_request(world, first), world.ports())
    assert outcomes(seen) == [(Outcome.RELEASED, None)]
    assert seen.results[0].row is None


def test_attempts_keep_the_outcome_of_the_call_and_how_it_is_known(world: World) -> None:
    run(world, request_row(BARE))
    (attempt,) = world.ledger.attempts(ACCOUNT, [message(world).attempt])
    assert (attempt.state, attempt.evidence, attempt.verdicts) == (
        AttemptState.ANSWERED,
        OK,
        {PART: replace(DELIVERED, message_id=BARE)},
    )
    assert attempt.deadline - attempt.sent_at == timedelta(seconds=90)


def test_a_forced_release_that_was_not_made_is_not_told_as_the_release_it_was_to_repeat(world: World) -> None:
    run(world, request_row(FULL_OTHER))
    world.cloudflare.answers += [answering(DELIVERED), RATE_LIMITED]
    answer = run(world, request_row(BARE, FULL_OTHER, name="two", force=True))
    assert outcomes(answer) == [(Outcome.RELEASED, None), (Outcome.FAILED, Code.NOT_ATTEMPTED)]
    assert kept_request(world, answer.request).letters == "RN"
    assert message(world, OTHER).state is State.RELEASED


def test_a_call_for_which_the_claim_left_no_time_is_not_made(world: World) -> None:
    world.seconds_left = [20.0, 7.0]
    answer = run(world, request_row(BARE))
    assert outcomes(answer) == [(Outcome.IN_PROGRESS, None)]
    assert world.cloudflare.calls == []
    assert (message(world).state, message(world).attempts) == (State.RETRYABLE, frozenset())


def test_a_second_claim_that_is_contended_without_end_keeps_the_first_outcome(
    world: World, faults: list[Fault | None]
) -> None:
    faults += [None, None, *[Fault.CANCELLED] * 8]
    answer = run(world, request_row(BARE, FULL_OTHER))
    assert outcomes(answer) == [(Outcome.RELEASED, None), (Outcome.IN_PROGRESS, None)]


def test_a_refusal_is_told_though_its_message_has_another_owner_by_now(world: World) -> None:
    def denied_beside_another(_: Sequence[MessageId]) -> Any:
        world.dynamodb.items[f"M#{ACCOUNT}#{PART}"] |= {"attempt": {"S": "of another"}}
        return DENIED

    world.cloudflare.answers.append(denied_beside_another)
    request = request_row(BARE)
    assert isinstance(release(request, world.ports()), NotAccepted)
    assert kept_request(world, request).state is RequestState.REFUSED


def many(number: int, start: int = 0) -> list[MessageId]:
    return [MessageId(f"4Njp3P0STMz2c{each:04d}") for each in range(start, start + number)]


def test_what_is_not_done_inline_is_accepted_and_hinted_chunk_by_chunk(world: World) -> None:
    request = request_row(*many(2 * CHUNK + 1))
    answer = release(request, world.ports(), inline=False)
    assert isinstance(answer, Answer)
    assert set(outcomes(answer)) == {(Outcome.IN_PROGRESS, None)}
    assert world.queue.sent == [(Hint(request.request_id, chunk), 0.0) for chunk in range(3)]
    assert kept_request(world, request) == request
    assert world.dynamodb.items.keys() == {f"R#{request.request_id}"}
    assert (world.cloudflare.calls, world.budget.taken) == ([], [])


def test_up_to_98_ids_of_one_form_are_one_call_and_the_rest_is_another(world: World) -> None:
    answer = run(world, request_row(*many(CHUNK + 1)))
    assert [len(ids) for _, ids in world.cloudflare.calls] == [CHUNK, 1]
    assert kept_request(world, answer.request).letters == "R" * (CHUNK + 1)


def test_only_chunks_that_have_something_left_are_hinted(world: World) -> None:
    world.cloudflare.answers += [answering(DELIVERED), RATE_LIMITED]
    run(world, request_row(*many(CHUNK + 1)))
    assert world.queue.sent == [(Hint(request_row().request_id, 1), 0.0)]


def test_a_request_without_anything_to_be_sent_is_closed_though_it_may_not_call(world: World) -> None:
    answer = release(request_row(FULL, FULL[:-1] + "0"), world.ports(), inline=False)
    assert isinstance(answer, Answer)
    assert kept_request(world, answer.request).letters == "II"
    assert not world.queue.sent


def test_above_the_inline_mark_a_plain_request_is_accepted_and_left_to_the_worker(world: World) -> None:
    world.budget.waits.append(12.5)
    request = request_row(BARE)
    assert outcomes(run(world, request)) == [(Outcome.IN_PROGRESS, None)]
    assert kept_request(world, request).state is RequestState.OPEN
    assert world.ledger.messages(ACCOUNT, [PART]) == {}
    assert world.queue.sent == [(Hint(request.request_id, 0), 0.0)]
    assert (world.cloudflare.calls, world.budget.put_back_calls) == ([], 0)
    world.work()
    assert told(world, request) == [(Outcome.RELEASED, None)]
    assert world.budget.taken == [Mark.ALL]


def test_a_plain_request_calls_up_to_the_inline_mark_and_a_forced_one_up_to_the_last(world: World) -> None:
    run(world, request_row(BARE))
    run(world, request_row(BARE, name="two", force=True))
    assert world.budget.taken == [Mark.INLINE, Mark.ALL]


def test_a_force_over_the_budget_is_refused_and_leaves_nothing(world: World) -> None:
    world.budget.waits.append(12.5)
    refusal = release(request_row(BARE, force=True), world.ports())
    assert isinstance(refusal, NotAccepted)
    assert (refusal.reason, refusal.retry_after) == (RefusalReason.RATE_LIMITED, 13)
    assert world.dynamodb.items == {}
    assert (world.queue.sent, world.cloudflare.calls) == ([], [])


def test_a_second_form_over_the_budget_waits_for_its_turn(world: World) -> None:
    world.budget.waits += [0.0, 30.0]
    answer = run(world, request_row(BARE, FULL_OTHER))
    assert outcomes(answer) == [(Outcome.RELEASED, None), (Outcome.IN_PROGRESS, None)]
    assert [hint for hint, _ in world.queue.sent] == [Hint(answer.request.request_id, 0)]
    world.work()
    assert told(world, answer.request) == [(Outcome.RELEASED, None)] * 2


def test_a_second_form_of_a_forced_request_over_the_budget_ends_without_being_attempted(world: World) -> None:
    world.budget.waits += [0.0, 20.0]
    answer = run(world, request_row(BARE, FULL_OTHER, force=True))
    assert outcomes(answer) == [(Outcome.RELEASED, None), (Outcome.FAILED, Code.NOT_ATTEMPTED)]
    assert kept_request(world, answer.request).letters == "RN"
    assert not world.queue.sent


@pytest.mark.parametrize("pause", [{"paused": 30.0}, {"seconds_left": 9.0}], ids=["over the budget", "without time"])
def test_a_replay_of_a_forced_request_needs_no_call_to_be_told(world: World, pause: dict[str, float]) -> None:
    run(world, request_row(BARE, force=True))
    world.budget.paused = pause.get("paused", 0.0)
    world.seconds_left = [pause["seconds_left"]] if "seconds_left" in pause else []
    replay = run(world, request_row(BARE, force=True, nonce="second time"))
    assert (replay.replayed, outcomes(replay)) == (True, [(Outcome.RELEASED, None)])
    other = request_row(OTHER, force=True, fingerprint="other")
    assert isinstance(release(other, world.ports()), KeyReused)


def test_a_force_that_was_refused_is_refused_again_while_calls_pause(world: World) -> None:
    world.cloudflare.answers.append(RATE_LIMITED)
    for paused in (0.0, 30.0):
        world.budget.paused = paused
        assert isinstance(release(request_row(BARE, force=True), world.ports()), NotAccepted)
    assert len(world.cloudflare.calls) == 1


def test_a_force_of_several_ids_that_is_rejected_as_a_whole_is_told_no(world: World) -> None:
    world.cloudflare.answers.append(REJECTED)
    request = request_row(BARE, OTHER, force=True)
    refusal = release(request, world.ports())
    assert isinstance(refusal, NotAccepted)
    assert (refusal.reason, refusal.retry_after) == (RefusalReason.CALL_REJECTED, None)
    assert kept_request(world, request).state is RequestState.REFUSED
    assert {message(world, given).state for given in (BARE, OTHER)} == {State.RETRYABLE}
    assert not world.queue.sent


def test_a_call_that_was_taken_and_not_made_is_put_back(world: World) -> None:
    run(world, request_row(BARE))
    assert world.budget.put_back_calls == 0
    run(world, request_row(BARE, name="already released"))
    assert world.budget.put_back_calls == 1
    run(world, request_row(BARE, nonce="a replay"))
    assert world.budget.put_back_calls == 2
    world.seconds_left = [20.0, 7.0]
    run(world, request_row(OTHER, name="too late"))
    assert world.budget.put_back_calls == 3
    assert len(world.cloudflare.calls) == len(world.budget.heard_of) == 1


def test_a_second_call_whose_claim_fails_is_put_back(world: World, faults: list[Fault | None]) -> None:
    faults += [None, None, Fault.TIMEOUT_BEFORE]
    run(world, request_row(BARE, FULL_OTHER))
    assert (len(world.budget.taken), world.budget.put_back_calls) == (2, 1)


def test_a_second_call_for_which_the_budget_cannot_be_read_keeps_the_first_outcome(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = world.budget.take

    def unavailable_from_the_second_on(*given: Any) -> float:
        if world.cloudflare.calls:
            raise LedgerUnavailable("broken")
        return take(*given)

    monkeypatch.setattr(world.budget, "take", unavailable_from_the_second_on)
    answer = run(world, request_row(BARE, FULL_OTHER))
    assert outcomes(answer) == [(Outcome.RELEASED, None), (Outcome.IN_PROGRESS, None)]
    assert [row.part for row in answer.settled] == [PART]
    assert len(world.queue.sent) == 1


def test_a_budget_that_cannot_be_read_is_no_answer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(*_: Any) -> float:
        raise LedgerUnavailable("broken")

    monkeypatch.setattr(world.budget, "take", unavailable)
    with pytest.raises(LedgerUnavailable):
        release(request_row(BARE), world.ports())
    assert world.dynamodb.items == {}


@pytest.mark.parametrize("called", [Answered({BARE: DELIVERED}, OK, rest=7), RATE_LIMITED, REJECTED, DENIED])
def test_the_budget_hears_of_every_call(world: World, called: Answered | NoEffect) -> None:
    world.cloudflare.answers.append(called)
    release(request_row(BARE), world.ports())
    assert world.budget.heard_of == [called]
    assert world.budget.put_back_calls == 0


class Pausing:
    """A budget whose pause begins after the call was taken: another process has heard 429."""

    def __init__(self, world: World) -> None:
        self.world = world

    def __getattr__(self, name: str) -> Any:
        return getattr(self.world.budget, name)

    def pause_left(self, _: object) -> float:
        return 4.2


@pytest.mark.parametrize("force", [False, True])
def test_a_pause_that_begins_after_the_claim_is_kept(world: World, force: bool) -> None:
    request = request_row(BARE, force=force)
    answer = release(request, world.ports(budget=Pausing(world)))
    assert world.cloudflare.calls == []
    assert world.budget.put_back_calls == 1
    assert (message(world).state, message(world).attempts) == (State.RETRYABLE, frozenset())
    if force:
        assert isinstance(answer, NotAccepted)
        assert (answer.reason, answer.retry_after) == (RefusalReason.RATE_LIMITED, 5)
    else:
        assert isinstance(answer, Answer)
        assert outcomes(answer) == [(Outcome.IN_PROGRESS, None)]
        assert len(world.queue.sent) == 1


class Unknowable(RememberingBudget):
    """Whether there is a pause cannot be told."""

    def pause_left(self, account_id: AccountId) -> float:  # noqa: ARG002
        raise LedgerUnavailable("ThrottlingException")


@pytest.mark.parametrize("force", [False, True])
def test_nothing_is_called_while_nobody_knows_whether_calls_pause(world: World, force: bool) -> None:
    """Found by the simulation, seed 36533: a process that had stood still called into a pause it could not read."""
    budget = Unknowable()
    answer = release(request_row(BARE, force=force), world.ports(budget=budget))
    assert world.cloudflare.calls == []
    assert budget.put_back_calls == 1
    assert message(world).state is State.RETRYABLE
    if force:
        assert isinstance(answer, NotAccepted)
        assert answer.reason is RefusalReason.NO_TIME
    else:
        assert isinstance(answer, Answer)
        assert outcomes(answer) == [(Outcome.IN_PROGRESS, None)]
        assert len(world.queue.sent) == 1


# Cancelling.


def accepted(world: World, *ids: MessageId, name: str = "one") -> RequestRow:
    request = request_row(*ids, name=name)
    release(request, world.ports(), inline=False)
    return request


def test_what_is_cancelled_before_it_was_claimed_is_never_sent(world: World) -> None:
    request = accepted(world, BARE, FULL_OTHER)
    answer = cancel(request, world.ports())
    assert outcomes(answer) == [(Outcome.CANCELLED, None)] * 2
    assert all(result.retryable for result in answer.results)
    kept = kept_request(world, request)
    assert (kept.state, kept.letters, kept.cancelled_at is not None) == (RequestState.CLOSED, "CC", True)
    assert world.work().stale == 1
    assert world.cloudflare.calls == []
    assert outcomes(run(world, request_row(BARE, FULL_OTHER, name="two"))) == [(Outcome.RELEASED, None)] * 2


def test_cancelling_leaves_what_has_ended_as_it_has_ended(world: World) -> None:
    world.cloudflare.answers += [answering(DELIVERED), RATE_LIMITED]
    request = request_row(BARE, FULL_OTHER)
    run(world, request)
    answer = cancel(kept_request(world, request), world.ports())
    assert outcomes(answer) == [(Outcome.RELEASED, None), (Outcome.CANCELLED, None)]
    assert answer.results[1].row is None
    assert kept_request(world, request).letters == "RC"


def test_cancelling_a_request_that_has_ended_changes_nothing(world: World) -> None:
    request = request_row(BARE)
    answer = run(world, request)
    before = dict(world.dynamodb.items)
    assert cancel(answer.request, world.ports()).results == answer.results
    assert world.dynamodb.items == before


def test_cancelling_a_request_that_has_ended_since_it_was_looked_at_changes_nothing(world: World) -> None:
    request = accepted(world, BARE)
    world.ledger.close([replace(request, state=RequestState.CLOSED, letters="E")])
    before = dict(world.dynamodb.items)
    assert outcomes(cancel(request, world.ports())) == [(Outcome.EXPIRED, None)]
    assert world.dynamodb.items == before


@pytest.mark.parametrize(
    ("verdict", "end", "letter"),
    [
        (DELIVERED, (Outcome.RELEASED, None), "R"),
        (Verdict(State.FAILED, Code.CLOUDFLARE_REJECTED), (Outcome.FAILED, Code.CLOUDFLARE_REJECTED), "X"),
        (NO_ANSWER, (Outcome.UNCONFIRMED, Code.NO_ANSWER), None),
    ],
)
def test_an_id_that_is_cancelled_while_its_call_is_under_way_comes_to_what_the_call_comes_to(
    world: World, verdict: Verdict, end: tuple[Outcome, Code | None], letter: str | None
) -> None:
    request = accepted(world, BARE, FULL_OTHER)
    during: list[list[tuple[Outcome, Code | None]]] = []

    def beside_a_cancel(ids: Sequence[MessageId]) -> Answered:
        during.append(outcomes(cancel(kept_request(world, request), world.ports())))
        return Answered(dict.fromkeys(ids, verdict), OK)

    world.cloudflare.answers.append(beside_a_cancel)
    world.work()
    assert during == [[(Outcome.IN_PROGRESS, None), (Outcome.CANCELLED, None)]]
    assert told(world, request) == [end, (Outcome.CANCELLED, None)]
    assert kept_request(world, request).letters == (f"{letter}C" if letter else None)
    assert world.cloudflare.calls == [(WireForm.ARRAY, [BARE])]
    assert not world.queue.sent


def test_a_cancelled_id_whose_call_was_refused_is_not_sent_again(world: World) -> None:
    request = accepted(world, BARE)

    def beside_a_cancel(_: Sequence[MessageId]) -> Any:
        cancel(kept_request(world, request), world.ports())
        return RATE_LIMITED

    world.cloudflare.answers.append(beside_a_cancel)
    world.work()
    assert world.work().stale == 1
    assert len(world.cloudflare.calls) == 1
    assert told(world, request) == [(Outcome.CANCELLED, None)]
    assert kept_request(world, request).letters == "C"


def test_cancelling_twice_is_cancelling_once(world: World) -> None:
    world.cloudflare.answers.append(all_unknown)
    request = request_row(BARE)
    run(world, request)
    cancel(request, world.ports())
    before = dict(world.dynamodb.items)
    cancelled = kept_request(world, request)
    assert (cancelled.state, cancelled.cancelled_at is not None) == (RequestState.OPEN, True)
    assert outcomes(cancel(cancelled, world.ports())) == [(Outcome.UNCONFIRMED, Code.NO_ANSWER)]
    assert world.dynamodb.items == before


def test_an_inline_request_that_is_cancelled_between_its_calls_makes_no_second(world: World) -> None:
    request = request_row(BARE, FULL_OTHER)

    def beside_a_cancel(ids: Sequence[MessageId]) -> Answered:
        cancel(kept_request(world, request), world.ports())
        return Answered(dict.fromkeys(ids, DELIVERED), OK)

    world.cloudflare.answers.append(beside_a_cancel)
    answer = run(world, request)
    assert outcomes(answer) == [(Outcome.RELEASED, None), (Outcome.CANCELLED, None)]
    assert kept_request(world, request).letters == "RC"
    assert len(world.cloudflare.calls) == 1


@pytest.mark.parametrize("fault", [Fault.TIMEOUT_BEFORE, Fault.TIMEOUT_AFTER])
def test_a_cancel_that_may_not_have_been_written_is_neither_yes_nor_no(
    world: World, faults: list[Fault | None], fault: Fault
) -> None:
    request = accepted(world, BARE)
    faults.append(fault)
    with pytest.raises(LedgerUnavailable):
        cancel(request, world.ports())
