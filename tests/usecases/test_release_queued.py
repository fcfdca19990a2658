"""The worker's use case: hints of many requests, merged into few calls, and what becomes of those that must wait."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest

from quarantine_release.domain.call_limit import Mark
from quarantine_release.domain.ids import AccountId, MessageId, RequestId, postfix_part
from quarantine_release.domain.ledger_errors import LedgerUnavailable
from quarantine_release.domain.packing import PlannedCall, WantedRelease
from quarantine_release.domain.rows import MessageRow, RequestRow, RequestState, Target, WireForm
from quarantine_release.domain.states import Code, Outcome, State
from quarantine_release.domain.verdicts import Answered, Evidence, NoEffect, RefusalReason, Verdict
from quarantine_release.releasing.claim import Claims, claim
from quarantine_release.releasing.hints import CHUNK
from quarantine_release.releasing.ports import Hint
from quarantine_release.releasing.progress import Acceptance, Progress
from quarantine_release.usecases.accepted_request import cancel, status_of
from quarantine_release.usecases.release_now import release
from quarantine_release.usecases.release_queued import Batch, release_hinted
from tests.support.model_dynamodb import Fault
from tests.support.stand_ins import (
    ACCOUNT,
    BARE,
    DELIVERED,
    FULL,
    NOON,
    OK,
    OTHER,
    TERMS,
    RememberingBudget,
    RememberingReservation,
    World,
    ids,
    request_row,
)

ELSEWHERE = AccountId("b" * 32)
FULL_OTHER = MessageId("4WtWkr6nlBz9sNH-2024-08-28T15:32:35-7")
CONTRARY = MessageId(FULL[:-1] + "0")
RATE_LIMITED = NoEffect(RefusalReason.RATE_LIMITED, Evidence(429), 42)
DENIED = NoEffect(RefusalReason.CREDENTIALS, Evidence(403, (10000,)))
UNREACHABLE = NoEffect(RefusalReason.UNREACHABLE, Evidence(failure="connection_refused"))
REJECTED = NoEffect(RefusalReason.CALL_REJECTED, Evidence(400, (7003,)))
R, A = Outcome.RELEASED, Outcome.ALREADY_RELEASED


def accept(world: World, *given: MessageId, name: str = "one", **members: Any) -> RequestRow:
    """Accept a request and leave it to the worker."""
    request = request_row(*given, name=name, **members)
    release(request, world.ports(), inline=False)
    return request


def told(world: World, request: RequestRow) -> list[Outcome]:
    return [result.outcome for result in status_of(kept(world, request), world.ports()).results]


def kept(world: World, request: RequestRow) -> RequestRow:
    return world.ledger.requests([request.request_id])[request.request_id]


def message(world: World, given: MessageId = BARE) -> MessageRow:
    return world.ledger.messages(ACCOUNT, [postfix_part(given)])[postfix_part(given)]


def sizes(world: World) -> list[int]:
    return [len(given) for _, given in world.cloudflare.calls]


# Few calls.


def test_up_to_98_ids_of_one_request_are_one_call(world: World) -> None:
    request = accept(world, *ids(98))
    batch = world.work()
    assert (sizes(world), batch.calls) == ([98], 1)
    assert kept(world, request).letters == "R" * 98
    assert len(batch.settled) == 98
    assert batch.requests[request.request_id].state is RequestState.CLOSED
    assert not world.queue.sent


def test_a_thousand_ids_of_one_request_are_eleven_calls(world: World) -> None:
    request = accept(world, *ids(1000))
    assert len(world.queue.sent) == 11
    world.work()
    assert sizes(world) == [98] * 10 + [20]
    assert [given for _, call in world.cloudflare.calls for given in call] == ids(1000)
    assert kept(world, request).letters == "R" * 1000
    assert world.budget.taken == [Mark.ALL] * 11
    assert len(world.budget.heard_of) == 11


def test_requests_for_one_message_each_share_calls_of_49(world: World) -> None:
    requests = [accept(world, each, name=str(number)) for number, each in enumerate(ids(100))]
    world.work()
    assert sizes(world) == [49, 49, 2]
    assert {kept(world, request).letters for request in requests} == {"R"}
    # As many actions as a transaction takes: a larger claim would be refused by DynamoDB, and by its model.
    assert message(world, ids(1)[0]).attempt != message(world, ids(50)[49]).attempt


def test_many_who_ask_for_one_message_have_it_released_once_for_the_first(world: World) -> None:
    requests = [accept(world, BARE, name=f"{number:02d}") for number in range(30)]
    world.work()
    assert world.cloudflare.calls == [(WireForm.ARRAY, [BARE])]
    assert [told(world, request) for request in requests] == [[R]] + [[A]] * 29
    assert [kept(world, request).letters for request in requests] == ["R"] + ["A"] * 29
    assert message(world).owner == requests[0].request_id
    assert message(world).asks == {request.request_id for request in requests}


def test_a_fuller_id_that_nobody_has_read_is_not_used_for_another_request(world: World) -> None:
    first, second = accept(world, BARE), accept(world, FULL, name="two")
    world.work()
    assert world.cloudflare.calls == [(WireForm.ARRAY, [BARE])]
    assert (told(world, first), told(world, second)) == ([R], [A])
    assert message(world).asks == {first.request_id, second.request_id}


def test_each_is_sent_under_its_own_id_until_one_is_not_rejected(world: World) -> None:
    world.cloudflare.answers.append(rejected)
    first, second = accept(world, CONTRARY), accept(world, FULL, name="two")
    third = accept(world, BARE, name="three")
    world.work()
    assert world.cloudflare.calls == [(WireForm.OBJECT, [CONTRARY])]
    assert told(world, first) == [Outcome.FAILED]
    assert [told(world, each) for each in (second, third)] == [[Outcome.IN_PROGRESS]] * 2
    world.work()
    assert world.cloudflare.calls[1:] == [(WireForm.OBJECT, [FULL])]
    assert [told(world, each) for each in (first, second, third)] == [[Outcome.FAILED], [R], [A]]


def test_what_was_rejected_under_both_ids_is_sent_under_neither_again(world: World) -> None:
    lost = Answered({OTHER: Verdict(State.UNKNOWN, Code.NO_ANSWER)}, Evidence(failure="deadline"))
    world.cloudflare.answers += [rejected, lost, rejected]
    requests = [accept(world, CONTRARY, OTHER), accept(world, FULL, OTHER, name="two")]
    for _ in range(3):
        world.work()
        world.queue.send([Hint(request.request_id) for request in requests])
    assert [told(world, each)[0] for each in requests] == [Outcome.FAILED] * 2
    assert message(world).rejected == {CONTRARY}
    assert sorted(ids for _, (ids, *_) in world.cloudflare.calls) == sorted([CONTRARY, FULL, OTHER])


def rejected(given: Sequence[MessageId]) -> Answered:
    return Answered(dict.fromkeys(given, Verdict(State.FAILED, Code.CLOUDFLARE_REJECTED)), Evidence(404))


def test_both_wire_forms_go_apart(world: World) -> None:
    requests = [accept(world, BARE, FULL_OTHER), accept(world, ids(1)[0], name="two")]
    world.work()
    assert world.cloudflare.calls == [(WireForm.ARRAY, [BARE, ids(1)[0]]), (WireForm.OBJECT, [FULL_OTHER])]
    assert [kept(world, request).letters for request in requests] == ["RR", "R"]


def test_a_setting_forces_one_wire_form(world: World) -> None:
    accept(world, BARE, FULL_OTHER)
    world.work(wire_form=WireForm.OBJECT)
    assert world.cloudflare.calls == [(WireForm.OBJECT, [BARE, FULL_OTHER])]


# What a hint stands for.


def test_a_hint_stands_for_its_chunk_and_no_more(world: World) -> None:
    request = accept(world, *ids(CHUNK + 5))
    release_hinted([Hint(request.request_id, 1)], world.ports())
    assert world.cloudflare.calls == [(WireForm.ARRAY, ids(5, CHUNK))]
    assert told(world, request) == [Outcome.IN_PROGRESS] * CHUNK + [R] * 5
    assert kept(world, request).state is RequestState.OPEN


def test_a_hint_at_a_chunk_that_the_request_does_not_have_finds_nothing(world: World) -> None:
    request = accept(world, BARE)
    batch = release_hinted([Hint(request.request_id, 1)], world.ports())
    assert (world.cloudflare.calls, batch.failed, world.budget.taken) == ([], set(), [])


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_who_sees_all_of_a_request_ended_closes_it_though_another_did_the_rest(
    world: World, order: Sequence[int]
) -> None:
    request = accept(world, *ids(CHUNK + 5))
    release_hinted([Hint(request.request_id, order[0])], world.ports())
    assert kept(world, request).state is RequestState.OPEN
    release_hinted([Hint(request.request_id, order[1])], world.ports())
    assert kept(world, request).letters == "R" * (CHUNK + 5)


def test_the_whole_request_and_its_chunks_are_the_same_messages(world: World) -> None:
    request = accept(world, *ids(CHUNK + 5))
    hints = [Hint(request.request_id, 1), Hint(request.request_id), *world.queue.taken()]
    release_hinted(hints, world.ports())
    assert sorted(sizes(world)) == [5, CHUNK]
    assert kept(world, request).letters == "R" * (CHUNK + 5)


def test_what_has_been_released_meanwhile_is_told_and_costs_no_call(world: World) -> None:
    release(request_row(BARE, name="before"), world.ports())
    request = accept(world, BARE)
    world.budget.taken.clear()
    world.work()
    assert len(world.cloudflare.calls) == 1
    assert world.budget.taken == []
    assert kept(world, request).letters == "A"
    assert message(world).asks == {"rq_before", request.request_id}


def test_what_is_under_way_for_another_is_asked_for_and_left(world: World) -> None:
    world.cloudflare.answers.append(lambda given: Answered(dict.fromkeys(given, Verdict(State.UNKNOWN)), OK))
    release(request_row(BARE, name="before"), world.ports())
    request = accept(world, BARE)
    world.queue.send([Hint(request.request_id)])
    batch = world.work()
    assert (len(world.cloudflare.calls), batch.failed, world.queue.sent) == (1, set(), [])
    assert kept(world, request).state is RequestState.OPEN
    assert message(world).asks == {"rq_before", request.request_id}


def test_ids_of_two_requests_that_contradict_one_another_never_share_a_message(world: World) -> None:
    first, second = accept(world, FULL), accept(world, CONTRARY, name="two")
    world.work()
    world.work()
    assert world.cloudflare.calls == [(WireForm.OBJECT, [FULL])]
    assert kept(world, first).letters == "R"
    assert kept(world, second).letters == "I"
    assert not world.queue.sent


def test_nobody_gets_a_message_that_his_own_id_contradicts(world: World) -> None:
    first, second = accept(world, FULL), accept(world, CONTRARY, name="two")
    world.work(budget=Beside(world, lambda: cancel(first, world.ports())))
    assert world.cloudflare.calls == []
    world.work()
    assert world.cloudflare.calls == [(WireForm.OBJECT, [CONTRARY])]
    assert told(world, second) == [R]


def test_a_contradicting_id_of_another_keeps_no_message_from_who_names_it_rightly(world: World) -> None:
    world.cloudflare.answers.append(RATE_LIMITED)
    release(request_row(FULL, name="before"), world.ports())
    world.queue.taken()
    first, second = accept(world, BARE), accept(world, CONTRARY, name="two")
    for _ in range(2):
        world.work()
    assert (told(world, first), told(world, second)) == ([R], [A])  # Cloudflare has told only the Postfix id
    assert world.cloudflare.calls[1:] == [(WireForm.ARRAY, [BARE])]


# Hints that find nothing.


def is_acknowledged(batch: Batch, stale: int) -> bool:
    return (batch.stale, batch.failed, batch.calls) == (stale, set(), 0)


def test_a_hint_that_is_delivered_twice_is_worked_off_once(world: World) -> None:
    request = accept(world, BARE)
    batch = release_hinted([Hint(request.request_id, 0)] * 2, world.ports())
    assert (batch.hints, batch.calls, batch.failed) == (2, 1, set())
    assert is_acknowledged(release_hinted([Hint(request.request_id, 0)], world.ports()), stale=1)
    assert len(world.cloudflare.calls) == 1


def test_a_hint_that_is_delivered_twice_and_must_wait_goes_out_once(world: World) -> None:
    request = accept(world, BARE)
    world.queue.taken()
    world.budget.waits.append(12.5)
    release_hinted([Hint(request.request_id, 0)] * 3, world.ports())
    assert world.queue.sent == [(Hint(request.request_id, 0), 12.5)]


@pytest.mark.parametrize("why", ["closed", "cancelled", "expired", "forced", "unknown", "refused"])
def test_a_hint_at_what_nothing_is_sent_for_any_more_is_acknowledged_and_counted(world: World, why: str) -> None:
    request = accept(world, BARE, force=why == "forced")
    match why:
        case "closed":
            world.ledger.close([replace(request, state=RequestState.CLOSED, letters="R")])
        case "refused":
            world.ledger.close([replace(request, state=RequestState.REFUSED)])
        case "cancelled":
            world.ledger.cancel(replace(request, cancelled_at=NOON))
        case "expired":
            world.clock.move(hours=24)
        case "unknown":
            world.dynamodb.items.clear()
    good = accept(world, OTHER, name="good", created_at=world.clock())
    batch = release_hinted([Hint(request.request_id), Hint(good.request_id)], world.ports())
    assert (batch.stale, batch.failed, batch.calls, batch.hints) == (1, set(), 1, 2)
    assert world.cloudflare.calls == [(WireForm.ARRAY, [OTHER])]


@pytest.mark.parametrize("hours", [1, 24])
def test_a_request_is_gone_on_with_until_its_lifetime_is_over(world: World, hours: int) -> None:
    terms = replace(TERMS, request_lifetime=timedelta(hours=hours))
    late = accept(world, OTHER, name="late")
    world.clock.move(seconds=1)
    request = accept(world, BARE, created_at=world.clock())
    world.clock.now = NOON + timedelta(hours=hours)
    assert world.work(terms=terms).stale == 1
    assert told(world, request) == [R]
    assert told(world, late) == [Outcome.IN_PROGRESS]


def test_no_hints_are_no_work(world: World) -> None:
    assert is_acknowledged(world.work(), stale=0)


# The ledger fails.


def test_if_the_requests_cannot_be_read_every_hint_is_delivered_again(world: World, faults: list[Fault | None]) -> None:
    request = accept(world, BARE)
    hints = [Hint(request.request_id, 0), Hint(RequestId("rq_unknown"))]
    faults.append(Fault.TIMEOUT_BEFORE)
    batch = release_hinted(hints, world.ports())
    assert (batch.failed, batch.stale, batch.calls) == (set(hints), 0, 0)


@pytest.mark.parametrize("failing", ["messages", "claim"])
def test_a_ledger_that_fails_for_one_account_leaves_the_work_of_the_other_done(
    world: World, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    bad, good = accept(world, BARE), accept(world, BARE, name="two", account_id=ELSEWHERE)
    hints = world.queue.taken()
    works = getattr(world.ledger, failing)

    def fails(*given: Any, **named: Any) -> Any:
        account = given[0] if failing == "messages" else given[0].account_id
        if account == ACCOUNT:
            raise LedgerUnavailable("broken")
        return works(*given, **named)

    monkeypatch.setattr(world.ledger, failing, fails)
    batch = release_hinted(hints, world.ports())
    assert batch.failed == {Hint(bad.request_id, 0)}
    assert kept(world, good).letters == "R"
    assert not world.queue.sent
    monkeypatch.undo()
    assert release_hinted(list(batch.failed), world.ports()).failed == set()
    assert kept(world, bad).letters == "R"


def test_what_was_released_before_the_ledger_failed_is_told(world: World, faults: list[Fault | None]) -> None:
    request = accept(world, BARE, FULL_OTHER)
    faults += [*[None] * 4, Fault.TIMEOUT_BEFORE]  # two reads, claim, record; then the second claim
    batch = world.work()
    assert batch.failed == {Hint(request.request_id, 0)}
    assert [row.part for row in batch.settled] == [postfix_part(BARE)]


# What must wait.


@dataclass
class Budgets:
    """A budget for each account: one of them must wait."""

    world: World
    waiting: AccountId
    seconds: float

    def reserve(self, account_id: AccountId, mark: Mark) -> RememberingReservation:
        budget = self.world.budget
        return RememberingReservation(
            RememberingBudget(waits=deque([self.seconds])) if account_id == self.waiting else budget, account_id, mark
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self.world.budget, name)


@pytest.mark.parametrize("seconds", [0.5, 12.5, 300.0])
def test_what_the_budget_does_not_allow_is_hinted_at_again_after_the_wait_and_not_claimed(
    world: World, seconds: float
) -> None:
    request = accept(world, *ids(CHUNK + 1))
    hints = world.queue.taken()
    world.budget.waits.append(seconds)
    batch = release_hinted(hints, world.ports())
    assert world.queue.sent == [(hint, seconds) for hint in hints]
    assert (batch.calls, batch.failed, world.cloudflare.calls) == (0, set(), [])
    assert world.ledger.messages(ACCOUNT, [postfix_part(each) for each in ids(CHUNK + 1)]) == {}
    assert kept(world, request).state is RequestState.OPEN


@pytest.mark.parametrize(("seconds", "is_put_off"), [(29.0, False), (30.0, True), (300.0, True)])
def test_the_sweep_is_told_of_a_long_wait(world: World, seconds: float, is_put_off: bool) -> None:
    request = accept(world, BARE)
    world.budget.waits.append(seconds)
    world.work()
    due = world.ledger.open_requests(NOON + timedelta(seconds=seconds - 1), 9)
    assert due == ([] if is_put_off else [request])
    assert world.ledger.open_requests(NOON + timedelta(seconds=seconds + 1), 9) == [request]


def test_an_account_that_must_wait_holds_up_no_other(world: World) -> None:
    requests = [accept(world, BARE, name=each[0], account_id=each) for each in (ACCOUNT, ELSEWHERE)]
    world.work(budget=Budgets(world, ACCOUNT, 100.0))
    assert [kept(world, request).state for request in requests] == [RequestState.OPEN, RequestState.CLOSED]
    assert world.queue.sent == [(Hint(requests[0].request_id, 0), 100.0)]


@dataclass
class Slow:
    """A Cloudflare whose calls for one account take all the time that they are given."""

    slow: AccountId
    left: float = 60.0
    calls: list[AccountId] = field(default_factory=list)

    def release(self, account_id: AccountId, _: WireForm, given: Sequence[MessageId], seconds: float) -> Answered:
        self.calls.append(account_id)
        self.left -= seconds if account_id == self.slow else 0.1
        return Answered(dict.fromkeys(given, DELIVERED), OK)


def test_accounts_take_turns_call_by_call(world: World) -> None:
    large = accept(world, *ids(10 * CHUNK))
    small = accept(world, *ids(2 * CHUNK), name="two", account_id=ELSEWHERE)
    slow = Slow(ACCOUNT)
    hints = world.queue.taken()
    release_hinted(hints, world.ports(cloudflare=slow, time_left=lambda: slow.left))
    assert slow.calls == [ACCOUNT, ELSEWHERE, ACCOUNT, ELSEWHERE, ACCOUNT, ACCOUNT, ACCOUNT]
    assert kept(world, small).letters == "R" * 2 * CHUNK
    assert world.queue.sent == [(Hint(large.request_id, chunk), 0.0) for chunk in range(5, 10)]


def test_a_429_in_the_middle_ends_the_calls_and_the_rest_waits_as_long_as_cloudflare_says(world: World) -> None:
    request = accept(world, *ids(4 * CHUNK))
    world.cloudflare.answers += [lambda given: Answered(dict.fromkeys(given, DELIVERED), OK), RATE_LIMITED]
    batch = world.work()
    assert sizes(world) == [CHUNK, CHUNK]
    assert world.queue.sent == [(Hint(request.request_id, chunk), 42.0) for chunk in (1, 2, 3)]
    assert (batch.calls, len(batch.settled)) == (2, CHUNK)
    assert told(world, request) == [R] * CHUNK + [Outcome.IN_PROGRESS] * 3 * CHUNK
    assert message(world, ids(1, CHUNK)[0]).state is State.RETRYABLE
    assert world.budget.heard_of[1:] == [RATE_LIMITED]
    world.work()
    assert kept(world, request).letters == "R" * 4 * CHUNK


@pytest.mark.parametrize("no", [DENIED, UNREACHABLE])
@pytest.mark.parametrize(("second", "delay"), [(0.0, 60.0), (29.5, 30.5), (31.0, 89.0), (59.0, 61.0)])
def test_what_is_refused_without_saying_for_how_long_comes_back_on_the_minute(
    world: World, no: NoEffect, second: float, delay: float
) -> None:
    request = accept(world, BARE, FULL_OTHER)
    world.cloudflare.answers.append(no)
    world.clock.now = NOON + timedelta(seconds=second)
    world.work()
    ((hint, waited),) = world.queue.sent
    assert hint == Hint(request.request_id, 0)
    assert waited == pytest.approx(delay, abs=0.5)
    assert len(world.cloudflare.calls) == 1
    assert kept(world, request).state is RequestState.OPEN
    assert (message(world).state, message(world).attempts) == (State.RETRYABLE, frozenset())
    world.work()
    assert told(world, request) == [R, R]


def test_without_time_for_a_call_and_its_record_the_hints_go_out_again_at_once(world: World) -> None:
    request = accept(world, BARE)
    world.seconds_left = [17.9]
    world.work()
    assert world.queue.sent == [(Hint(request.request_id, 0), 0.0)]
    assert (world.cloudflare.calls, world.budget.taken) == ([], [])
    assert world.ledger.messages(ACCOUNT, [postfix_part(BARE)]) == {}


def test_a_call_for_which_the_claim_left_no_time_is_not_made_and_hinted_at_again_at_once(world: World) -> None:
    request = accept(world, BARE)
    world.seconds_left = [18.0, 18.0, 7.9]
    world.work()
    assert world.queue.sent == [(Hint(request.request_id, 0), 0.0)]
    assert (world.cloudflare.calls, world.budget.put_back_calls) == ([], 1)
    assert message(world).state is State.RETRYABLE


def test_a_pause_that_begins_after_the_claim_ends_the_calls(world: World) -> None:
    request = accept(world, BARE, FULL_OTHER)
    world.budget.waits.append(0.0)
    world.budget.paused = 12.5
    world.work()
    assert world.queue.sent == [(Hint(request.request_id, 0), 13.0)]
    assert (world.cloudflare.calls, world.budget.put_back_calls) == ([], 1)


def test_a_rest_that_an_answer_asks_for_is_kept_by_the_next_call(world: World) -> None:
    accept(world, BARE, FULL_OTHER)
    answer = Answered({BARE: DELIVERED}, OK, rest=20)
    world.cloudflare.answers.append(answer)
    world.budget.waits += [0.0, 20.0]
    world.work()
    assert world.budget.heard_of == [answer]
    assert [delay for _, delay in world.queue.sent] == [20.0]


# Others at the same time.


@dataclass
class ReservationBeside(RememberingReservation):
    """A reservation that somebody else gets in before, when its call is taken."""

    act: Callable[[], object] = lambda: None

    def take(self) -> float:
        if not self.is_taken:
            self.act()
        return super().take()


@dataclass
class Beside:
    """A budget in whose stead somebody else acts, between the worker's read and its claim."""

    world: World
    act: Callable[[], object] | None

    def reserve(self, account_id: AccountId, mark: Mark) -> ReservationBeside:
        return ReservationBeside(self.world.budget, account_id, mark, act=self._act_once)

    def _act_once(self) -> None:
        act, self.act = self.act, None
        if act is not None:
            act()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.world.budget, name)


