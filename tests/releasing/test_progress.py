"""What requests come to on their way: what ends without a call, and an end that cannot be written."""

from quarantine_release.domain.ids import RequestId, postfix_part
from quarantine_release.domain.rows import RequestState, Target
from quarantine_release.domain.states import Outcome
from tests.releasing.test_claim_and_call import PART, accept, begin, claim_both
from tests.support.model_dynamodb import Fault
from tests.support.stand_ins import BARE, OTHER, World


def test_only_the_request_that_ends_without_a_call_does(world: World) -> None:
    first, second = accept(world, "one", "two")
    run = begin(world, [first, second])
    run.end_without_call(first, [Target(PART, BARE)])
    outcomes = [[result.outcome for result in answer.results] for answer in run.finish()]
    assert outcomes == [[Outcome.EXPIRED, Outcome.IN_PROGRESS], [Outcome.IN_PROGRESS] * 2]


def test_what_has_ended_otherwise_does_not_expire(world: World) -> None:
    run, claims = claim_both(world)
    world.call(run, claims)
    run.end_without_call(run.requests[RequestId("rq_one")], [Target(PART, BARE), Target(postfix_part(OTHER), OTHER)])
    assert [result.outcome for result in run.finish()[0].results] == [Outcome.RELEASED, Outcome.ALREADY_RELEASED]


def test_an_end_that_cannot_be_written_is_told_to_every_request(world: World, faults: list[Fault | None]) -> None:
    run, claims = claim_both(world)
    world.call(run, claims)
    faults.append(Fault.TIMEOUT_BEFORE)
    assert {answer.request.state for answer in run.finish()} == {RequestState.CLOSED}
    kept = world.ledger.requests([RequestId("rq_one"), RequestId("rq_two")])
    assert {request.state for request in kept.values()} == {RequestState.OPEN}
