"""Many ask for one message at once, and its row is contended: who only asks is accepted, and the trace knows of it."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from quarantine_release.domain.facts import Facts
from quarantine_release.domain.ids import MessageId, PostfixPart, postfix_part
from quarantine_release.domain.ledger_errors import LedgerContended, LedgerUnavailable
from quarantine_release.domain.packing import PlannedCall
from quarantine_release.domain.rows import RequestRow, RequestState, WireForm
from quarantine_release.domain.states import Outcome
from quarantine_release.ledger.table import FEW_TRIES
from quarantine_release.ledger.transactions import DynamoLedger
from quarantine_release.releasing.asking import ask_for
from quarantine_release.releasing.claim import claim
from quarantine_release.releasing.ports import Conflict, Move
from quarantine_release.releasing.progress import Acceptance, Answer, Progress
from quarantine_release.usecases.accepted_request import status_of
from quarantine_release.usecases.release_now import release
from tests.domain.test_packing import want
from tests.support.model_dynamodb import Fault
from tests.support.stand_ins import ACCOUNT, BARE, FULL, NOON, OTHER, World, request_row

PART = postfix_part(BARE)
CONTENDED = [Fault.CONFLICT] * 8


def released(world: World) -> None:
    assert outcome(release(request_row(BARE, name="owner"), world.ports())) is Outcome.RELEASED


def outcome(answer: object) -> Outcome:
    assert isinstance(answer, Answer)
    (result,) = answer.results
    return result.outcome


def unclaimed(world: World) -> frozenset[str]:
    return world.ledger.unclaimed(ACCOUNT, PART)


def kept(world: World, request: RequestRow) -> RequestRow:
    return world.ledger.requests([request.request_id])[request.request_id]


def test_a_request_for_a_released_message_is_answered_though_the_row_is_contended(
    world: World, faults: list[Fault | None]
) -> None:
    released(world)
    request = request_row(BARE, name="late")
    faults += [None, *[Fault.CONFLICT] * FEW_TRIES]
    assert outcome(release(request, world.ports())) is Outcome.ALREADY_RELEASED
    assert faults == []
    assert kept(world, request).state is RequestState.CLOSED
    assert unclaimed(world) == {"rq_late"}
    assert world.ledger.messages(ACCOUNT, [PART])[PART].asks == {"rq_owner"}


def test_a_request_whose_claim_is_contended_to_the_end_is_accepted_and_released_by_the_worker(
    world: World, faults: list[Fault | None]
) -> None:
    request = request_row(BARE)
    faults += CONTENDED
    assert outcome(release(request, world.ports())) is Outcome.IN_PROGRESS
    assert world.cloudflare.calls == []
    assert unclaimed(world) == {"rq_one"}
    world.work()
    assert outcome(status_of(kept(world, request), world.ports())) is Outcome.RELEASED


class RestlessLedger(DynamoLedger):
    """One in which the message's row has moved before each write to it."""

    def claim(self, *_: object, **__: object) -> Conflict | None:
        return self._moved()

    def accept(self, request: RequestRow, asks: Sequence[Move] = ()) -> Conflict | None:
        return self._moved() if asks else super().accept(request)

    def add_requesters(self, asks: Sequence[Move]) -> Conflict | None:
        return self._moved() if asks else None

    def _moved(self) -> Conflict:
        return Conflict({}, dict(self.messages(ACCOUNT, [PART])))


def test_a_request_for_a_row_that_moves_in_every_round_is_accepted(world: World) -> None:
    released(world)
    request = request_row(BARE, name="late")
    assert outcome(release(request, world.ports(ledger=RestlessLedger(world.table)))) is Outcome.ALREADY_RELEASED
    assert kept(world, request).state is RequestState.CLOSED
    assert unclaimed(world) == {"rq_late"}


def test_an_ask_for_a_row_that_moves_in_every_round_is_kept_apart(world: World) -> None:
    released(world)
    run = Progress([request_row(BARE, name="two")], world.ports(ledger=RestlessLedger(world.table)), Acceptance.EARLIER)
    run.learn(world.ledger.messages(ACCOUNT, [PART]))
    ask_for(run, [want(BARE, "two")])
    assert unclaimed(world) == {"rq_two"}


def test_a_forced_request_whose_claim_is_contended_is_not_accepted(world: World, faults: list[Fault | None]) -> None:
    """Nobody would continue with it."""
    faults += CONTENDED
    with pytest.raises(LedgerContended):
        release(request_row(BARE, force=True), world.ports())
    assert world.dynamodb.items == {}


def test_the_worker_leaves_a_contended_claim_for_the_next_hint(world: World, faults: list[Fault | None]) -> None:
    request = request_row(BARE)
    assert world.ledger.accept(request) is None
    faults += CONTENDED
    with pytest.raises(LedgerContended):
        claim(Progress([request], world.ports(), Acceptance.EARLIER), PlannedCall(WireForm.ARRAY, (want(BARE),)))


def test_a_repeat_of_a_key_that_is_contended_is_a_replay(world: World, faults: list[Fault | None]) -> None:
    request = request_row(BARE)
    assert outcome(release(request, world.ports())) is Outcome.RELEASED
    faults += CONTENDED
    again = release(replace(request, nonce="another"), world.ports())
    assert isinstance(again, Answer)
    assert (again.replayed, outcome(again)) == (True, Outcome.RELEASED)
    assert len(world.cloudflare.calls) == 1


def test_asks_of_the_worker_are_kept_next_to_a_contended_row(world: World, faults: list[Fault | None]) -> None:
    released(world)
    requests = [request_row(BARE, OTHER, name=name) for name in ("two", "three")]
    run = Progress(requests, world.ports(), Acceptance.EARLIER)
    run.learn(world.ledger.messages(ACCOUNT, [PART]))
    faults += [Fault.CONFLICT] * FEW_TRIES
    read = Facts(FULL, NOON, was_held=True)
    ask_for(run, [replace(want(BARE, "two", "three"), facts=read), want(MessageId(OTHER), "two")])
    assert world.ledger.known(ACCOUNT, None, [], [], [PART]).facts == {PART: read}
    assert unclaimed(world) == {"rq_two", "rq_three"}
    assert world.ledger.unclaimed(ACCOUNT, PostfixPart(OTHER)) == {"rq_two"}


def test_an_ask_that_cannot_be_kept_fails_no_answer(world: World, faults: list[Fault | None]) -> None:
    released(world)
    faults += [None, *[Fault.CONFLICT] * FEW_TRIES, None, Fault.TIMEOUT_BEFORE]
    assert outcome(release(request_row(BARE, name="late"), world.ports())) is Outcome.ALREADY_RELEASED
    assert faults == []
    assert unclaimed(world) == set()


def test_what_was_read_is_kept_or_the_caller_hears_of_it(world: World, faults: list[Fault | None]) -> None:
    released(world)
    run = Progress([request_row(BARE, name="two")], world.ports(), Acceptance.EARLIER)
    run.learn(world.ledger.messages(ACCOUNT, [PART]))
    faults += [*[Fault.CONFLICT] * FEW_TRIES, Fault.TIMEOUT_BEFORE]
    with pytest.raises(LedgerUnavailable):
        ask_for(run, [replace(want(BARE, "two"), facts=Facts(FULL, NOON, was_held=True))])