def test_a_cancel_between_read_and_claim_is_in_time(world: World) -> None:
    request, other = accept(world, BARE, OTHER), accept(world, OTHER, name="two")
    beside = Beside(world, lambda: cancel(request, world.ports()))
    batch = world.work(budget=beside)
    assert world.cloudflare.calls == [(WireForm.ARRAY, [OTHER])]
    assert kept(world, request).letters == "CC"
    assert (kept(world, other).letters, message(world, OTHER).owner) == ("R", other.request_id)
    assert batch.failed == set()
    assert not world.queue.sent


def test_a_request_that_is_refused_between_read_and_claim_is_left_alone(world: World) -> None:
    request = accept(world, BARE)
    refused = replace(request, state=RequestState.REFUSED, closed_at=NOON)
    world.work(budget=Beside(world, lambda: world.ledger.close([refused])))
    assert (world.cloudflare.calls, world.queue.sent) == ([], [])
    assert kept(world, request) == refused


def test_a_claim_that_finds_nothing_left_is_no_call(world: World) -> None:
    request = accept(world, BARE)
    world.work(budget=Beside(world, lambda: cancel(request, world.ports())))
    assert world.cloudflare.calls == []
    assert (len(world.budget.taken), world.budget.put_back_calls) == (1, 1)
    assert world.ledger.messages(ACCOUNT, [postfix_part(BARE)]) == {}


