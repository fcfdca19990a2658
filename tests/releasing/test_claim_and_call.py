"""Claim, call, record for many requests at once: for whom a message is claimed, and what each is told."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from quarantine_release.domain.guard import Ended
from quarantine_release.domain.ids import MessageId, PostfixPart, RequestId, postfix_part
from quarantine_release.domain.ledger_errors import LedgerUnavailable
from quarantine_release.domain.packing import PlannedCall, plan_calls
from quarantine_release.domain.rows import AttemptState, MessageRow, RequestRow, RequestState, WireForm, parse_targets
from quarantine_release.domain.states import Code, Outcome, State
from quarantine_release.domain.transitions import ASKS_KEPT
from quarantine_release.domain.verdicts import Answered, Evidence, NoEffect, RefusalReason, Verdict
from quarantine_release.releasing.asking import ask_each, ask_for
from quarantine_release.releasing.claim import Claims, claim
from quarantine_release.releasing.progress import Acceptance, Progress
from tests.domain.test_packing import want
from tests.support.model_dynamodb import Fault
from tests.support.stand_ins import ACCOUNT, BARE, DELIVERED, NOON, OK, OTHER, TERMS, World, ids, request_row

PART = postfix_part(BARE)
REJECTED = NoEffect(RefusalReason.CALL_REJECTED, Evidence(400, (7003,)))


def accept(world: World, *names: str, **members: object) -> list[RequestRow]:
    requests = [request_row(BARE, OTHER, name=name, **members) for name in names]
    for request in requests:
        assert world.ledger.accept(request) is None
    return requests


def begin(world: World, requests: Sequence[RequestRow]) -> Progress:
    run = Progress(requests, world.ports(), Acceptance.EARLIER)
    run.learn(world.ledger.messages(ACCOUNT, [PART, postfix_part(OTHER)]))
    return run


def cancel(world: World, request: RequestRow) -> None:
    assert world.ledger.cancel(replace(request, cancelled_at=NOON)) is None


def owner_of(world: World, given: MessageId = BARE) -> RequestId | None:
    return world.ledger.messages(ACCOUNT, [postfix_part(given)])[postfix_part(given)].owner


CALL = PlannedCall(WireForm.ARRAY, (want(BARE, "one", "two"), want(OTHER, "two")))


def test_a_message_is_claimed_for_the_first_who_wants_it_and_all_are_in_its_trace(world: World) -> None:
    run = begin(world, accept(world, "one", "two"))
    claims = claim(run, CALL)
    assert isinstance(claims, Claims)
    assert claims.attempt.owners == {PART: "rq_one", postfix_part(OTHER): "rq_two"}
    kept = world.ledger.messages(ACCOUNT, [PART, postfix_part(OTHER)])
    assert kept == {move.after.part: move.after for move in claims.moves} == run.rows
    assert kept[PART].owner == "rq_one"
    assert kept[PART].asks == {"rq_one", "rq_two"}
    assert world.ledger.attempts(ACCOUNT, [claims.attempt.attempt]) == [claims.attempt]


def test_whom_a_request_does_not_know_is_not_asked_for(world: World) -> None:
    run = begin(world, accept(world, "two"))
    claims = claim(run, CALL)
    assert isinstance(claims, Claims)
    assert {each.owner for each in run.rows.values()} == {"rq_two"}
    assert run.rows[PART].asks == {"rq_two"}


@pytest.mark.parametrize("end", ["cancelled", "closed", "gone"])
def test_a_request_that_ends_between_read_and_claim_gets_nothing_and_the_next_does(world: World, end: str) -> None:
    first, second = accept(world, "one", "two")
    run = begin(world, [first, second])
    match end:
        case "cancelled":
            cancel(world, first)
        case "closed":
            world.ledger.close([replace(first, state=RequestState.CLOSED, letters="CC")])
        case "gone":
            del world.dynamodb.items["R#rq_one"]
    claims = claim(run, CALL)
    assert isinstance(claims, Claims)
    assert {owner_of(world, given) for given in (BARE, OTHER)} == {"rq_two"}
    assert ("rq_one" in run.requests) == (end != "gone")
    assert ("rq_one" in run.rows[PART].asks) == (end != "gone")
    answers = {answer.request.request_id: answer for answer in run.finish()}
    assert answers.keys() == ({"rq_two"} if end == "gone" else {"rq_one", "rq_two"})


def test_a_cancel_between_read_and_claim_leaves_no_trace_of_the_claim(world: World) -> None:
    (request,) = accept(world, "one")
    run = begin(world, [request])
    cancel(world, request)
    before = dict(world.dynamodb.items)
    assert claim(run, PlannedCall(WireForm.ARRAY, (want(BARE), want(OTHER)))) is None
    assert world.dynamodb.items == before
    (answer,) = run.finish()
    assert [result.outcome for result in answer.results] == [Outcome.CANCELLED] * 2
    assert world.ledger.requests([request.request_id])[request.request_id].letters == "CC"


def test_what_another_has_claimed_meanwhile_is_told_and_the_rest_is_claimed(world: World) -> None:
    first, second = accept(world, "one", "two")
    run, other = begin(world, [second]), begin(world, [first])
    claim(other, PlannedCall(WireForm.ARRAY, (want(BARE, "one"),)))
    claims = claim(run, CALL)
    assert isinstance(claims, Claims)
    assert [each.message_id for each in claims.attempt.targets] == [OTHER]
    assert (run.rows[PART].owner, run.rows[PART].state) == ("rq_one", State.RELEASING)
    assert owner_of(world) == "rq_one"
    assert world.ledger.messages(ACCOUNT, [PART])[PART].asks == {"rq_one", "rq_two"}


def test_a_claim_of_nothing_writes_nothing(world: World) -> None:
    first, second = accept(world, "one", "two")
    claim(begin(world, [first, second]), CALL)
    run = begin(world, [second])
    before = dict(world.dynamodb.items)
    assert claim(run, CALL) is None
    assert world.dynamodb.items == before


def test_a_claim_of_what_is_under_way_for_another_is_an_ask_and_no_attempt(world: World) -> None:
    first, second = accept(world, "one", "two")
    claim(begin(world, [first]), PlannedCall(WireForm.ARRAY, (want(BARE), want(OTHER))))
    rows = world.dynamodb.items.keys()
    before = set(rows)
    assert claim(begin(world, [second]), CALL) is None
    assert set(rows) == before
    assert world.ledger.messages(ACCOUNT, [PART])[PART].asks == {"rq_one", "rq_two"}


def test_only_who_forces_claims_what_has_ended(world: World) -> None:
    (first,) = accept(world, "one")
    run = begin(world, [first])
    claims = claim(run, PlannedCall(WireForm.ARRAY, (want(BARE),)))
    assert isinstance(claims, Claims)
    assert world.call(run, claims) is None
    (second,), (forced,) = accept(world, "two"), accept(world, "forced", force=True)
    call = PlannedCall(WireForm.ARRAY, (want(BARE, "two", "forced"),))
    assert claim(begin(world, [second]), call) is None
    assert claim(begin(world, [second, forced]), call) is not None
    assert owner_of(world) == "rq_forced"


# What is recorded, given back, told.


def claim_both(world: World) -> tuple[Progress, Claims]:
    run = begin(world, accept(world, "one", "two"))
    claims = claim(run, CALL)
    assert isinstance(claims, Claims)
    return run, claims


def test_each_request_is_told_what_the_call_came_to_for_its_own(world: World) -> None:
    run, claims = claim_both(world)
    failed = Verdict(State.FAILED, Code.CLOUDFLARE_REJECTED)
    world.cloudflare.answers.append(Answered({BARE: DELIVERED, OTHER: failed}, OK))
    assert world.call(run, claims) is None
    rejected = (Outcome.FAILED, Code.CLOUDFLARE_REJECTED)
    told = {each.request.request_id: [(r.outcome, r.code) for r in each.results] for each in run.finish()}
    assert told == {
        "rq_one": [(Outcome.RELEASED, None), rejected],
        "rq_two": [(Outcome.ALREADY_RELEASED, None), rejected],
    }
    kept = world.ledger.requests([RequestId("rq_one"), RequestId("rq_two")])
    assert {name: request.letters for name, request in kept.items()} == {"rq_one": "RX", "rq_two": "AX"}
    assert sorted(each.part for each in run.settled) == sorted([PART, postfix_part(OTHER)])


def test_a_call_that_was_rejected_as_a_whole_is_given_back_to_be_sent_with_fewer(world: World) -> None:
    run, claims = claim_both(world)
    world.cloudflare.answers.append(REJECTED)
    assert world.call(run, claims) is REJECTED
    kept = world.ledger.messages(ACCOUNT, [PART, postfix_part(OTHER)])
    assert kept == run.rows
    assert {(each.state, each.owner, each.attempts, each.largest_call) for each in kept.values()} == {
        (State.RETRYABLE, None, frozenset(), 1)
    }
    (attempt,) = world.ledger.attempts(ACCOUNT, [claims.attempt.attempt])
    assert (attempt.state, attempt.evidence) == (AttemptState.REFUSED, REJECTED.evidence)
    assert world.budget.heard_of == [REJECTED]
    assert {request.state for request in run.requests.values()} == {RequestState.OPEN}


@pytest.mark.parametrize("no", [RefusalReason.RATE_LIMITED, RefusalReason.CREDENTIALS, RefusalReason.UNREACHABLE])
def test_a_call_that_was_not_made_says_nothing_about_how_many_may_be_in_it(world: World, no: RefusalReason) -> None:
    run, claims = claim_both(world)
    world.cloudflare.answers.append(NoEffect(no, Evidence()))
    world.call(run, claims)
    assert {each.largest_call for each in run.rows.values()} == {None}


def test_what_was_accepted_before_stays_open_whatever_refuses_it(world: World) -> None:
    run, claims = claim_both(world)
    world.cloudflare.answers.append(NoEffect(RefusalReason.CREDENTIALS, Evidence(403)))
    world.call(run, claims)
    kept = world.ledger.requests([RequestId("rq_one"), RequestId("rq_two")])
    assert {request.state for request in kept.values()} == {RequestState.OPEN}


def test_a_pause_that_began_since_the_call_was_taken_is_kept(world: World) -> None:
    run, claims = claim_both(world)
    world.budget.paused = 41.5
    no = world.call(run, claims)
    assert no is not None
    assert (no.reason, no.retry_after, no.evidence.status) == (RefusalReason.RATE_LIMITED, 42, None)
    assert world.cloudflare.calls == []
    assert (world.budget.put_back_calls, world.budget.heard_of) == (1, [])
    assert {each.state for each in run.rows.values()} == {State.RETRYABLE}


def test_a_call_that_cannot_be_renewed_is_not_made(world: World) -> None:
    run, claims = claim_both(world)
    world.budget.renewal = 12.5
    no = world.call(run, claims)
    assert no is not None
    assert (no.reason, no.retry_after, no.evidence.failure) == (RefusalReason.RATE_LIMITED, 13, "calls_used_up")
    assert (world.budget.put_back_calls, world.cloudflare.calls) == (1, [])
    assert {each.state for each in run.rows.values()} == {State.RETRYABLE}


def test_a_call_for_which_there_is_no_time_is_put_back(world: World) -> None:
    world.seconds_left = [7.9]
    run, claims = claim_both(world)
    no = world.call(run, claims)
    assert no is not None
    assert no.reason is RefusalReason.NO_TIME
    assert (world.budget.put_back_calls, world.cloudflare.calls) == (1, [])


def test_who_asks_for_many_is_in_the_trace_of_all_a_hundred_in_a_round_trip(world: World) -> None:
    given = ids(150)
    (first,) = accept(world, "first")
    run = begin(world, [first])
    for call in plan_calls([want(each, "first") for each in given], {}, None):
        claim(run, call)
    (second,) = accept(world, "second")
    run = Progress([second], world.ports(), Acceptance.EARLIER)
    run.learn(world.ledger.messages(ACCOUNT, [postfix_part(each) for each in given]))
    world.dynamodb.calls.clear()
    ask_for(run, [want(each, "second") for each in [*given, OTHER]])
    assert world.dynamodb.calls == ["TransactWriteItems"] * 2
    kept = world.ledger.messages(ACCOUNT, [postfix_part(each) for each in given])
    assert kept == run.rows
    assert all("rq_second" in each.asks for each in kept.values())
    ask_for(run, [want(each, "second") for each in given])
    assert len(world.dynamodb.calls) == 4  # the two reads of this test, and nothing to be written


def test_asks_that_are_overtaken_are_not_taken_for_made(world: World) -> None:
    run, before = overtaken(world)
    ask_for(run, [want(BARE, "two")])
    assert "rq_two" not in before[PART].asks
    assert run.rows[PART] in (before[PART], world.ledger.messages(ACCOUNT, [PART])[PART])


def test_asks_that_are_overtaken_for_one_message_reach_all(world: World) -> None:
    run, _ = overtaken(world)
    ask_for(run, [want(BARE, "two"), want(OTHER, "two")])
    kept = world.ledger.messages(ACCOUNT, [PART, postfix_part(OTHER)])
    assert {each.asks for each in kept.values()} == {frozenset({"rq_one", "rq_two"})}


def test_asks_that_are_overtaken_in_every_round_are_kept_apart(world: World, faults: list[Fault | None]) -> None:
    run, before = overtaken(world)
    faults += [Fault.CANCELLED] * 8
    ask_for(run, [want(BARE, "two"), want(OTHER, "two")])
    assert faults == []
    assert [world.ledger.unclaimed(ACCOUNT, part) for part in before] == [{"rq_two"}] * 2
    assert run.rows.keys() == before.keys()
    assert all("rq_two" not in row.asks for row in run.rows.values())


def overtaken(world: World) -> tuple[Progress, dict[PostfixPart, MessageRow]]:
    """Begin to ask for two messages that are under way for another, one of which moves meanwhile."""
    first, second = accept(world, "one", "two")
    claim(begin(world, [first]), PlannedCall(WireForm.ARRAY, (want(BARE), want(OTHER))))
    run = begin(world, [second])
    world.dynamodb.items[f"M#{ACCOUNT}#{PART}"]["state"] = {"S": State.UNKNOWN}
    return run, dict(run.rows)


def test_a_claim_that_is_ever_overtaken_is_given_up(world: World, faults: list[Fault | None]) -> None:
    run = begin(world, accept(world, "one", "two"))
    faults += [Fault.CANCELLED] * 8
    with pytest.raises(LedgerUnavailable):
        claim(run, CALL)
    assert claim(run, CALL) is not None


def test_a_claim_lasts_for_its_lease_from_when_it_was_last_tried(world: World) -> None:
    run, claims = claim_both(world)
    assert claims.attempt.deadline - claims.attempt.sent_at == TERMS.lease
    assert {each.deadline for each in run.rows.values()} == {claims.attempt.deadline}


# --- Whose id it is


FULL_ID = MessageId("4Njp3P0STMz2c02Q-2024-01-05T10:00:00-12345678")
OTHER_ID = MessageId("4Njp3P0STMz2c02Q-2024-01-05T10:00:00-87654321")


def test_what_was_read_is_another_message_than_the_ledger_knows_and_is_not_claimed(world: World) -> None:
    (one,) = accept(world, "one")
    run = Progress([one], world.ports(), Acceptance.EARLIER)
    claims = claim(run, PlannedCall(WireForm.ARRAY, (replace(want(BARE, "one"), confirmed=FULL_ID),)))
    assert isinstance(claims, Claims)
    world.cloudflare.answers.append(REJECTED)
    world.call(run, claims)
    assert run.rows[PART].own_id == FULL_ID
    again = PlannedCall(WireForm.ARRAY, (replace(want(BARE, "one"), confirmed=OTHER_ID),))
    assert claim(run, again) is None
    assert isinstance(claim(run, PlannedCall(WireForm.ARRAY, (want(BARE, "one"),))), Claims)


def test_an_answer_by_another_id_than_was_read_leaves_it_unknown(world: World) -> None:
    (one,) = accept(world, "one")
    run = Progress([one], world.ports(), Acceptance.EARLIER)
    claims = claim(run, PlannedCall(WireForm.ARRAY, (replace(want(BARE, "one"), confirmed=FULL_ID),)))
    assert isinstance(claims, Claims)
    world.cloudflare.answers.append(Answered({BARE: replace(DELIVERED, message_id=OTHER_ID)}, OK))
    assert world.call(run, claims) is None
    row = run.rows[PART]
    assert (row.state, row.code, row.own_id) == (State.UNKNOWN, Code.UNCLEAR_ANSWER, FULL_ID)
    (attempt,) = world.ledger.attempts(ACCOUNT, [row.attempt])
    assert attempt.is_open


def test_where_more_have_asked_than_are_kept_a_repeat_counts_nobody_twice(world: World) -> None:
    requests = accept(world, *(f"{number:03}" for number in range(ASKS_KEPT + 2)))
    run = Progress(requests, world.ports(), Acceptance.EARLIER)
    claims = claim(run, PlannedCall(WireForm.ARRAY, (want(BARE, "000"),)))
    assert isinstance(claims, Claims)
    named = [(request, parse_targets(request.message_ids)) for request in requests]
    for is_repeat in (False, True, True):
        ask_each(run, named, is_repeat=is_repeat)
    assert (len(run.rows[PART].asks), run.rows[PART].asks_uncounted) == (ASKS_KEPT, 2)


def test_a_repeat_counts_a_new_request_once_if_the_list_of_asks_is_just_full(world: World) -> None:
    requests = accept(world, *(f"{number:03}" for number in range(ASKS_KEPT + 1)))
    run = Progress(requests, world.ports(), Acceptance.EARLIER)
    assert isinstance(claim(run, PlannedCall(WireForm.ARRAY, (want(BARE, "000"),))), Claims)
    named = [(request, parse_targets(request.message_ids)) for request in requests]
    ask_each(run, named[:-1])
    assert (len(run.rows[PART].asks), run.rows[PART].asks_uncounted) == (ASKS_KEPT, 0)
    ask_each(run, named, is_repeat=True)
    assert run.rows[PART].asks_uncounted == 1


def test_each_request_asks_by_its_own_id_unless_it_has_ended_or_been_cancelled(world: World) -> None:
    names = ("one", "two", "three", "four")
    one, two, three, four = (
        request_row(each, name=name) for each, name in zip((BARE, FULL_ID, OTHER_ID, FULL_ID), names, strict=True)
    )
    run = Progress([one, two, three, four], world.ports(), Acceptance.EARLIER)
    world.ledger.accept(one)
    assert isinstance(claim(run, PlannedCall(WireForm.ARRAY, (want(BARE, "one"),))), Claims)
    denied = Ended(Outcome.NOT_FOUND, None, "gone")
    others = [two, replace(three, ended={OTHER_ID: denied}), replace(four, cancelled_at=NOON)]
    ask_each(run, [(request, parse_targets(request.message_ids)) for request in others])
    assert run.rows[PART].asks == {"rq_one", "rq_two"}
    assert run.rows[PART].candidates == {FULL_ID}
