"""What the use cases do about rows that cannot be read: nothing for these, and everything for the others."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from quarantine_release import telemetry
from quarantine_release.domain.call_limit import Mark
from quarantine_release.domain.details import Details
from quarantine_release.domain.guard import Guard, Mode
from quarantine_release.domain.ids import AccountId, MessageId, message_key, postfix_part
from quarantine_release.domain.ledger_errors import RowUnreadable
from quarantine_release.domain.rows import RequestRow, RequestState
from quarantine_release.domain.states import Code, Outcome, State
from quarantine_release.domain.verdicts import Answered, Evidence, NoEffect, ReadBack, RefusalReason, Seen, Verdict
from quarantine_release.ledger.call_budget import AccountBudget
from quarantine_release.ledger.keys import account_key, request_key
from quarantine_release.releasing.progress import Answer
from quarantine_release.usecases.accepted_request import cancel, status_of
from quarantine_release.usecases.release_now import release
from quarantine_release.usecases.settle import Summary, reconcile
from quarantine_release.usecases.sweep import Swept, sweep
from tests.support.metrics import counted
from tests.support.stand_ins import ACCOUNT, BARE, FULL, NOON, OTHER, World, request_row

ELSEWHERE = AccountId("b" * 32)
HEADER = MessageId("<a@example.net>")
NEWER = {"v": {"N": "99"}}
REJECTED = {"state": {"S": "TELEPORTED"}}


def damage(world: World, key: str, damage: dict[str, Any] | None = None) -> dict[str, Any]:
    """Make a row unreadable and return it as it was."""
    sound: dict[str, Any] = world.dynamodb.items.get(key) or {"pk": {"S": key}}
    world.dynamodb.items[key] = {**sound, **(damage or NEWER)}
    return sound


def hide(world: World, given: MessageId = BARE) -> dict[str, Any]:
    """Release a message and make its row unreadable; return the row as it was."""
    release(request_row(given, name=f"first of {given}"), world.ports())
    world.cloudflare.calls.clear()
    return damage(world, message_key(ACCOUNT, postfix_part(given)))


def stored(world: World, request: RequestRow) -> RequestRow:
    return world.ledger.requests([request.request_id])[request.request_id]


def called(world: World) -> list[MessageId]:
    return [each for _, given in world.cloudflare.calls for each in given]


def lost(ids: Sequence[MessageId]) -> Answered:
    return Answered(dict.fromkeys(ids, Verdict(State.UNKNOWN, Code.NO_ANSWER)), Evidence(failure="no_answer"))


@pytest.mark.parametrize("mode", [Mode.OFF, Mode.STANDARD])
@pytest.mark.parametrize("members", [{}, {"force": True, "reason": "r"}, {"dry_run": True}])
def test_who_waits_is_told_which_ids_it_is_about_and_nothing_is_written(
    world: World, mode: Mode, members: dict[str, Any]
) -> None:
    hide(world)
    world.guard = Guard(mode)
    before = dict(world.dynamodb.items)
    with pytest.raises(RowUnreadable) as error:
        release(request_row(OTHER, BARE, name="two", **members), world.ports())
    assert error.value.ids == (BARE,)
    assert (world.dynamodb.items, called(world), world.queue.sent) == (before, [], [])


def test_what_was_released_by_an_earlier_call_of_the_request_is_not_taken_back(world: World) -> None:
    """Each form is a call of its own, and the second claim meets the row."""
    hide(world)
    request = request_row(OTHER, FULL, name="two")
    answer = release(request, world.ports())
    assert isinstance(answer, Answer)
    assert answer.unreadable_ids == (FULL,)
    assert [result.outcome for result in answer.results] == [Outcome.RELEASED, Outcome.IN_PROGRESS]
    assert (called(world), stored(world, request).state) == ([OTHER], RequestState.OPEN)


def test_a_message_id_that_leads_to_such_a_message_is_named_as_it_was_given(world: World) -> None:
    hide(world)
    world.guard = Guard(Mode.STANDARD)
    world.lookup.answers[HEADER] = [Details(FULL, is_quarantined=True, disposition="SPAM", at=NOON)]
    with pytest.raises(RowUnreadable) as error:
        release(request_row(HEADER, name="two"), world.ports())
    assert error.value.ids == (HEADER,)


def test_a_request_that_has_been_accepted_is_told_with_the_ids_it_is_about(world: World) -> None:
    request = request_row(BARE, OTHER, name="two")
    release(request, world.ports())
    damage(world, message_key(ACCOUNT, postfix_part(BARE)))
    again = release(replace(request, nonce="again"), world.ports())
    assert isinstance(again, Answer)
    row, ports = stored(world, request), world.ports()
    for answer in (again, status_of(row, ports), cancel(row, ports)):
        assert answer.unreadable_ids == (BARE,)
    assert stored(world, request).letters == "RR"


def test_a_cancelled_request_ends_only_once_the_message_can_be_read(world: World) -> None:
    sound = hide(world)
    request = request_row(BARE, OTHER, name="two")
    release(request, world.ports(), inline=False)
    answer = cancel(stored(world, request), world.ports())
    assert [result.outcome for result in answer.results] == [Outcome.IN_PROGRESS, Outcome.CANCELLED]
    assert stored(world, request).state is RequestState.OPEN
    world.dynamodb.items[sound["pk"]["S"]] = sound
    assert [one.outcome for one in status_of(stored(world, request), world.ports()).results] == [
        Outcome.ALREADY_RELEASED,
        Outcome.CANCELLED,
    ]


def test_a_key_whose_request_cannot_be_read_is_neither_replayed_nor_refused_for_good(world: World) -> None:
    request = request_row(BARE)
    release(request, world.ports())
    damage(world, request_key(request.request_id))
    with pytest.raises(RowUnreadable):
        release(replace(request, nonce="again"), world.ports())
    world.seconds_left = [1.0] * 9  # too little for a forced request, which would be refused for it
    with pytest.raises(RowUnreadable):
        release(replace(request, nonce="again", force=True, ids=(OTHER,)), world.ports())


def test_the_worker_does_the_rest_and_takes_every_hint_off_the_queue(world: World) -> None:
    sound = hide(world)
    broken, request = request_row(OTHER, name="broken"), request_row(FULL, MessageId("4Njp3P0STMz2c0001"), name="two")
    for each in (broken, request):
        release(each, world.ports(), inline=False)
    damage(world, request_key(broken.request_id))
    batch = world.work()
    assert (batch.failed, batch.stale) == (set(), 1)
    assert called(world) == ["4Njp3P0STMz2c0001"]
    assert stored(world, request).state is RequestState.OPEN
    assert world.queue.sent == []
    assert world.dynamodb.items[sound["pk"]["S"]] == {**sound, **NEWER}


def test_an_account_that_cannot_be_read_holds_up_no_other_and_fails_nobody(world: World) -> None:
    budget = AccountBudget(world.table, {Mark.INLINE: 300, Mark.ALL: 900}, world.clock)
    for name, account_id in (("one", ACCOUNT), ("two", ELSEWHERE)):
        release(request_row(BARE, name=name, account_id=account_id), world.ports(), inline=False)
    damage(world, account_key(ACCOUNT), {"switch": {"S": "{"}})
    batch = world.work(budget=budget)
    assert (batch.failed, len(world.cloudflare.calls)) == (set(), 1)
    world.clock.move(minutes=3)
    swept = Swept()
    sweep(world.ports(budget=budget), swept)
    assert (swept.failures, swept.requests, swept.hints) == (0, 1, 0)


def test_a_forced_request_that_was_accepted_says_that_the_rest_was_not_attempted(world: World) -> None:
    """Two calls, one for each form; the second meets an account that cannot be read by then."""
    ids = (BARE, MessageId("4WtWkr6nlBz9sNH-2024-08-28T15:32:35-7"))
    request = request_row(*ids, force=True, reason="r")
    budget = AccountBudget(world.table, {Mark.INLINE: 300, Mark.ALL: 900}, world.clock)

    def answer(given: Sequence[MessageId]) -> Answered:
        damage(world, account_key(ACCOUNT))
        world.clock.move(seconds=2)
        return Answered(dict.fromkeys(given, Verdict(State.RELEASED)), Evidence(200))

    world.cloudflare.answers.append(answer)
    told = release(request, world.ports(budget=budget))
    assert isinstance(told, Answer)
    assert {result.outcome for result in told.results} <= {Outcome.RELEASED, Outcome.FAILED}
    assert len(world.cloudflare.calls) == 1


def test_a_call_is_settled_but_for_the_message_that_cannot_be_read_and_stays_open(world: World) -> None:
    world.cloudflare.answers.append(lost)
    request = request_row(BARE, OTHER)
    release(request, world.ports())
    sound = damage(world, message_key(ACCOUNT, postfix_part(BARE)), REJECTED)
    for given in (BARE, OTHER):
        world.reader.readings[postfix_part(given)] = ReadBack(Seen.RELEASED, Evidence(200))
    attempt = next(key for key in world.dynamodb.items if key.startswith("T#"))
    for _ in range(2):
        world.clock.move(minutes=12)
        summary = Summary()
        reconcile(world.ports(), summary)
        assert (summary.failures, summary.attempts) == (0, 1)
        assert [wanted.part for wanted in world.reader.wanted] == [postfix_part(OTHER)]
        assert "open_kind" in world.dynamodb.items[attempt]
    world.dynamodb.items[sound["pk"]["S"]] = sound
    world.clock.move(minutes=12)
    reconcile(world.ports(), Summary())
    assert "open_kind" not in world.dynamodb.items[attempt]
    results = status_of(stored(world, request), world.ports()).results
    assert [result.outcome for result in results] == [Outcome.RELEASED] * 2


def test_a_call_whose_account_cannot_be_read_is_settled_later(world: World) -> None:
    world.cloudflare.answers.append(lost)
    release(request_row(BARE), world.ports())

    class Unreadable:
        def read(self, *_: Any) -> Any:
            raise RowUnreadable(account_key(ACCOUNT), "version 99")

    world.clock.move(minutes=3)
    summary = Summary()
    reconcile(world.ports(reader=Unreadable()), summary)
    assert (summary.failures, summary.attempts) == (0, 0)


def test_what_is_given_back_while_its_row_cannot_be_read_is_given_back_later(world: World) -> None:
    keys: list[dict[str, Any]] = []

    def refuse(_: Sequence[MessageId]) -> Any:
        keys.append(damage(world, message_key(ACCOUNT, postfix_part(BARE)), REJECTED))
        return NoEffect(RefusalReason.RATE_LIMITED, Evidence(429), 42)

    world.cloudflare.answers.append(refuse)
    request = request_row(BARE)
    answer = release(request, world.ports())
    assert isinstance(answer, Answer)
    assert answer.unreadable_ids == (BARE,)
    world.dynamodb.items[keys[0]["pk"]["S"]] = keys[0]
    world.clock.move(minutes=3)
    reconcile(world.ports(), Summary())
    assert world.ledger.messages(ACCOUNT, [postfix_part(BARE)])[postfix_part(BARE)].state is State.RETRYABLE
    world.work()
    assert [one.outcome for one in status_of(stored(world, request), world.ports()).results] == [Outcome.RELEASED]


def test_what_waits_for_a_message_that_cannot_be_read_does_not_expire(world: World) -> None:
    hide(world)
    request = request_row(BARE, OTHER, name="two")
    release(request, world.ports(), inline=False)
    world.queue.taken()
    world.clock.move(days=2)
    sweep(world.ports(), Swept())
    results = status_of(stored(world, request), world.ports()).results
    assert results[0].outcome is Outcome.IN_PROGRESS
    assert stored(world, request).created_at + timedelta(days=2) < world.clock.now


def test_a_row_that_cannot_be_read_is_logged_by_its_key_and_counted(deployment: Any) -> None:
    telemetry.row_unreadable(RowUnreadable("M#a#b", "version 99"))
    (logged,) = deployment.events("row_unreadable")
    expected = {"kind": "M", "key": "M#a#b", "why": "version 99", "level": "ERROR"}
    assert expected.items() <= logged.items()
    assert counted() == {"RowsUnreadable": [1.0]}