def test_what_another_worker_claims_between_read_and_claim_is_left_to_it(world: World) -> None:
    request = accept(world, *ids(3))
    hints = world.queue.taken()
    batch = release_hinted(hints, world.ports(budget=Beside(world, lambda: release_hinted(hints, world.ports()))))
    assert sizes(world) == [3]
    assert batch.calls == 0
    assert kept(world, request).letters == "RRR"
    assert not world.queue.sent


def test_an_id_that_another_worker_had_claimed_before_the_cancel_comes_to_what_its_call_comes_to(world: World) -> None:
    world.cloudflare.answers.append(RATE_LIMITED)
    release(request_row(FULL_OTHER, name="before"), world.ports())
    world.queue.taken()
    request, part = accept(world, BARE, FULL_OTHER), postfix_part(FULL_OTHER)
    another = Progress([request], world.ports(), Acceptance.EARLIER)
    claimed: list[Claims] = []

    def claim_and_cancel() -> None:
        another.learn(world.ledger.messages(ACCOUNT, [part]))
        want = WantedRelease(Target(part, FULL_OTHER), (request.request_id,), {request.request_id: None})
        claims = claim(another, PlannedCall(WireForm.OBJECT, (want,)))
        assert isinstance(claims, Claims)
        claimed.append(claims)
        cancel(request, world.ports())

    world.work(budget=Beside(world, claim_and_cancel))
    assert world.call(another, claimed[0]) is None
    assert message(world, OTHER).state is State.RELEASED
    assert told(world, request) == [Outcome.CANCELLED, R]


