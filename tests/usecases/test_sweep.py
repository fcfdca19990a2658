"""The sweep: what was accepted and does not move gets new hints, what nothing is sent for any more ends."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from quarantine_release.domain.ids import (
    AccountId,
    AttemptId,
    MessageId,
    PostfixPart,
    RequestId,
    message_key,
    postfix_part,
)
from quarantine_release.domain.ledger_errors import LedgerUnavailable
from quarantine_release.domain.packing import PlannedCall, WantedRelease
from quarantine_release.domain.rows import MessageRow, RequestRow, RequestState, Target, WireForm
from quarantine_release.domain.states import Code, Outcome, State
from quarantine_release.domain.verdicts import Answered, Evidence, NoEffect, RefusalReason, Verdict
from quarantine_release.ledger.items import message_item
from quarantine_release.releasing.claim import Claims, claim
from quarantine_release.releasing.hints import CHUNK
from quarantine_release.releasing.ports import Hint
from quarantine_release.releasing.progress import Acceptance, Progress
from quarantine_release.usecases.accepted_request import cancel, status_of
from quarantine_release.usecases.release_now import release
from quarantine_release.usecases.sweep import Swept, sweep
from tests.support.model_dynamodb import Fault
from tests.support.stand_ins import ACCOUNT, BARE, NOON, OK, OTHER, TERMS, World, ids, request_row

ELSEWHERE = AccountId("b" * 32)
FULL_OTHER = MessageId("4WtWkr6nlBz9sNH-2024-08-28T15:32:35-7")
RATE_LIMITED = NoEffect(RefusalReason.RATE_LIMITED, Evidence(429), 42)
R = Outcome.RELEASED


def lose(world: World, *given: MessageId, name: str = "one", **members: Any) -> RequestRow:
    """Accept a request whose hints are lost."""
    request = request_row(*given, name=name, created_at=world.clock.now, **members)
    release(request, world.ports(), inline=False)
    world.queue.taken()
    return request


def call(
    world: World, *given: MessageId, state: State = State.UNKNOWN, name: str = "one", **members: Any
) -> RequestRow:
    """Make a request whose one call proves this, or is refused (RETRYABLE)."""
    code = {State.UNKNOWN: Code.NO_ANSWER, State.FAILED: Code.NOT_DELIVERED}.get(state)
    world.cloudflare.answers.append(
        RATE_LIMITED
        if state is State.RETRYABLE
        else lambda asked: Answered(dict.fromkeys(asked, Verdict(state, code)), OK)
    )
    request = request_row(*given, name=name, created_at=world.clock.now, **members)
    release(request, world.ports())
    world.queue.taken()
    return request


def run(world: World, **ahead: float) -> Swept:
    world.clock.move(**ahead)
    swept = Swept()
    sweep(world.ports(), swept)
    return swept


def settle(world: World, state: State, given: MessageId = BARE) -> None:
    """Have somebody find out what became of a message."""
    world.dynamodb.items[f"M#{ACCOUNT}#{postfix_part(given)}"]["state"] = {"S": state}


def told(world: World, request: RequestRow) -> list[Outcome]:
    return [result.outcome for result in status_of(kept(world, request), world.ports()).results]


def kept(world: World, request: RequestRow) -> RequestRow:
    return world.ledger.requests([request.request_id])[request.request_id]


# Hints.


def test_an_accepted_request_whose_hints_are_lost_gets_new_ones_after_two_minutes(world: World) -> None:
    request = lose(world, *ids(CHUNK + 1))
    assert run(world, seconds=119.9) == Swept()
    assert not world.queue.sent
    swept = run(world, seconds=0.1)
    assert world.queue.sent == [(Hint(request.request_id, 0), 0.0), (Hint(request.request_id, 1), 0.0)]
    assert swept == Swept(oldest=NOON, requests=1, hints=2)
    world.work()
    assert kept(world, request).letters == "R" * (CHUNK + 1)


def test_the_sweep_calls_nobody(world: World) -> None:
    lose(world, BARE)
    run(world, seconds=121)
    assert (world.cloudflare.calls, world.budget.taken, world.reader.wanted) == ([], [], [])


def test_only_what_has_something_free_gets_hints_and_only_for_that(world: World) -> None:
    given = ids(2 * CHUNK)
    lost = request_row(*given[:CHUNK], name="under way")
    world.cloudflare.answers.append(lambda asked: Answered(dict.fromkeys(asked, Verdict(State.UNKNOWN)), OK))
    release(lost, world.ports())
    both = lose(world, *given, name="both")
    swept = run(world, seconds=121)
    assert world.queue.sent == [(Hint(both.request_id, 1), 0.0)]
    assert (swept.requests, swept.hints) == (2, 1)


def test_what_was_refused_and_is_free_gets_a_hint(world: World) -> None:
    request = call(world, BARE, state=State.RETRYABLE)
    run(world, seconds=121)
    assert world.queue.sent == [(Hint(request.request_id, 0), 0.0)]


def test_a_message_that_was_rejected_before_it_was_asked_for_is_tried_again(world: World) -> None:
    call(world, BARE, state=State.FAILED, name="before")
    world.dynamodb.items[f"M#{ACCOUNT}#{BARE}"]["code"] = {"S": Code.CLOUDFLARE_REJECTED}
    world.clock.move(seconds=1)
    request = lose(world, BARE, name="after")
    run(world, seconds=121)
    assert [hint.request_id for hint, _ in world.queue.sent] == [request.request_id]
    world.work()
    assert told(world, request) == [R]


def test_while_calls_are_paused_no_hints_go_out(world: World) -> None:
    request = lose(world, BARE)
    world.budget.paused = 300.0
    swept = run(world, seconds=121)
    assert (swept.requests, swept.hints, world.queue.sent) == (1, 0, [])
    world.budget.paused = 0.0
    run(world, seconds=121)
    assert world.queue.sent == [(Hint(request.request_id, 0), 0.0)]


def test_a_request_that_was_looked_at_is_left_in_peace_for_two_minutes(world: World) -> None:
    lose(world, BARE)
    looks = [run(world, seconds=60).requests for _ in range(8)]
    assert looks == [0, 1, 0, 1, 0, 1, 0, 1]


def test_those_who_wait_hold_up_nobody(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quarantine_release.usecases.sweep.REQUESTS_AT_ONCE", 1)
    for number, given in enumerate(ids(12)):
        call(world, given, name=f"stuck {number}")
    young = lose(world, OTHER, name="young")
    for _ in range(12):
        run(world, seconds=11)
    assert young.request_id not in {hint.request_id for hint, _ in world.queue.sent}
    run(world, seconds=11)
    for _ in range(12):
        run(world, seconds=1)
    assert young.request_id in {hint.request_id for hint, _ in world.queue.sent}


def test_losing_every_hint_loses_nothing(world: World) -> None:
    requests = [lose(world, *ids(number + 1)[number:], name=str(number)) for number in range(150)]
    large = lose(world, *[MessageId(f"{each}-2024-01-05T10:00:00-1") for each in ids(300)[150:]], name="large")
    swept = run(world, seconds=121)
    assert (swept.requests, swept.hints) == (151, 152)
    world.work()
    assert {kept(world, request).letters for request in requests} == {"R"}
    assert kept(world, large).letters == "R" * 150


# What has ended.


@pytest.mark.parametrize("state", [State.RELEASED, State.NEEDS_REVIEW])
def test_what_has_ended_while_nobody_looked_is_closed(world: World, state: State) -> None:
    request = call(world, BARE)
    settle(world, state)
    swept = run(world, seconds=121)
    assert kept(world, request).letters == {State.RELEASED: "R", State.NEEDS_REVIEW: "V"}[state]
    assert (swept.requests, swept.hints, world.queue.sent) == (1, 0, [])
    assert run(world, seconds=121).requests == 0


def test_a_cancelled_request_is_closed_once_its_call_has_ended(world: World) -> None:
    request = call(world, BARE)
    cancel(request, world.ports())
    run(world, seconds=121)
    assert kept(world, request).state is RequestState.OPEN
    settle(world, State.RETRYABLE)
    run(world, seconds=121)
    assert kept(world, request).letters == "C"
    assert not world.queue.sent


def test_what_has_not_left_within_a_day_expires(world: World) -> None:
    request = lose(world, BARE, FULL_OTHER)
    run(world, hours=23, minutes=59)
    assert kept(world, request).state is RequestState.OPEN
    world.queue.taken()
    swept = run(world, minutes=5)
    assert kept(world, request).letters == "EE"
    assert (swept.hints, world.queue.sent) == (0, [])
    assert told(world, request) == [Outcome.EXPIRED] * 2


def test_another_lifetime_is_respected(world: World) -> None:
    request = lose(world, BARE)
    terms = replace(TERMS, request_lifetime=timedelta(hours=1))
    for minutes, is_open in ((59, True), (4, False)):
        world.clock.move(minutes=minutes)
        sweep(world.ports(terms=terms), Swept())
        assert (kept(world, request).state is RequestState.OPEN) is is_open
    assert kept(world, request).letters == "E"


def test_with_short_waits_a_request_is_left_alone_for_a_shorter_time(world: World) -> None:
    request = lose(world, BARE)
    terms = replace(TERMS, lease=timedelta(seconds=2), settle=timedelta(seconds=1))
    swept = Swept()
    for _ in range(2):
        world.clock.move(seconds=2)
        sweep(world.ports(terms=terms), swept)
    assert (swept.hints, world.queue.taken()) == (1, [Hint(request.request_id, 0)])


@pytest.mark.parametrize("state", [None, State.RETRYABLE])
def test_an_id_whose_message_could_have_two_rows_waits_unclaimed_and_expires(world: World, state: State | None) -> None:
    """Version 4c3b95d accepted such ids, so requests that are open during the upgrade hold them."""
    short, long = MessageId("4Njp3P0ST-2024-01-05T10:00:00-1"), MessageId("4Njp3P0STMz2c02Q4Njp3P0STMz2c")
    request = lose(world, short, BARE, long)
    if state is not None:
        claimed_by_4c3b95d(world, short, state)
    assert run(world, seconds=121).hints == 1
    world.work()
    assert world.cloudflare.calls == [(WireForm.ARRAY, [BARE])]
    run(world, hours=23, minutes=50)
    assert kept(world, request).state is RequestState.OPEN
    run(world, minutes=13)
    assert kept(world, request).letters == "ERE"


def test_an_id_whose_message_could_have_two_rows_does_not_expire_while_its_call_is_unclear(world: World) -> None:
    short = MessageId("4Njp3P0ST-2024-01-05T10:00:00-1")
    request = lose(world, short)
    claimed_by_4c3b95d(world, short, State.UNKNOWN)
    run(world, hours=25)
    assert kept(world, request).state is RequestState.OPEN


def claimed_by_4c3b95d(world: World, message_id: MessageId, state: State) -> None:
    """Write the row that a claim under such an id has left."""
    row = MessageRow(
        account_id=ACCOUNT,
        part=postfix_part(message_id),
        state=state,
        attempt=AttemptId("a1"),
        message_id=message_id,
        updated_at=NOON,
    )
    world.dynamodb.items[message_key(ACCOUNT, row.part)] = message_item(row)


def test_what_may_have_left_does_not_expire_and_what_has_is_told(world: World) -> None:
    request = call(world, BARE, FULL_OTHER, state=State.UNKNOWN)
    settle(world, State.RETRYABLE, FULL_OTHER)
    run(world, hours=25)
    assert kept(world, request).state is RequestState.OPEN
    assert not world.queue.sent
    settle(world, State.RELEASED)
    run(world, seconds=121)
    assert kept(world, request).letters == "RE"


def test_a_forced_request_whose_process_died_is_never_gone_on_with(world: World) -> None:
    request = lose(world, BARE, OTHER, force=True)
    swept = run(world, seconds=121)
    assert kept(world, request).letters == "NN"
    assert (swept.hints, world.queue.sent, world.cloudflare.calls) == (0, [], [])


def test_a_forced_request_whose_call_is_under_way_waits_for_it(world: World) -> None:
    request = call(world, BARE, force=True)
    run(world, seconds=121)
    assert kept(world, request).state is RequestState.OPEN
    settle(world, State.RELEASED)
    run(world, seconds=121)
    assert kept(world, request).letters == "R"


def test_what_another_closes_meanwhile_stays_as_it_was_closed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    request = lose(world, BARE)
    messages = world.ledger.messages

    def beside_another(account_id: AccountId, parts: list[PostfixPart]) -> dict[PostfixPart, MessageRow]:
        world.ledger.close([replace(request, state=RequestState.CLOSED, letters="C")])
        return messages(account_id, parts)

    monkeypatch.setattr(world.ledger, "messages", beside_another)
    run(world, hours=25)
    assert kept(world, request).letters == "C"


def test_what_a_worker_claims_as_the_day_ends_does_not_expire(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    request = lose(world, BARE)
    # It has looked at the request when there was still time, and claims between the sweep's read and its close.
    worker = Progress([request], world.ports(), Acceptance.EARLIER)
    messages, claimed = world.ledger.messages, []

    def before_the_claim(account_id: AccountId, parts: list[PostfixPart]) -> dict[PostfixPart, MessageRow]:
        rows = messages(account_id, parts)
        one = RequestId("rq_one")
        claimed.append(
            claim(
                worker,
                PlannedCall(WireForm.ARRAY, (WantedRelease(Target(postfix_part(BARE), BARE), (one,), {one: None}),)),
            )
        )
        return rows

    monkeypatch.setattr(world.ledger, "messages", before_the_claim)
    run(world, hours=24, seconds=5)
    monkeypatch.undo()
    (claims,) = claimed
    assert isinstance(claims, Claims)
    assert world.call(worker, claims) is None
    assert told(world, request) == [R]


# The ledger fails, or time does.


def test_a_ledger_that_does_not_tell_what_is_open_ends_the_sweep(world: World, faults: list[Fault | None]) -> None:
    faults.append(Fault.TIMEOUT_BEFORE)
    with pytest.raises(LedgerUnavailable):
        run(world)


@pytest.mark.parametrize("failing", ["messages", "postpone"])
def test_a_group_that_fails_is_counted_and_stops_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    lose(world, BARE, name="bad")
    good = lose(world, BARE, name="good", account_id=ELSEWHERE)
    works = getattr(world.ledger, failing)

    def fails(*given: Any) -> Any:
        account = given[0] if failing == "messages" else given[0][0].account_id
        if account == ACCOUNT:
            raise LedgerUnavailable("broken")
        return works(*given)

    monkeypatch.setattr(world.ledger, failing, fails)
    swept = run(world, seconds=121)
    assert swept.failures == 1
    assert good.request_id in {hint.request_id for hint, _ in world.queue.sent}


def test_of_many_requests_those_of_a_thousand_messages_fail_together_at_most(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = ids(1400)
    for number, start in enumerate(range(0, 1400, 400)):
        lose(world, *many[start : start + 400], name=f"{number:03d}")
    messages, reads = world.ledger.messages, []

    def fails_first(account_id: AccountId, parts: list[PostfixPart]) -> dict[PostfixPart, MessageRow]:
        reads.append(len(parts))
        if len(reads) == 1:
            raise LedgerUnavailable("broken")
        return messages(account_id, parts)

    monkeypatch.setattr(world.ledger, "messages", fails_first)
    swept = run(world, seconds=121)
    assert reads == [800, 600]
    assert (swept.failures, swept.requests, swept.hints) == (1, 4, 5 + 3)


def test_a_sweep_ends_where_its_time_does(world: World) -> None:
    lose(world, BARE)
    lose(world, BARE, name="elsewhere", account_id=ELSEWHERE)
    world.seconds_left = [8.0, 7.9]
    swept = run(world, seconds=121)
    assert (swept.requests, swept.hints, swept.oldest) == (1, 1, NOON)
    world.seconds_left = [7.9]
    assert run(world).requests == 0


def test_the_oldest_is_told_whether_or_not_it_is_looked_at(world: World) -> None:
    lose(world, BARE)
    world.clock.move(seconds=30)
    lose(world, OTHER, name="younger")
    world.seconds_left = [0.0]
    assert run(world, seconds=151) == Swept(oldest=NOON)