def test_if_the_first_who_wants_many_messages_cancels_the_others_get_theirs(world: World) -> None:
    first = accept(world, *ids(98))
    others = [accept(world, each, name=f"{number:02d}") for number, each in enumerate(ids(98))]
    batch = world.work(budget=Beside(world, lambda: cancel(first, world.ports())))
    assert batch.failed == set()
    world.work()
    assert {kept(world, request).letters for request in others} == {"R"}


# A call with several ids is rejected as a whole.


def test_if_a_rejection_releases_nothing_the_rest_goes_out_in_smaller_calls_without_wait_or_read(world: World) -> None:
    bad = ids(98)[42]

    def atomic(given: Sequence[MessageId]) -> Any:
        if bad not in given:
            return Answered(dict.fromkeys(given, DELIVERED), OK)
        return REJECTED if len(given) > 1 else Answered({bad: Verdict(State.FAILED, Code.CLOUDFLARE_REJECTED)}, OK)

    world.cloudflare.answers += [atomic] * 99
    request, beside = accept(world, *ids(98)), accept(world, FULL_OTHER, name="two")
    world.work()
    assert sizes(world) == [98, 1]
    assert kept(world, beside).letters == "R"
    assert world.queue.sent == [(Hint(request.request_id, 0), 0.0)]
    assert {message(world, each).largest_call for each in ids(98)} == {10}
    world.work()
    assert sizes(world)[2:] == [10] * 9 + [8]
    assert world.queue.sent == [(Hint(request.request_id, 0), 0.0)]
    world.work()
    assert sizes(world)[12:] == [1] * 10
    assert not world.queue.sent
    assert kept(world, request).letters == "R" * 42 + "X" + "R" * 55
    for given in ids(98):
        row = message(world, given)
        assert len(row.attempts) == 1
        assert row.refusals == (2 if 40 <= ids(98).index(given) < 50 else 1)
    assert world.reader.wanted == []
