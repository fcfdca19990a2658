"""Lookup and guard before a claim, in webhook and worker: what is claimed, what ends with which reason, what waits."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from quarantine_release.domain.details import Details, NotRead, NotYetRead, Several, Unclear, Unreadable
from quarantine_release.domain.facts import MATCHES_KEPT, facts_of
from quarantine_release.domain.guard import NO_GUARD, Ended, Guard, Guarded, Mode
from quarantine_release.domain.ids import AccountId, MessageId, OperationId, RequestId, postfix_part
from quarantine_release.domain.ledger_errors import LedgerUnavailable
from quarantine_release.domain.policy import DEFAULT_POLICY, DISPOSITIONS, Policy
from quarantine_release.domain.request_options import Narrowing
from quarantine_release.domain.rows import MessageRow, RequestRow, RequestState, WireForm
from quarantine_release.domain.states import Code, Outcome, State
from quarantine_release.domain.verdicts import (
    Answered,
    Evidence,
    NoEffect,
    ReadBack,
    RefusalReason,
    Seen,
    Stop,
    Verdict,
)
from quarantine_release.ledger.keys import unclaimed_key
from quarantine_release.releasing.ports import Move
from quarantine_release.releasing.progress import Answer
from quarantine_release.usecases.accepted_request import KeyReused, cancel, status_of
from quarantine_release.usecases.admission import NotAccepted
from quarantine_release.usecases.release_now import release
from quarantine_release.usecases.sweep import Swept, sweep
from tests.support.cloudflare_entries import full_id, queue_id
from tests.support.model_dynamodb import Fault, ModelDynamoDB
from tests.support.stand_ins import ACCOUNT, BARE, FULL, NOON, OK, TERMS, World, request_row

ALERT = MessageId("4Njp3P0STMz2c02Q-2024-01-05T10:00:00")
HEADER = MessageId("<1.2@example.net>")
FULL_OTHER = MessageId("4WtWkr6nlBz9sNH-2024-08-28T15:32:35-7")
BULK = MessageId("4WtBkR7nmCz9sNJ")
PART = postfix_part(BARE)
SPAM = Details(
    FULL, is_quarantined=True, disposition="SPAM", at=NOON - timedelta(days=2), recipients=("a@example.com",)
)
OTHER_SPAM = replace(SPAM, message_id=FULL_OTHER)
EVIL = replace(SPAM, disposition="MALICIOUS")
STANDARD = Guard(Mode.STANDARD, DEFAULT_POLICY)


@pytest.fixture
def guarded(world: World) -> World:
    """A world whose guard is on, and that knows one mail that is good and one that is not."""
    world.guard = STANDARD
    world.lookup.messages |= {FULL: SPAM, ALERT: SPAM, FULL_OTHER: replace(EVIL, message_id=FULL_OTHER)}
    world.lookup.answers[HEADER] = [SPAM]
    return world


def ask(world: World, *ids: str, inline: bool = True, **members: Any) -> Answer:
    answer = release(request_row(*ids, created_at=world.clock(), **members), world.ports(), inline=inline)
    assert isinstance(answer, Answer)
    return answer


def told(answer: Answer) -> list[tuple[Outcome, Code | None]]:
    return [(result.outcome, result.code) for result in answer.results]


def kept(world: World, name: str = "one") -> RequestRow:
    return world.ledger.requests([RequestId(f"rq_{name}")])[RequestId(f"rq_{name}")]


def later(world: World, name: str = "one") -> Answer:
    return status_of(kept(world, name), world.ports())


def message(world: World, given: MessageId = FULL) -> MessageRow:
    return world.ledger.messages(ACCOUNT, [postfix_part(given)])[postfix_part(given)]


RELEASED, DENIED = (Outcome.RELEASED, None), (Outcome.DENIED, Code.DISPOSITION_NOT_ALLOWED)


def test_what_the_guard_lets_pass_is_released_and_the_row_says_how(guarded: World) -> None:
    assert told(ask(guarded, FULL)) == [RELEASED]
    row = message(guarded)
    assert (row.guard, row.disposition) == (Guarded.PASSED, "SPAM")


def test_what_it_does_not_ends_with_its_reason_and_nothing_is_claimed(guarded: World) -> None:
    answer = ask(guarded, FULL_OTHER)
    assert told(answer) == [DENIED]
    assert guarded.cloudflare.calls == []
    assert guarded.ledger.messages(ACCOUNT, [postfix_part(FULL_OTHER)]) == {}
    assert (kept(guarded).state, kept(guarded).letters) == (RequestState.CLOSED, "D")
    assert "MALICIOUS" in kept(guarded).ended[FULL_OTHER].detail
    assert told(later(guarded)) == [DENIED]


def test_of_a_batch_the_good_is_released_and_the_bad_is_not(guarded: World) -> None:
    assert told(ask(guarded, FULL, FULL_OTHER)) == [RELEASED, DENIED]
    assert guarded.cloudflare.calls == [(WireForm.OBJECT, [FULL])]
    assert kept(guarded).letters == "RD"


def test_whom_nothing_was_claimed_for_is_in_the_trace_all_the_same(guarded: World) -> None:
    ask(guarded, FULL_OTHER)
    assert guarded.ledger.unclaimed(ACCOUNT, postfix_part(FULL_OTHER)) == {"rq_one"}
    assert guarded.ledger.unclaimed(ACCOUNT, PART) == frozenset()


def test_who_is_denied_what_others_have_claimed_is_in_its_trace(guarded: World) -> None:
    guarded.cloudflare.answers.append(NoEffect(RefusalReason.RATE_LIMITED, Evidence(429), 42))
    ask(guarded, FULL)
    guarded.lookup.messages[FULL] = EVIL
    assert told(ask(guarded, FULL, name="two")) == [DENIED]
    assert message(guarded).asks == {"rq_one", "rq_two"}


def test_a_trace_that_cannot_be_written_hides_no_answer(guarded: World, faults: list[Fault | None]) -> None:
    guarded.lookup.messages[FULL] = Unreadable.ABSENT
    faults += [None, None, Fault.TIMEOUT_BEFORE]
    assert told(ask(guarded, FULL)) == [(Outcome.NOT_FOUND, None)]
    assert faults == []


def test_nobody_is_told_what_was_read_before_it_is_kept(guarded: World, faults: list[Fault | None]) -> None:
    faults += [None, Fault.TIMEOUT_BEFORE]
    with pytest.raises(LedgerUnavailable):
        ask(guarded, FULL, FULL_OTHER)
    assert guarded.ledger.requests([RequestId("rq_one")]) == {}
    assert len(guarded.budget.taken) == guarded.budget.put_back_calls == 1
    faults += [None, Fault.TIMEOUT_BEFORE]
    with pytest.raises(LedgerUnavailable):
        ask(guarded, FULL_OTHER)
    assert guarded.budget.put_back_calls == 1


def test_what_could_not_be_read_is_not_released(guarded: World) -> None:
    guarded.lookup.messages[FULL] = Unreadable.FAILED
    answer = ask(guarded, FULL)
    assert told(answer) == [(Outcome.DENIED, Code.GUARD_UNAVAILABLE)]
    assert answer.results[0].retryable
    assert guarded.cloudflare.calls == []


def test_what_is_not_there_is_told(guarded: World) -> None:
    guarded.lookup.messages[FULL] = Unreadable.ABSENT
    assert told(ask(guarded, FULL)) == [(Outcome.NOT_FOUND, None)]


def test_a_bare_id_that_cannot_be_read_differs_by_mode(guarded: World) -> None:
    guarded.lookup.messages[BARE] = Unreadable.ABSENT
    guarded.guard = replace(STANDARD, mode=Mode.STRICT)
    assert told(ask(guarded, BARE, name="strict")) == [(Outcome.DENIED, Code.GUARD_CANNOT_READ)]
    guarded.guard = STANDARD
    assert told(ask(guarded, BARE, name="by client", policy=Policy(is_strict=True))) == [
        (Outcome.DENIED, Code.GUARD_CANNOT_READ)
    ]
    assert told(ask(guarded, BARE)) == [RELEASED]
    assert message(guarded).guard is Guarded.NOT_CHECKED
    assert guarded.cloudflare.calls == [(WireForm.ARRAY, [BARE])]


def test_a_bare_id_that_can_be_read_is_sent_as_it_was_given(guarded: World) -> None:
    guarded.lookup.messages[BARE] = SPAM
    assert told(ask(guarded, BARE)) == [RELEASED]
    assert guarded.cloudflare.calls == [(WireForm.ARRAY, [BARE])]


def test_a_guard_that_is_off_reads_nothing(world: World) -> None:
    assert told(ask(world, FULL)) == [RELEASED]
    assert world.lookup.looked == []
    assert message(world).guard is None


def test_an_alert_id_is_looked_up_though_the_guard_is_off(world: World) -> None:
    world.lookup.messages |= {ALERT: EVIL}
    answer = ask(world, ALERT)
    assert told(answer) == [RELEASED]
    assert answer.results[0].resolved == FULL
    assert world.cloudflare.calls == [(WireForm.OBJECT, [FULL])]


@pytest.mark.parametrize(
    ("why", "expected"),
    [
        (Unreadable.ABSENT, (Outcome.NOT_FOUND, None)),
        (Unreadable.FAILED, (Outcome.DENIED, Code.GUARD_UNAVAILABLE)),
        (NotYetRead.NOT_NOW, (Outcome.IN_PROGRESS, None)),
    ],
)
def test_an_alert_id_that_leads_nowhere_is_not_released(
    world: World, why: NotRead, expected: tuple[Outcome, Code | None]
) -> None:
    world.lookup.messages |= {ALERT: why}
    assert told(ask(world, ALERT)) == [expected]
    assert world.cloudflare.calls == []


def test_override_passes_the_rule_on_dispositions_and_is_recorded(guarded: World) -> None:
    assert told(ask(guarded, FULL_OTHER, override=True, reason="a drill")) == [RELEASED]
    assert (message(guarded, FULL_OTHER).guard, kept(guarded).override) == (Guarded.OVERRIDDEN, True)


def test_a_client_may_be_held_to_more_and_never_to_less(guarded: World) -> None:
    only_bulk = Policy(dispositions=frozenset({"BULK"}))
    assert told(ask(guarded, FULL, name="held", policy=only_bulk)) == [DENIED]
    any_at_all = Policy(dispositions=frozenset({"SPAM", "MALICIOUS"}))
    assert told(ask(guarded, FULL_OTHER, name="free", policy=any_at_all)) == [DENIED]
    assert kept(guarded, "free").policy == any_at_all


def test_a_forced_release_is_guarded_but_need_not_be_in_quarantine(guarded: World) -> None:
    ask(guarded, FULL)
    guarded.lookup.messages[FULL] = replace(SPAM, is_quarantined=False, is_released=True)
    assert told(ask(guarded, FULL, name="again", force=True)) == [RELEASED]
    guarded.lookup.messages[FULL] = replace(EVIL, is_quarantined=False)
    assert told(ask(guarded, FULL, name="evil", force=True)) == [DENIED]
    guarded.lookup.messages[FULL] = Unreadable.FAILED
    assert told(ask(guarded, FULL, name="now", force=True)) == [(Outcome.DENIED, Code.GUARD_UNAVAILABLE)]
    assert len(guarded.cloudflare.calls) == 2


def test_what_cannot_be_read_for_now_waits_and_is_released_by_the_worker(guarded: World) -> None:
    guarded.lookup.messages[FULL] = NotYetRead.NOT_NOW
    assert told(ask(guarded, FULL)) == [(Outcome.IN_PROGRESS, None)]
    assert guarded.cloudflare.calls == []
    guarded.work()
    ((hint, delay),) = guarded.queue.sent
    assert (hint.request_id, delay) == ("rq_one", 5.0)
    guarded.budget.paused = 42.0
    guarded.work()
    assert [delay for _, delay in guarded.queue.sent] == [42.0]
    guarded.budget.paused, guarded.budget.used_up = 0.0, 180.0
    guarded.work()
    assert [delay for _, delay in guarded.queue.sent] == [180.0]
    guarded.budget.paused = 0.0
    guarded.lookup.messages[FULL] = SPAM
    guarded.work()
    assert told(later(guarded)) == [RELEASED]


def test_without_time_to_read_nothing_is_read(guarded: World) -> None:
    guarded.seconds_left = [14.0] * 9
    assert told(ask(guarded, FULL, HEADER)) == [(Outcome.IN_PROGRESS, None)] * 2
    assert (guarded.lookup.looked, guarded.lookup.questions) == ([], [])


def test_what_is_released_already_is_neither_read_nor_denied(guarded: World) -> None:
    ask(guarded, FULL)
    guarded.lookup.looked.clear()
    guarded.lookup.messages[FULL] = EVIL
    assert told(ask(guarded, FULL, name="two")) == [(Outcome.ALREADY_RELEASED, None)]
    assert guarded.lookup.looked == []


def test_what_became_free_since_it_was_read_is_not_claimed_unread(
    guarded: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is under way for another when the rows are read, and free when it would be claimed."""
    guarded.cloudflare.answers.append(NoEffect(RefusalReason.RATE_LIMITED, Evidence(429), 42))
    ask(guarded, FULL)
    under_way = replace(message(guarded), state=State.RELEASING, deadline=NOON + timedelta(hours=1))
    known = guarded.ledger.known

    def seen_before(*arguments: Any) -> Any:
        return replace(known(*arguments), messages={PART: under_way})

    monkeypatch.setattr(guarded.ledger, "known", seen_before)
    guarded.lookup.looked.clear()
    assert told(ask(guarded, FULL, name="two")) == [(Outcome.IN_PROGRESS, None)]
    assert (len(guarded.cloudflare.calls), guarded.lookup.looked) == (1, [])


def test_a_replay_is_answered_as_it_was_and_reads_nothing(guarded: World) -> None:
    ask(guarded, FULL_OTHER)
    guarded.lookup.looked.clear()
    guarded.lookup.messages[FULL_OTHER] = OTHER_SPAM
    answer = ask(guarded, FULL_OTHER, nonce="again")
    assert (told(answer), answer.replayed, guarded.lookup.looked) == ([DENIED], True, [])
    other = release(request_row(FULL, fingerprint="another"), guarded.ports())
    assert isinstance(other, KeyReused)


def test_a_refused_request_may_begin_again_under_its_key(guarded: World) -> None:
    guarded.cloudflare.answers.append(NoEffect(RefusalReason.CREDENTIALS, Evidence(403, (10000,))))
    assert isinstance(release(request_row(FULL), guarded.ports()), NotAccepted)
    assert told(ask(guarded, FULL, nonce="again")) == [RELEASED]


def test_a_request_that_is_forgotten_may_begin_again_under_its_key(guarded: World) -> None:
    ask(guarded, FULL_OTHER)
    guarded.clock.now += TERMS.retention + timedelta(days=1)
    guarded.lookup.messages[FULL_OTHER] = OTHER_SPAM
    assert told(ask(guarded, FULL_OTHER, nonce="again")) == [RELEASED]


@pytest.mark.parametrize(("ids", "expected"), [([FULL], 3), ([HEADER], 5)], ids=["by its id", "by its Message-ID"])
def test_one_message_costs_a_read_of_the_ledger_more(guarded: World, ids: list[MessageId], expected: int) -> None:
    """A Message-ID costs two more: what it means is kept, and the row of what it means is read."""
    dynamodb: ModelDynamoDB = guarded.dynamodb
    dynamodb.calls.clear()
    ask(guarded, *ids)
    assert len(dynamodb.calls) == expected


# --- Message-IDs


def test_a_message_id_is_released_as_what_it_means(guarded: World) -> None:
    answer = ask(guarded, HEADER)
    assert told(answer) == [RELEASED]
    assert (answer.results[0].id, answer.results[0].resolved) == (HEADER, FULL)
    assert guarded.cloudflare.calls == [(WireForm.OBJECT, [FULL])]
    assert told(later(guarded)) == [RELEASED]
    (question,) = guarded.lookup.questions
    assert (question.header, NOON - question.start > timedelta(days=29)) == (HEADER, True)


def test_every_shape_of_one_message_is_released_once(guarded: World) -> None:
    ids = [HEADER, ALERT, FULL, BARE]
    assert told(ask(guarded, *ids)) == [RELEASED] * 4
    assert told(ask(guarded, *ids, name="two")) == [(Outcome.ALREADY_RELEASED, None)] * 4
    assert guarded.cloudflare.calls == [(WireForm.OBJECT, [FULL])]


def test_without_brackets_it_is_the_same(guarded: World) -> None:
    answer = ask(guarded, "1.2@example.net")
    assert (told(answer), answer.results[0].id) == ([RELEASED], "1.2@example.net")


def test_a_repeat_within_a_minute_costs_no_search(guarded: World) -> None:
    ask(guarded, HEADER)
    guarded.clock.move(seconds=59)
    ask(guarded, HEADER, name="two")
    assert len(guarded.lookup.questions) == 1
    guarded.clock.move(seconds=2)
    guarded.lookup.answers[HEADER] = [SPAM, OTHER_SPAM]
    assert told(ask(guarded, HEADER, name="three")) == [(Outcome.AMBIGUOUS, Code.SEVERAL_MATCHES)]
    assert len(guarded.lookup.questions) == 2


@pytest.mark.parametrize(("state", "searches"), [(State.RETRYABLE, 1), (State.UNKNOWN, 1), (State.NEEDS_REVIEW, 2)])
@pytest.mark.parametrize("inline", [True, False])
def test_a_repeat_costs_no_search_while_its_message_is_open(
    guarded: World, state: State, searches: int, inline: bool
) -> None:
    guarded.cloudflare.answers.append(Answered({}, Evidence(failure="no_answer_in_time")))
    ask(guarded, HEADER)
    row = message(guarded)
    guarded.ledger.project([Move(row, replace(row, state=state))])
    guarded.clock.move(minutes=2)
    ask(guarded, HEADER, name="two", inline=inline)
    guarded.work()
    assert len(guarded.lookup.questions) == searches
    guarded.clock.move(hours=25)
    ask(guarded, HEADER, name="three")
    assert len(guarded.lookup.questions) == searches + 1


def test_whoever_expects_one_has_them_counted_at_once(guarded: World) -> None:
    ask(guarded, HEADER)
    guarded.lookup.answers[HEADER] = [SPAM, OTHER_SPAM]
    counted = ask(guarded, HEADER, name="two", narrowing=Narrowing(expect_count=1))
    assert told(counted) == [(Outcome.AMBIGUOUS, Code.COUNT_DIFFERS)]


def test_what_it_was_narrowed_down_by_is_part_of_the_question(guarded: World) -> None:
    ask(guarded, HEADER)
    ask(guarded, HEADER, name="two", narrowing=Narrowing(sender="example.net"))
    ask(guarded, HEADER, name="three", narrowing=Narrowing(expect_count=2))
    assert [question.narrowing.sender for question in guarded.lookup.questions] == [None, "example.net", None]
    assert told(later(guarded, "three")) == [(Outcome.AMBIGUOUS, Code.COUNT_DIFFERS)]


@pytest.mark.parametrize("given", [BARE, ALERT])
@pytest.mark.parametrize("has_guard", [False, True])
def test_an_id_that_several_messages_go_by_is_ambiguous(world: World, given: MessageId, has_guard: bool) -> None:
    world.guard = STANDARD if has_guard else world.guard
    world.lookup.messages[given] = Several((SPAM, replace(EVIL, message_id=MessageId(f"{ALERT}-7"))))
    if given is BARE and not has_guard:  # nothing is read for it
        return
    answer = ask(world, given)
    assert told(answer) == [(Outcome.AMBIGUOUS, Code.SEVERAL_MATCHES)]
    (result,) = answer.results
    assert result.ended is not None
    assert [each.message_id for each in result.ended.candidates] == [FULL, f"{ALERT}-7"]
    assert world.cloudflare.calls == []


@pytest.mark.parametrize("given", [BARE, ALERT])
def test_a_full_id_of_another_request_does_not_tell_what_a_shorter_one_means(guarded: World, given: MessageId) -> None:
    guarded.lookup.messages[given] = Several((SPAM, replace(SPAM, message_id=MessageId(f"{ALERT}-7"))))
    ask(guarded, given, inline=False)
    ask(guarded, FULL, inline=False, name="two")
    guarded.work()
    assert told(later(guarded)) == [(Outcome.AMBIGUOUS, Code.SEVERAL_MATCHES)]
    assert told(later(guarded, "two")) == [RELEASED]


def test_a_shorter_id_waits_until_it_is_read_itself(guarded: World) -> None:
    guarded.lookup.messages[ALERT] = NotYetRead.NOT_NOW
    ask(guarded, ALERT, inline=False)
    ask(guarded, FULL, inline=False, name="two")
    guarded.work()
    assert told(later(guarded, "two")) == [RELEASED]
    guarded.work()
    assert told(later(guarded)) == [(Outcome.ALREADY_RELEASED, None)]


@pytest.mark.parametrize("given", [BARE, ALERT])
@pytest.mark.parametrize("why", [Unreadable.FAILED, Unreadable.UNCLEAR, Unreadable.CONTRADICTED])
def test_a_shorter_id_that_cannot_be_read_does_not_pass_by_the_full_id_of_another_request(
    guarded: World, given: MessageId, why: Unreadable
) -> None:
    guarded.lookup.messages[given] = why
    ask(guarded, given, inline=False)
    ask(guarded, FULL, inline=False, name="two")
    guarded.work()
    assert told(later(guarded)) == [(Outcome.DENIED, Code.GUARD_UNAVAILABLE)]
    assert told(later(guarded, "two")) == [RELEASED]


def test_a_bare_id_that_was_released_and_that_two_messages_go_by_now_is_ambiguous(guarded: World) -> None:
    guarded.lookup.messages[BARE] = SPAM
    ask(guarded, BARE)
    guarded.clock.move(seconds=90)
    guarded.lookup.messages[BARE] = Several((SPAM, replace(SPAM, message_id=MessageId(f"{ALERT}-7"))))
    assert told(ask(guarded, BARE, name="two")) == [(Outcome.AMBIGUOUS, Code.SEVERAL_MATCHES)]
    assert len(guarded.cloudflare.calls) == 1


@pytest.mark.parametrize("inline", [True, False])
def test_an_alert_id_that_leads_to_two_messages_is_ambiguous_though_one_was_released(
    guarded: World, inline: bool
) -> None:
    ask(guarded, FULL)
    assert told(ask(guarded, ALERT, name="at once")) == [(Outcome.ALREADY_RELEASED, None)]
    guarded.clock.move(seconds=90)
    ask(guarded, ALERT, name="same", inline=inline)
    guarded.work()
    assert told(later(guarded, "same")) == [(Outcome.ALREADY_RELEASED, None)]
    guarded.lookup.messages[ALERT] = Several((SPAM, replace(SPAM, message_id=MessageId(f"{ALERT}-7"))))
    ask(guarded, ALERT, name="two", inline=inline)
    guarded.work()
    assert told(later(guarded, "two")) == [(Outcome.AMBIGUOUS, Code.SEVERAL_MATCHES)]
    assert len(guarded.cloudflare.calls) == 1


def test_contradicting_rows_of_a_message_id_end_as_those_of_an_id(guarded: World) -> None:
    guarded.lookup.answers[HEADER] = guarded.lookup.messages[FULL] = Unreadable.CONTRADICTED
    by_header, by_id = ask(guarded, HEADER, FULL).results
    assert (by_header.outcome, by_header.code) == (Outcome.DENIED, Code.GUARD_UNAVAILABLE)
    assert by_header.ended == by_id.ended


def test_of_several_matches_none_is_released_and_all_are_shown(guarded: World) -> None:
    guarded.lookup.answers[HEADER] = [SPAM, OTHER_SPAM]
    answer = ask(guarded, HEADER)
    assert told(answer) == [(Outcome.AMBIGUOUS, Code.SEVERAL_MATCHES)]
    assert answer.results[0].ended is not None
    assert [one.message_id for one in answer.results[0].ended.candidates] == [FULL, FULL_OTHER]
    assert later(guarded).results == answer.results
    assert guarded.cloudflare.calls == []


@pytest.mark.parametrize(
    ("why", "expected"),
    [
        ([], (Outcome.NOT_FOUND, None)),
        (Unreadable.FAILED, (Outcome.DENIED, Code.LOOKUP_UNAVAILABLE)),
        (NotYetRead.NOT_NOW, (Outcome.IN_PROGRESS, None)),
    ],
)
def test_a_message_id_that_leads_nowhere_is_not_released(
    guarded: World, why: Any, expected: tuple[Outcome, Code | None]
) -> None:
    guarded.lookup.answers[HEADER] = why
    assert told(ask(guarded, HEADER)) == [expected]
    assert guarded.cloudflare.calls == []


def test_what_a_message_id_means_is_guarded_too(guarded: World) -> None:
    guarded.lookup.answers[HEADER] = [EVIL]
    answer = ask(guarded, HEADER)
    assert (told(answer), answer.results[0].resolved) == ([DENIED], FULL)
    assert guarded.ledger.unclaimed(ACCOUNT, PART) == {"rq_one"}


def test_a_message_id_that_leads_to_another_message_of_a_given_id_releases_neither(guarded: World) -> None:
    other = MessageId("4Njp3P0STMz2c02Q-2024-01-05T10:00:00-999")
    guarded.lookup.answers[HEADER] = [replace(SPAM, message_id=other)]
    assert told(ask(guarded, HEADER, FULL)) == [(Outcome.NEEDS_REVIEW, Code.ID_CONFLICT)] * 2
    assert guarded.cloudflare.calls == []


# --- In the worker


def test_the_worker_guards_what_nobody_waited_for(guarded: World) -> None:
    guarded.lookup.answers[HEADER] = [SPAM]
    ask(guarded, HEADER, FULL_OTHER, BULK, inline=False)
    guarded.lookup.messages[BULK] = Unreadable.ABSENT
    batch = guarded.work()
    assert told(later(guarded)) == [RELEASED, DENIED, RELEASED]
    assert [result.id for result, _ in batch.ended] == [FULL_OTHER]
    assert guarded.cloudflare.calls == [(WireForm.OBJECT, [FULL]), (WireForm.ARRAY, [BULK])]
    assert message(guarded, BULK).guard is Guarded.NOT_CHECKED


def test_verdicts_hold_for_fifteen_seconds_of_calls_and_what_is_left_is_looked_at_anew(guarded: World) -> None:
    late = MessageId("4WtLkR7nmCz9sNJ-2024-08-28T15:32:35-7")
    guarded.lookup.messages |= {late: replace(SPAM, message_id=late), BULK: replace(SPAM, message_id=BULK)}
    release_call = guarded.cloudflare.release

    def slow(*arguments: Any) -> Any:
        guarded.clock.move(seconds=15)
        guarded.lookup.messages[late] = replace(EVIL, message_id=late)
        return release_call(*arguments)

    guarded.cloudflare.release = slow  # type: ignore[method-assign,assignment]
    ask(guarded, BULK, late, inline=False)  # two wire forms, and so two calls
    guarded.work()
    assert len(guarded.cloudflare.calls) == 1
    guarded.work()
    assert told(later(guarded)) == [RELEASED, DENIED]
    assert guarded.cloudflare.calls == [(WireForm.ARRAY, [BULK])]


def test_verdicts_of_a_search_grow_old_too(guarded: World) -> None:
    release_call = guarded.cloudflare.release

    def slow(*arguments: Any) -> Any:
        guarded.clock.move(seconds=15)
        return release_call(*arguments)

    guarded.cloudflare.release = slow  # type: ignore[method-assign,assignment]
    guarded.lookup.answers |= {HEADER: [SPAM], MessageId("<2@x>"): [replace(SPAM, message_id=BULK)]}
    ask(guarded, HEADER, "<2@x>", inline=False)
    guarded.work()
    assert len(guarded.cloudflare.calls) == 1


def test_an_account_whose_reads_are_slow_does_not_let_the_verdicts_of_another_grow_old(guarded: World) -> None:
    slow_account, look = AccountId("b" * 32), guarded.lookup.look

    def slow(account_id: AccountId, *arguments: Any) -> Any:
        if account_id == slow_account:
            guarded.clock.move(seconds=20)
        return look(account_id, *arguments)

    guarded.lookup.look = slow  # type: ignore[method-assign,assignment]
    ask(guarded, FULL, inline=False)
    guarded.lookup.messages[BULK] = NotYetRead.NOT_NOW
    ask(guarded, BULK, inline=False, name="two", account_id=slow_account)
    guarded.work()
    assert guarded.cloudflare.calls == [(WireForm.OBJECT, [FULL])]


@pytest.mark.parametrize("wrong", [f"{BARE}-2024-01-05T10:00:01", f"{BARE}-2024-01-05T10:00:01-99"])
def test_the_wrong_id_of_another_ends_nothing_but_his_own(guarded: World, wrong: str) -> None:
    guarded.lookup.messages |= {BARE: SPAM, MessageId(wrong): Unreadable.ABSENT}
    ask(guarded, BARE, inline=False)
    ask(guarded, wrong, inline=False, name="two", client="stranger")
    guarded.work()
    assert told(later(guarded, "two")) == [(Outcome.NOT_FOUND, None)]
    guarded.work()
    assert told(later(guarded)) == [RELEASED]


def test_new_made_up_ids_of_another_keep_nobody_waiting(guarded: World) -> None:
    """Each of them is waited for, since mail that new may not be shown yet."""
    made_up = MessageId(f"{BARE}-{guarded.clock.now:%Y-%m-%dT%H:%M:%S}-99")
    guarded.lookup.messages |= {BARE: SPAM, made_up: Unreadable.ABSENT}
    ask(guarded, BARE, inline=False)
    ask(guarded, made_up, inline=False, name="two", client="stranger")
    guarded.work()
    assert told(later(guarded)) == [RELEASED]
    assert guarded.cloudflare.calls == [(WireForm.ARRAY, [BARE])]


def test_where_the_guard_is_off_for_one_of_them_a_message_is_in_a_call_once(world: World) -> None:
    made_up = MessageId(f"{ALERT}-99")
    world.lookup.messages |= {ALERT: SPAM, made_up: Unreadable.ABSENT}
    ask(world, made_up, inline=False, name="two", client="stranger")
    ask(world, ALERT, inline=False, policy=Policy(dispositions=frozenset({"SPAM"})))
    world.work()
    assert all(len({postfix_part(each) for each in ids}) == len(ids) for _, ids in world.cloudflare.calls)


MADE_UP = MessageId(f"{ALERT}-999")
CONFLICT, NOT_FOUND = (Outcome.NEEDS_REVIEW, Code.ID_CONFLICT), (Outcome.NOT_FOUND, None)


@pytest.mark.parametrize("inline", [True, False])
@pytest.mark.parametrize(
    ("given", "shown", "expected"),
    [
        (BARE, SPAM, [RELEASED, CONFLICT]),
        (BARE, EVIL, [DENIED, CONFLICT]),
        (BARE, replace(SPAM, message_id=BARE), [RELEASED, NOT_FOUND]),
        (BARE, Unreadable.ABSENT, [RELEASED, NOT_FOUND]),
        (BARE, Unreadable.NOT_LISTED, [(Outcome.DENIED, Code.GUARD_UNAVAILABLE), NOT_FOUND]),
        (ALERT, SPAM, [RELEASED, CONFLICT]),
        (ALERT, EVIL, [DENIED, CONFLICT]),
        (ALERT, Unreadable.ABSENT, [NOT_FOUND, NOT_FOUND]),
        (BARE, Several((SPAM, replace(SPAM, message_id=MessageId(f"{ALERT}-7")))), None),
    ],
)
def test_a_made_up_id_in_the_same_request_spoils_no_shorter_one(
    guarded: World, inline: bool, given: MessageId, shown: Any, expected: list[tuple[Outcome, Code | None]] | None
) -> None:
    guarded.lookup.messages |= {given: shown, MADE_UP: Unreadable.ABSENT}
    ask(guarded, given, MADE_UP, inline=inline)
    guarded.work()
    assert told(later(guarded)) == (expected or [(Outcome.AMBIGUOUS, Code.SEVERAL_MATCHES), NOT_FOUND])
    assert len(guarded.cloudflare.calls) == (expected is not None and expected[0] == RELEASED)
    assert kept(guarded).state is RequestState.CLOSED


@pytest.mark.parametrize("inline", [True, False])
def test_a_made_up_alert_id_next_to_a_made_up_full_one_spoils_no_bare_one(guarded: World, inline: bool) -> None:
    wrong = MessageId(f"{BARE}-2024-01-05T10:00:01")
    made_up = MessageId(f"{wrong}-9")
    guarded.lookup.messages |= {BARE: SPAM, wrong: Unreadable.ABSENT, made_up: Unreadable.ABSENT}
    ask(guarded, made_up, BARE, wrong, inline=inline)
    guarded.work()
    assert told(later(guarded)) == [CONFLICT, RELEASED, CONFLICT]
    assert guarded.cloudflare.calls == [(WireForm.ARRAY, [BARE])]


def test_a_full_id_that_only_a_shorter_one_leads_to_is_the_same_message(guarded: World) -> None:
    guarded.lookup.messages |= {BARE: SPAM, ALERT: Unreadable.ABSENT, FULL: Unreadable.ABSENT}
    assert told(ask(guarded, BARE, FULL, ALERT)) == [RELEASED] * 3
    assert guarded.cloudflare.calls == [(WireForm.OBJECT, [FULL])]


@pytest.mark.parametrize("why", [NotYetRead.NOT_NOW, NotYetRead.REFUSED])
def test_a_shorter_id_next_to_a_made_up_one_waits_until_it_is_read_itself(guarded: World, why: NotRead) -> None:
    guarded.lookup.messages |= {BARE: why, MADE_UP: Unreadable.ABSENT}
    ask(guarded, BARE, MADE_UP, inline=False)
    guarded.work()
    assert told(later(guarded)) == [(Outcome.IN_PROGRESS, None)] * 2
    guarded.lookup.messages[BARE] = SPAM
    guarded.work()
    assert told(later(guarded)) == [RELEASED, CONFLICT]


def test_a_new_full_id_and_a_bare_one_wait_together_while_neither_is_shown(guarded: World) -> None:
    new = MessageId(f"{BARE}-{guarded.clock.now:%Y-%m-%dT%H:%M:%S}-99")
    guarded.lookup.messages |= {BARE: Unreadable.NOT_LISTED, new: Unreadable.ABSENT}
    assert told(ask(guarded, BARE, new)) == [(Outcome.IN_PROGRESS, None)] * 2
    guarded.lookup.messages[new] = replace(SPAM, message_id=new)
    guarded.work()
    assert told(later(guarded)) == [RELEASED] * 2


@pytest.mark.parametrize("inline", [True, False])
def test_an_id_that_contradicts_the_confirmed_one_spoils_no_other_of_the_same_request(
    guarded: World, inline: bool
) -> None:
    guarded.cloudflare.answers.append(NoEffect(RefusalReason.RATE_LIMITED, Evidence(429), 42))
    guarded.lookup.messages |= {BARE: SPAM, MADE_UP: Unreadable.ABSENT}
    ask(guarded, FULL, name="before")
    guarded.queue.taken()
    guarded.clock.move(seconds=60)
    ask(guarded, BARE, MADE_UP, name="after", inline=inline)
    guarded.work()
    assert told(later(guarded, "after")) == [RELEASED, CONFLICT]
    assert kept(guarded, "after").letters == "RI"


def test_two_requests_with_a_made_up_id_in_one_batch_have_their_message_in_a_call_once(guarded: World) -> None:
    guarded.lookup.messages |= {BARE: SPAM, MADE_UP: Unreadable.ABSENT}
    ask(guarded, BARE, MADE_UP, inline=False)
    ask(guarded, ALERT, MADE_UP, inline=False, name="two")
    ask(guarded, BARE, inline=False, name="three")
    guarded.work()
    guarded.work()
    assert told(later(guarded)) == [RELEASED, CONFLICT]
    assert told(later(guarded, "two")) == [(Outcome.ALREADY_RELEASED, None), CONFLICT]
    assert told(later(guarded, "three")) == [(Outcome.ALREADY_RELEASED, None)]
    assert len(guarded.cloudflare.calls) == 1


def test_a_wrong_id_does_not_become_the_messages_own(guarded: World) -> None:
    guarded.cloudflare.answers.append(NoEffect(RefusalReason.RATE_LIMITED, Evidence(429), 42))
    guarded.lookup.messages |= {BARE: SPAM, (wrong := MessageId(f"{BARE}-2024-01-05T10:00:01-99")): Unreadable.ABSENT}
    ask(guarded, BARE)
    guarded.queue.taken()
    ask(guarded, wrong, inline=False, name="two")
    guarded.work()
    assert told(later(guarded, "two")) == [(Outcome.NEEDS_REVIEW, Code.ID_CONFLICT)]
    assert told(ask(guarded, FULL, name="three")) == [RELEASED]


def test_an_id_that_has_ended_stands_for_nobody_elses(guarded: World) -> None:
    wrong = MessageId(f"{BARE}-2024-01-05T10:00:01-99")
    guarded.lookup.messages |= {BARE: SPAM, wrong: Unreadable.ABSENT, BULK: NotYetRead.NOT_NOW}
    ask(guarded, wrong, BULK, inline=False, name="two")
    ask(guarded, BARE, inline=False)
    for _ in range(2):
        guarded.work()
    assert told(later(guarded)) == [RELEASED]


def test_a_call_that_was_taken_is_put_back_where_the_ledger_fails(
    guarded: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise LedgerUnavailable

    monkeypatch.setattr(guarded.ledger, "note", fails)
    ask(guarded, FULL_OTHER, inline=False)
    assert guarded.work().failed
    assert len(guarded.budget.taken) == guarded.budget.put_back_calls == 1
    monkeypatch.setattr(guarded.ledger, "known", fails)
    ask(guarded, FULL_OTHER, inline=False, name="two")
    assert guarded.work().failed
    assert len(guarded.budget.taken) == 1


def test_a_look_that_takes_all_its_time_leaves_enough_for_a_call(guarded: World) -> None:
    left, look = [40.0], guarded.lookup.look

    def slow(account_id: Any, ids: Any, seconds: float, *more: Any) -> Any:
        left[0] -= seconds + 0.1
        return look(account_id, ids, seconds, *more)

    guarded.lookup.look = slow  # type: ignore[method-assign,assignment]
    ask(guarded, FULL, inline=False)
    guarded.work(time_left=lambda: left[0])
    assert guarded.cloudflare.calls == [(WireForm.OBJECT, [FULL])]


def test_a_refusal_is_no_replay_of_what_is_forgotten(guarded: World) -> None:
    ask(guarded, FULL)
    guarded.clock.move(days=401)
    guarded.lookup.messages[FULL] = NotYetRead.REFUSED
    assert isinstance(release(request_row(FULL, created_at=guarded.clock()), guarded.ports()), NotAccepted)


def test_while_releases_are_paused_nothing_is_read_for_who_waits_but_a_dry_run(guarded: World) -> None:
    guarded.budget.stops["*"] = Stop("a wrong rule", "ann", NOON, OperationId("01OPERATION"))
    refusal = release(request_row(FULL), guarded.ports())
    assert isinstance(refusal, NotAccepted)
    assert refusal.reason is RefusalReason.PAUSED
    assert guarded.lookup.looked == []
    assert told(ask(guarded, FULL, dry_run=True, name="two"))[0][0] is Outcome.WOULD_RELEASE


def test_a_refused_credential_ends_nothing(guarded: World) -> None:
    guarded.lookup.messages[FULL] = NotYetRead.REFUSED
    for force in (False, True):
        refusal = release(request_row(FULL, force=force), guarded.ports())
        assert isinstance(refusal, NotAccepted)
        assert refusal.reason is RefusalReason.CREDENTIALS
    assert guarded.ledger.requests([RequestId("rq_one")]) == {}
    ask(guarded, FULL, inline=False)
    guarded.work()
    ((_, delay),) = guarded.queue.sent
    assert 30 <= delay <= 90
    assert told(later(guarded)) == [(Outcome.IN_PROGRESS, None)]


@pytest.mark.parametrize("why", [NotYetRead.NOT_NOW, NotYetRead.REFUSED, None])
def test_a_worker_hints_at_its_own_work_fewer_than_16_times_in_a_row(guarded: World, why: NotRead | None) -> None:
    """After that the sweep does, until the request expires. None: a person has paused releases."""
    guarded.lookup.messages[FULL] = why or SPAM
    ask(guarded, FULL, inline=False)
    if why is None:
        stop = Stop("a drill", "anna", NOON, OperationId("01JDA0000000000000000000O1"))
        guarded.budget.stops[request_row(FULL).client] = stop
    delays: list[float] = []
    while True:
        guarded.work()
        if not guarded.queue.sent:
            break
        ((_, delay),) = guarded.queue.sent
        delays.append(delay)
        guarded.clock.move(seconds=delay)
    assert 5 < len(delays) < 16
    if why is NotYetRead.NOT_NOW:
        assert [round(each) for each in delays[:5]] == [5, 5, 10, 20, 40]
    guarded.budget.stops.clear()
    guarded.clock.move(minutes=8)
    sweep(guarded.ports(), Swept())
    assert len(guarded.queue.sent) == 1
    guarded.lookup.messages[FULL] = SPAM
    guarded.work()
    assert told(later(guarded)) == [RELEASED]


def test_a_request_of_which_something_was_found_out_is_looked_at_again_soon(guarded: World) -> None:
    guarded.lookup.messages |= {FULL: NotYetRead.NOT_NOW, FULL_OTHER: NotYetRead.NOT_NOW}
    ask(guarded, FULL, FULL_OTHER, inline=False)
    guarded.clock.move(minutes=2)
    guarded.lookup.messages[FULL_OTHER] = replace(EVIL, message_id=FULL_OTHER)
    guarded.work()
    assert [delay for _, delay in guarded.queue.sent] == [5.0]
    guarded.work()
    assert [round(delay) for _, delay in guarded.queue.sent] == [120]


def test_a_clients_own_policy_holds_also_where_the_guard_is_off(world: World) -> None:
    world.lookup.messages |= {FULL: EVIL, FULL_OTHER: OTHER_SPAM}
    strict = Policy(dispositions=frozenset({"SPAM"}))
    assert told(ask(world, FULL, FULL_OTHER, policy=strict)) == [DENIED, RELEASED]
    assert told(ask(world, FULL, name="two")) == [RELEASED]
    assert world.lookup.looked == [FULL, FULL_OTHER]


def test_a_message_id_is_found_in_the_worker_and_its_alias_kept(guarded: World) -> None:
    ask(guarded, HEADER, inline=False)
    assert guarded.lookup.questions == []
    guarded.work()
    assert told(later(guarded)) == [RELEASED]
    assert kept(guarded).resolved == {HEADER: FULL}
    ask(guarded, HEADER, inline=False, name="two")
    guarded.work()
    assert told(later(guarded, "two")) == [(Outcome.ALREADY_RELEASED, None)]
    assert len(guarded.lookup.questions) == 1


def test_a_message_that_one_may_have_and_the_other_may_not_is_released_for_the_one(guarded: World) -> None:
    ask(guarded, FULL, inline=False, policy=Policy(dispositions=frozenset({"BULK"})))
    ask(guarded, FULL, inline=False, name="two")
    guarded.work()
    assert told(later(guarded)) == [DENIED]
    assert told(later(guarded, "two")) == [RELEASED]
    assert message(guarded).asks == {"rq_two"}


def test_a_verdict_that_another_worker_wrote_first_is_the_one_that_counts(guarded: World) -> None:
    ask(guarded, FULL_OTHER, HEADER, inline=False)
    hints = [hint for hint, _ in guarded.queue.sent]
    guarded.work()
    assert told(later(guarded)) == [DENIED, RELEASED]
    closed = kept(guarded)
    stale = replace(
        closed, state=RequestState.OPEN, letters=None, resolved={}, ended={}, closed_at=None, expires_at=None
    )
    guarded.lookup.messages[FULL_OTHER] = OTHER_SPAM
    guarded.queue.sent = [(hint, 0.0) for hint in hints]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guarded.ledger, "requests", lambda _: {stale.request_id: stale})
        guarded.work()
    assert kept(guarded) == closed
    assert guarded.cloudflare.calls == [(WireForm.OBJECT, [FULL])]


def test_a_verdict_that_cannot_be_written_is_found_again(guarded: World, faults: list[Fault | None]) -> None:
    ask(guarded, FULL_OTHER, inline=False)
    faults += [None, None, Fault.TIMEOUT_BEFORE]
    (hint,) = (hint for hint, _ in guarded.queue.sent)
    assert guarded.work().failed == {hint}
    guarded.queue.sent = [(hint, 0.0)]
    guarded.work()
    assert told(later(guarded)) == [DENIED]


def test_a_thousand_message_ids_do_not_hide_one_another(guarded: World) -> None:
    headers = [f"<{number}@example.net>" for number in range(120)]
    for number, header in enumerate(headers):
        full = MessageId(f"4Njp3P0STMz{number:04d}-2024-01-05T10:00:00-{number}")
        guarded.lookup.answers[MessageId(header)] = [replace(SPAM, message_id=full)]
    ask(guarded, *headers, inline=False)
    assert len(guarded.queue.sent) == 2
    guarded.work()
    assert told(later(guarded)) == [RELEASED] * 120
    assert [len(ids) for _, ids in guarded.cloudflare.calls] == [98, 22]


def test_what_a_message_id_led_to_is_no_proof_of_another_id(guarded: World) -> None:
    """Two requests: one by a Message-ID, one by an id that contradicts what it means."""
    other = MessageId("4Njp3P0STMz2c02Q-2024-01-05T10:00:00-999")
    guarded.lookup.answers[HEADER] = [replace(SPAM, message_id=other)]
    ask(guarded, FULL, inline=False)
    ask(guarded, HEADER, inline=False, name="two")
    guarded.lookup.messages[FULL] = EVIL
    guarded.work()
    assert told(later(guarded)) == [(Outcome.DENIED, Code.GUARD_UNAVAILABLE)]
    assert guarded.cloudflare.calls == []


def test_whatever_others_found_out_meanwhile_is_left_to_them(guarded: World) -> None:
    ask(guarded, ALERT, FULL_OTHER, inline=False)
    note = guarded.ledger.note

    def overtaken(before: RequestRow, after: RequestRow) -> RequestRow | None:
        first = replace(after, resolved={}, ended={FULL_OTHER: Ended(Outcome.NOT_FOUND, None, "gone")})
        assert note(before, first) is None
        return note(before, after)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guarded.ledger, "note", overtaken)
        guarded.work()
    assert guarded.cloudflare.calls == []
    assert kept(guarded).ended[FULL_OTHER].outcome is Outcome.NOT_FOUND
    guarded.work()
    assert told(later(guarded)) == [RELEASED, (Outcome.NOT_FOUND, None)]


def test_what_a_message_id_means_is_found_once_though_its_message_must_wait(guarded: World) -> None:
    ask(guarded, HEADER, FULL_OTHER, inline=False)
    guarded.lookup.answers[HEADER] = [replace(SPAM, message_id=FULL)]
    guarded.budget.waits.append(9.0)
    guarded.work()
    assert told(later(guarded)) == [(Outcome.IN_PROGRESS, None), DENIED]
    guarded.work()
    assert told(later(guarded)) == [RELEASED, DENIED]
    assert len(guarded.lookup.questions) == 1


def test_an_id_that_was_denied_for_one_is_found_for_the_other_by_the_same_search(guarded: World) -> None:
    ask(guarded, HEADER, inline=False, narrowing=Narrowing(expect_count=1))
    guarded.work()
    guarded.lookup.answers[HEADER] = [SPAM, OTHER_SPAM]
    ask(guarded, HEADER, inline=False, name="two")
    ask(guarded, HEADER, inline=False, name="three", narrowing=Narrowing(recipient="example.com"))
    guarded.work()
    assert told(later(guarded, "two")) == [(Outcome.ALREADY_RELEASED, None)]
    assert told(later(guarded, "three")) == [(Outcome.AMBIGUOUS, Code.SEVERAL_MATCHES)]


# --- Dry runs


def test_a_dry_run_does_everything_but_the_release(guarded: World) -> None:
    answer = ask(guarded, ALERT, FULL_OTHER, dry_run=True)
    assert told(answer) == [(Outcome.WOULD_RELEASE, None), DENIED]
    assert [(call.wire_form, [want.target.message_id for want in call.wants]) for call in answer.plan] == [
        (WireForm.OBJECT, [FULL])
    ]
    assert answer.details[PART] == SPAM
    assert (guarded.cloudflare.calls, guarded.queue.sent) == ([], [])
    assert guarded.ledger.messages(ACCOUNT, [PART]) == {}
    assert kept(guarded).letters == "WD"
    assert guarded.ledger.unclaimed(ACCOUNT, PART) == {"rq_one"}
    assert told(later(guarded)) == told(answer)


def test_a_dry_run_of_what_is_released_says_so(guarded: World) -> None:
    ask(guarded, FULL)
    answer = ask(guarded, FULL, name="dry", dry_run=True)
    assert (told(answer), answer.plan) == ([(Outcome.ALREADY_RELEASED, None)], ())


def test_a_dry_run_that_cannot_read_says_so(guarded: World) -> None:
    guarded.lookup.messages[FULL] = Unreadable.FAILED
    guarded.lookup.answers[HEADER] = Unreadable.FAILED
    assert told(ask(guarded, FULL, HEADER, dry_run=True)) == [
        (Outcome.DENIED, Code.GUARD_UNAVAILABLE),
        (Outcome.DENIED, Code.LOOKUP_UNAVAILABLE),
    ]


@pytest.mark.parametrize("how", [{"force": True}, {"dry_run": True}])
def test_of_what_is_done_now_or_never_what_could_be_read_is_done(guarded: World, how: dict[str, Any]) -> None:
    guarded.lookup.messages |= {BULK: NotYetRead.NOT_NOW}
    answer = ask(guarded, FULL, BULK, **how)
    assert told(answer)[1] == (Outcome.DENIED, Code.GUARD_UNAVAILABLE)
    assert told(answer)[0][0] is (Outcome.RELEASED if how.get("force") else Outcome.WOULD_RELEASE)


def test_what_was_made_before_is_not_told_no_for_a_credential_that_is_refused_now(guarded: World) -> None:
    for guard in (guarded.guard, Guard(Mode.OFF)):
        guarded.guard, name = guard, guard.mode
        first = ask(guarded, ALERT, name=name)
        guarded.lookup.messages[ALERT] = NotYetRead.REFUSED
        again = ask(guarded, ALERT, name=name, nonce="again")
        assert (again.replayed, told(again)) == (True, told(first))
        guarded.lookup.messages[ALERT] = SPAM


@pytest.mark.parametrize("why", [NotYetRead.REFUSED, NotYetRead.NOT_NOW])
def test_who_was_first_under_a_key_is_found_by_who_is_told_no(guarded: World, why: NotRead) -> None:
    """Another POST of the same may be a moment ahead."""
    look = guarded.lookup.look

    def overtaken(*arguments: Any) -> Any:
        guarded.lookup.look = look  # type: ignore[method-assign]
        ask(guarded, FULL, force=True)
        guarded.lookup.messages[FULL] = why
        return look(*arguments)

    guarded.lookup.look = overtaken  # type: ignore[method-assign,assignment]
    again = ask(guarded, FULL, force=True, nonce="again")
    assert (again.replayed, told(again)) == (True, [RELEASED])


@pytest.mark.parametrize("how", [{"force": True}, {"dry_run": True}])
@pytest.mark.parametrize("given", [FULL, HEADER])
def test_what_is_done_now_or_never_is_told_no_where_nothing_may_be_read(
    guarded: World, given: MessageId, how: dict[str, Any]
) -> None:
    guarded.lookup.messages[FULL] = guarded.lookup.answers[HEADER] = NotYetRead.NOT_NOW
    guarded.budget.paused = 41.5
    refusal = release(request_row(given, **how), guarded.ports())
    assert isinstance(refusal, NotAccepted)
    assert (refusal.reason, refusal.retry_after) == (RefusalReason.RATE_LIMITED, 42)
    guarded.budget.paused = 0.0
    refusal = release(request_row(given, **how), guarded.ports())
    assert isinstance(refusal, NotAccepted)
    assert (refusal.reason, refusal.retry_after) == (RefusalReason.NO_TIME, None)
    assert guarded.ledger.requests([RequestId("rq_one")]) == {}


def test_a_dry_run_of_what_is_under_way_ends_with_it_and_claims_nothing(guarded: World) -> None:
    guarded.cloudflare.answers.append(Answered({}, Evidence(failure="no_answer_in_time")))
    ask(guarded, FULL)
    answer = ask(guarded, FULL, name="dry", dry_run=True)
    assert told(answer) == [(Outcome.UNCONFIRMED, Code.MISSING_IN_ANSWER)]
    assert guarded.queue.sent == []
    assert not kept(guarded, "dry").may_claim


def test_a_dry_run_may_be_asked_again(guarded: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(guarded, FULL, dry_run=True)
    assert ask(guarded, FULL, dry_run=True, nonce="again").replayed
    known = World(guarded.dynamodb).ledger.known(ACCOUNT, RequestId("rq_one"), [], [])
    monkeypatch.setattr(guarded.ledger, "known", lambda *_: replace(known, request=None))
    assert ask(guarded, FULL, dry_run=True, nonce="at once").replayed


# --- Proof of delivery


def shown(seen: Seen) -> ReadBack:
    return ReadBack(seen, Evidence(200))


def test_a_release_is_confirmed_by_a_read(guarded: World) -> None:
    guarded.reader.readings[PART] = shown(Seen.RELEASED)
    ask(guarded, FULL, confirm=True)
    row = message(guarded)
    assert (row.state, row.confirmed_at is not None) == (State.RELEASED, True)
    assert row.evidence is not None
    assert (row.evidence.status, row.evidence.seen) == (OK.status, Seen.RELEASED)


def test_what_is_not_proved_stays_released_and_unconfirmed(guarded: World) -> None:
    guarded.reader.readings[PART] = shown(Seen.QUARANTINED)
    began = guarded.clock.now
    assert told(ask(guarded, FULL, confirm=True)) == [RELEASED]
    assert message(guarded).confirmed_at is None
    assert timedelta(seconds=3) < guarded.clock.now - began < timedelta(seconds=7)
    assert len(guarded.reader.wanted) == 4


def test_nobody_reads_what_nobody_wants_confirmed(guarded: World) -> None:
    ask(guarded, FULL)
    assert guarded.reader.wanted == []


def test_what_was_not_released_is_not_confirmed(guarded: World) -> None:
    guarded.cloudflare.answers.append(
        lambda ids: Answered(dict.fromkeys(ids, Verdict(State.FAILED, Code.NOT_DELIVERED)), OK)
    )
    ask(guarded, FULL, confirm=True)
    assert guarded.reader.wanted == []


def test_without_time_nothing_is_confirmed(guarded: World) -> None:
    ports = guarded.ports(time_left=lambda: 4.0 if guarded.cloudflare.calls else 20.0)
    answer = release(request_row(FULL, confirm=True), ports)
    assert isinstance(answer, Answer)
    assert (told(answer), guarded.reader.wanted) == ([RELEASED], [])


def test_a_proof_that_cannot_be_written_is_none(guarded: World, faults: list[Fault | None]) -> None:
    guarded.reader.readings[PART] = shown(Seen.RELEASED)
    faults += [None, None, None, *[Fault.TIMEOUT_BEFORE] * 4]
    assert told(ask(guarded, FULL, confirm=True)) == [RELEASED]
    assert message(guarded).confirmed_at is None


def test_the_worker_confirms_too(guarded: World) -> None:
    guarded.reader.readings[PART] = shown(Seen.RELEASED)
    ask(guarded, FULL, confirm=True, inline=False)
    guarded.work()
    assert message(guarded).confirmed_at is not None


def test_a_later_release_is_not_confirmed_by_an_earlier_one(guarded: World) -> None:
    ask(guarded, FULL)
    released_at = message(guarded).updated_at
    guarded.reader.readings[PART] = shown(Seen.RELEASED)
    ask(guarded, FULL, name="again", force=True, confirm=True)
    (wanted,) = guarded.reader.wanted
    assert wanted.since == released_at


# --- What moved while it was read


def released_meanwhile(guarded: World, monkeypatch: pytest.MonkeyPatch, seen: Details | NotRead) -> list[int]:
    """Have another request release the message while Cloudflare is read; count the reads of the ledger after it."""
    look, messages = guarded.lookup.look, guarded.ledger.messages
    reads: list[int] = []

    def overtaken(*arguments: Any) -> Any:
        monkeypatch.setattr(guarded.lookup, "look", look)
        assert told(ask(guarded, FULL, name="first")) == [RELEASED]
        monkeypatch.setattr(guarded.ledger, "messages", counted)
        guarded.lookup.messages |= {FULL: seen, ALERT: seen, BARE: seen}
        return look(*arguments)

    def counted(account_id: AccountId, parts: Any) -> Any:
        reads.append(len(parts))
        return messages(account_id, parts)

    monkeypatch.setattr(guarded.lookup, "look", overtaken)
    return reads


GONE = replace(SPAM, is_quarantined=False)
ALREADY = (Outcome.ALREADY_RELEASED, None)


@pytest.mark.parametrize("seen", [GONE, Unreadable.FAILED, Unreadable.ABSENT, Unreadable.TOO_MANY], ids=str)
@pytest.mark.parametrize("given", [FULL, ALERT, BARE])
def test_an_end_that_a_release_meanwhile_explains_is_left_to_the_row(
    guarded: World, monkeypatch: pytest.MonkeyPatch, given: MessageId, seen: Details | NotRead
) -> None:
    guarded.guard = replace(STANDARD, mode=Mode.STRICT)
    released_meanwhile(guarded, monkeypatch, seen)
    assert told(ask(guarded, given)) == [ALREADY]
    assert len(guarded.cloudflare.calls) == 1
    assert message(guarded).asks == {"rq_first", "rq_one"}


@pytest.mark.parametrize("why", [Unreadable.CONTRADICTED, Unreadable.FAILED])
@pytest.mark.parametrize("how", [{"inline": True}, {"inline": False}, {"dry_run": True}], ids=str)
def test_a_message_id_that_a_release_meanwhile_made_unclear_is_left_to_the_row(
    guarded: World, monkeypatch: pytest.MonkeyPatch, how: dict[str, Any], why: Unreadable
) -> None:
    find = guarded.lookup.find

    def overtaken(*arguments: Any) -> Any:
        monkeypatch.setattr(guarded.lookup, "find", find)
        assert told(ask(guarded, FULL, name="first")) == [RELEASED]
        guarded.lookup.answers[HEADER] = Unclear((FULL,), why)
        return find(*arguments)

    monkeypatch.setattr(guarded.lookup, "find", overtaken)
    ask(guarded, HEADER, **how)
    guarded.work()
    assert told(later(guarded)) == [ALREADY]
    assert later(guarded).results[0].resolved == FULL
    assert len(guarded.cloudflare.calls) == 1


@pytest.mark.parametrize(
    ("shown", "members"),
    [
        (Unclear((FULL,), Unreadable.CONTRADICTED, (OTHER_SPAM,)), {}),
        (Unclear((FULL, FULL_OTHER), Unreadable.CONTRADICTED), {}),
        (Unclear((FULL,), Unreadable.CONTRADICTED, fit=False), {}),
        (Unclear((FULL,), Unreadable.CONTRADICTED), {"narrowing": Narrowing(expect_count=2)}),
    ],
    ids=["another match", "two", "perhaps none", "two expected"],
)
def test_a_row_says_nothing_of_a_message_id_that_may_mean_another_message(
    guarded: World, shown: Unclear, members: dict[str, Any]
) -> None:
    assert told(ask(guarded, FULL, name="first")) == [RELEASED]
    guarded.lookup.answers[HEADER] = shown
    assert told(ask(guarded, HEADER, **members)) == [(Outcome.DENIED, Code.GUARD_UNAVAILABLE)]


def test_a_message_that_is_free_is_not_released_by_a_search_that_was_unclear(guarded: World) -> None:
    guarded.lookup.answers[HEADER] = Unclear((FULL,), Unreadable.CONTRADICTED)
    assert told(ask(guarded, HEADER)) == [(Outcome.DENIED, Code.GUARD_UNAVAILABLE)]
    assert guarded.cloudflare.calls == []


def test_a_rule_holds_whatever_others_do_and_costs_no_read(guarded: World, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = released_meanwhile(guarded, monkeypatch, EVIL)
    assert told(ask(guarded, FULL)) == [DENIED]
    assert reads == []


def test_the_rows_of_all_ids_in_doubt_are_read_at_once(guarded: World, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = released_meanwhile(guarded, monkeypatch, GONE)
    guarded.lookup.messages[BULK] = Unreadable.FAILED
    assert told(ask(guarded, FULL, BULK, FULL_OTHER)) == [ALREADY, (Outcome.DENIED, Code.GUARD_UNAVAILABLE), DENIED]
    assert reads == [2]


def test_a_row_that_was_given_back_explains_nothing(guarded: World, monkeypatch: pytest.MonkeyPatch) -> None:
    look = guarded.lookup.look

    def overtaken(*arguments: Any) -> Any:
        monkeypatch.setattr(guarded.lookup, "look", look)
        guarded.cloudflare.answers.append(NoEffect(RefusalReason.CREDENTIALS, Evidence(403)))
        assert isinstance(release(request_row(FULL, name="first"), guarded.ports()), NotAccepted)
        guarded.lookup.messages[FULL] = GONE
        return look(*arguments)

    monkeypatch.setattr(guarded.lookup, "look", overtaken)
    assert told(ask(guarded, FULL)) == [(Outcome.NOT_QUARANTINED, Code.ALREADY_DELIVERED)]


def test_in_the_worker_too_a_row_that_moved_decides(guarded: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(guarded, FULL, inline=False)
    released_meanwhile(guarded, monkeypatch, GONE)
    guarded.work()
    assert told(later(guarded)) == [ALREADY]
    assert message(guarded).asks == {"rq_first", "rq_one"}


@pytest.mark.parametrize("seen", [GONE, SPAM, NotYetRead.NOT_NOW], ids=str)
def test_a_dry_run_tells_what_the_row_says_by_then(
    guarded: World, monkeypatch: pytest.MonkeyPatch, seen: Details | NotRead
) -> None:
    released_meanwhile(guarded, monkeypatch, seen)
    guarded.lookup.messages[FULL_OTHER] = OTHER_SPAM
    answer = ask(guarded, FULL, FULL_OTHER, dry_run=True)
    assert told(answer) == [ALREADY, (Outcome.WOULD_RELEASE, None)]
    assert [[want.target.message_id for want in call.wants] for call in answer.plan] == [[FULL_OTHER]]


def test_a_ledger_that_cannot_be_read_again_ends_nothing(guarded: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise LedgerUnavailable

    guarded.lookup.messages[FULL] = GONE
    monkeypatch.setattr(guarded.ledger, "messages", fail)
    with pytest.raises(LedgerUnavailable):
        ask(guarded, FULL)
    assert guarded.ledger.requests([RequestId("rq_one")]) == {}


@pytest.mark.parametrize("state", [State.RETRYABLE, State.RELEASING, State.UNKNOWN])
def test_a_dry_run_waits_only_for_a_call_under_way(guarded: World, state: State) -> None:
    guarded.cloudflare.answers.append(Answered({}, Evidence(failure="no_answer_in_time")))
    ask(guarded, FULL)
    ask(guarded, FULL, name="dry", dry_run=True)
    row = message(guarded)
    guarded.ledger.project([Move(row, replace(row, state=state, code=None))])
    (result,) = later(guarded, "dry").results
    assert (result.outcome, result.code) == {
        State.RETRYABLE: (Outcome.FAILED, Code.NOT_ATTEMPTED),
        State.RELEASING: (Outcome.IN_PROGRESS, None),
        State.UNKNOWN: (Outcome.UNCONFIRMED, None),
    }[state]
    assert (kept(guarded, "dry").state is RequestState.CLOSED) == (state is State.RETRYABLE)


# --- Ids that mean another mail by now

NEXT = MessageId("4Njp3P0STMz2c02Q-2024-01-05T10:00:00-999")
AMBIGUOUS = (Outcome.AMBIGUOUS, Code.SEVERAL_MATCHES)


@pytest.fixture
def ended(guarded: World) -> World:
    """A world in which the message was released an hour ago, and its Postfix id now means another."""
    assert told(ask(guarded, FULL, name="first")) == [RELEASED]
    guarded.clock.move(hours=1)
    guarded.lookup.looked.clear()
    guarded.lookup.messages[BARE] = replace(SPAM, message_id=NEXT)
    return guarded


@pytest.mark.parametrize("how", [{}, {"force": True}, {"dry_run": True}], ids=str)
def test_a_postfix_id_that_was_used_again_is_ambiguous(ended: World, how: dict[str, Any]) -> None:
    answer = ask(ended, BARE, **how)
    assert told(answer) == [AMBIGUOUS]
    assert answer.results[0].ended is not None
    assert [each.message_id for each in answer.results[0].ended.candidates] == [FULL, NEXT]
    assert len(ended.cloudflare.calls) == 1
    assert message(ended).asks == {"rq_first", "rq_one"}
    assert told(later(ended)) == [AMBIGUOUS]


@pytest.mark.parametrize("seen", [SPAM, GONE, *Unreadable, *NotYetRead], ids=str)
@pytest.mark.parametrize("inline", [True, False])
def test_the_ledgers_answer_stands_unless_another_mail_is_shown(
    ended: World, seen: Details | NotRead, inline: bool
) -> None:
    ended.lookup.messages[BARE] = seen
    ask(ended, BARE, inline=inline)
    ended.work()
    assert told(later(ended)) == [ALREADY]
    assert ended.lookup.looked == [BARE]


def test_by_its_full_id_the_ledger_answers_alone(ended: World) -> None:
    assert told(ask(ended, FULL)) == [ALREADY]
    assert ended.lookup.looked == []


def test_the_worker_compares_too_and_nobody_is_told_before(ended: World) -> None:
    ask(ended, BARE, inline=False)
    assert told(later(ended)) == [(Outcome.IN_PROGRESS, None)]
    ended.work()
    assert told(later(ended)) == [AMBIGUOUS]
    assert message(ended).asks == {"rq_first", "rq_one"}


def test_without_a_call_to_spare_the_ledgers_answer_stands(ended: World) -> None:
    ask(ended, BARE, inline=False)
    ended.budget.waits.append(9.0)
    ended.work()
    assert told(later(ended)) == [ALREADY]


@pytest.mark.parametrize("members", [{"seconds": 121}, {}], ids=["late", "cancelled"])
def test_a_worker_that_does_not_come_is_not_waited_for(ended: World, members: dict[str, float]) -> None:
    ask(ended, BARE, inline=False)
    ended.clock.move(**members)
    if not members:
        cancel(kept(ended), ended.ports())
    assert told(later(ended)) == [ALREADY]


@pytest.mark.parametrize("policy", [None, Policy(dispositions=frozenset({"SPAM"}))])
def test_with_the_guard_off_only_a_client_with_a_policy_has_it_compared(ended: World, policy: Policy | None) -> None:
    ended.guard = NO_GUARD
    assert told(ask(ended, BARE, policy=policy)) == [ALREADY if policy is None else AMBIGUOUS]
    ask(ended, BARE, name="two", policy=policy, inline=False)
    assert told(later(ended, "two")) == [ALREADY if policy is None else (Outcome.IN_PROGRESS, None)]


@pytest.mark.parametrize("inline", [True, False])
def test_a_message_id_of_another_mail_than_the_ledger_knows_is_ambiguous(ended: World, inline: bool) -> None:
    ended.lookup.answers[HEADER] = [replace(SPAM, message_id=NEXT)]
    ask(ended, HEADER, inline=inline)
    ended.work()
    (result,) = later(ended).results
    assert ((result.outcome, result.code), result.resolved) == (AMBIGUOUS, NEXT)


def test_an_alert_id_of_another_mail_than_the_ledger_knows_is_ambiguous(guarded: World) -> None:
    guarded.cloudflare.answers.append(NoEffect(RefusalReason.CREDENTIALS, Evidence(403)))
    assert isinstance(release(request_row(FULL, name="first"), guarded.ports()), NotAccepted)
    guarded.lookup.messages[ALERT] = replace(SPAM, message_id=NEXT)
    assert told(ask(guarded, ALERT)) == [AMBIGUOUS]


# --- Mail that is too new to be found ---------------------------------------------------------------------------------

FRESH_FULL = full_id(NOON - timedelta(seconds=30))
FRESH = [FRESH_FULL, MessageId(FRESH_FULL.rpartition("-")[0]), MessageId(postfix_part(FRESH_FULL))]
WAITS = (Outcome.IN_PROGRESS, None)


@pytest.mark.parametrize("given", FRESH, ids=["full", "alert", "bare"])
@pytest.mark.parametrize("told_", [Unreadable.ABSENT, Unreadable.NOT_LISTED])
def test_new_mail_that_is_not_found_waits_and_is_judged_when_it_is(
    guarded: World, given: MessageId, told_: NotRead
) -> None:
    guarded.lookup.messages[given] = told_
    assert told(ask(guarded, given)) == [WAITS]
    assert [delay for _, delay in guarded.queue.sent] == [pytest.approx(20.0, abs=0.1)]
    guarded.clock.move(seconds=20)
    guarded.work()
    assert [delay for _, delay in guarded.queue.sent] == [pytest.approx(20.0, abs=0.1)]
    guarded.clock.move(seconds=140)  # it is old by now, but it was young when it was asked for
    guarded.work()
    assert [delay for _, delay in guarded.queue.sent] == [pytest.approx(50.0, abs=0.1)]
    guarded.lookup.messages[given] = replace(EVIL, message_id=FRESH_FULL)
    guarded.work()
    assert told(later(guarded)) == [DENIED]
    assert guarded.cloudflare.calls == []


def test_new_mail_that_turns_out_to_be_good_is_released(guarded: World) -> None:
    bare = FRESH[2]
    guarded.lookup.messages[bare] = Unreadable.ABSENT
    ask(guarded, bare)
    guarded.lookup.messages[bare] = replace(SPAM, message_id=FRESH_FULL)
    guarded.work()
    assert told(later(guarded)) == [RELEASED]


@pytest.mark.parametrize("given", FRESH, ids=["full", "alert", "bare"])
def test_new_mail_that_is_not_found_within_ten_minutes_is_denied(guarded: World, given: MessageId) -> None:
    guarded.lookup.messages[given] = Unreadable.ABSENT
    ask(guarded, given)
    guarded.clock.move(minutes=9, seconds=59)
    guarded.work()
    assert told(later(guarded)) == [WAITS]
    guarded.clock.move(seconds=2)
    guarded.work()
    (result,) = later(guarded).results
    assert (result.outcome, result.code) == (Outcome.DENIED, Code.GUARD_UNAVAILABLE)
    assert result.ended is not None
    assert "within ten minutes" in result.ended.detail
    assert guarded.cloudflare.calls == []


def test_a_new_alert_id_waits_also_where_the_guard_is_off(world: World) -> None:
    world.lookup.messages[FRESH[1]] = Unreadable.ABSENT
    assert told(ask(world, FRESH[1])) == [WAITS]


def test_mail_that_was_not_new_when_it_was_asked_for_does_not_wait(guarded: World) -> None:
    guarded.clock.move(seconds=90)
    guarded.lookup.messages |= dict.fromkeys(FRESH, Unreadable.ABSENT)
    assert told(ask(guarded, FRESH[0], name="full")) == [(Outcome.NOT_FOUND, None)]
    assert told(ask(guarded, FRESH[1], name="alert")) == [(Outcome.NOT_FOUND, None)]
    assert told(ask(guarded, FRESH[2], name="bare")) == [RELEASED]


@pytest.mark.parametrize("how", [{"dry_run": True}, {"force": True, "reason": "a drill"}])
def test_what_is_done_now_or_never_is_refused_for_new_mail(guarded: World, how: dict[str, Any]) -> None:
    guarded.lookup.messages |= dict.fromkeys(FRESH, Unreadable.ABSENT)
    request = request_row(FRESH[0], created_at=guarded.clock(), **how)
    refused = release(request, guarded.ports())
    assert isinstance(refused, NotAccepted)
    assert (refused.reason, refused.retry_after) == (RefusalReason.NOT_SEARCHABLE_YET, 90)
    assert guarded.ledger.requests([RequestId("rq_one")]) == {}


def test_beside_other_ids_a_dry_run_denies_what_is_too_new(guarded: World) -> None:
    guarded.lookup.messages[FRESH[0]] = Unreadable.ABSENT
    answer = ask(guarded, FRESH[0], FULL, dry_run=True)
    assert told(answer) == [(Outcome.DENIED, Code.GUARD_UNAVAILABLE), (Outcome.WOULD_RELEASE, None)]
    assert "too new" in str(answer.results[0].ended)


def test_a_retry_after_is_at_least_a_second(guarded: World) -> None:
    guarded.lookup.messages[FRESH[0]] = Unreadable.ABSENT
    asked_at = guarded.clock()
    guarded.clock.move(minutes=5)
    refused = release(request_row(FRESH[0], created_at=asked_at, dry_run=True), guarded.ports())
    assert isinstance(refused, NotAccepted)
    assert refused.retry_after == 1


def test_a_retry_after_is_at_most_ten_minutes_though_an_id_is_dated_ahead(guarded: World) -> None:
    ahead = full_id(guarded.clock() + timedelta(hours=20))
    guarded.lookup.messages[ahead] = Unreadable.ABSENT
    refused = release(request_row(ahead, created_at=guarded.clock(), dry_run=True), guarded.ports())
    assert isinstance(refused, NotAccepted)
    assert (refused.reason, refused.retry_after) == (RefusalReason.NOT_SEARCHABLE_YET, 600)


def test_beside_what_waits_for_another_reason_new_mail_is_looked_for_as_soon(guarded: World) -> None:
    guarded.lookup.messages |= {FRESH[0]: Unreadable.ABSENT, FULL: NotYetRead.NOT_NOW}
    assert told(ask(guarded, FRESH[0], FULL)) == [WAITS] * 2
    assert {delay for _, delay in guarded.queue.sent} == {0.0}
    guarded.work()
    assert {delay for _, delay in guarded.queue.sent} == {5.0}


def test_newer_mail_does_not_bring_back_as_soon_what_has_waited_for_long(guarded: World) -> None:
    """Else the hints of the older one would go round more often than AWS lets them."""
    newer = full_id(NOON + timedelta(seconds=90))
    guarded.lookup.messages |= dict.fromkeys([*FRESH, newer], Unreadable.ABSENT)
    ask(guarded, FRESH[0])
    guarded.clock.move(seconds=100)
    ask(guarded, newer, name="two", nonce="two")
    guarded.work()
    assert {hint.request_id: round(delay) for hint, delay in guarded.queue.sent} == {"rq_one": 25, "rq_two": 20}


def test_an_id_without_a_time_is_not_released_unread(guarded: World) -> None:
    guarded.lookup.messages[BARE] = Unreadable.UNDATED
    (result,) = ask(guarded, BARE).results
    assert (result.outcome, result.code) == (Outcome.DENIED, Code.GUARD_CANNOT_READ)
    assert "alert" in str(result.ended).lower()
    assert guarded.cloudflare.calls == []


# --- What was read holds for the bare Postfix id

CANNOT_READ = (Outcome.DENIED, Code.GUARD_CANNOT_READ)
OTHER_BARE = MessageId(postfix_part(FULL_OTHER))


def vanish(world: World) -> None:
    """Have Cloudflare show nothing any more."""
    world.lookup.messages = dict.fromkeys((BARE, FULL, ALERT, FULL_OTHER, OTHER_BARE), Unreadable.ABSENT)
    world.lookup.looked.clear()


@pytest.mark.parametrize("how", ["inline", "worker", "dry run"])
def test_mail_that_was_denied_is_denied_by_its_bare_id_too(guarded: World, how: str) -> None:
    members: dict[str, Any] = {"inline": how != "worker", "dry_run": how == "dry run"}
    ask(guarded, FULL_OTHER, name="first", **members)
    guarded.work()
    assert told(later(guarded, "first")) == [DENIED]
    vanish(guarded)
    ask(guarded, OTHER_BARE, name="bare", **members)
    guarded.work()
    assert told(later(guarded, "bare")) == [DENIED]
    assert guarded.lookup.looked == [OTHER_BARE, FULL_OTHER]
    assert guarded.cloudflare.calls == []


@pytest.mark.parametrize("inline", [True, False])
def test_a_bare_id_is_denied_if_the_mail_is_denied_while_it_is_looked_for(
    guarded: World, monkeypatch: pytest.MonkeyPatch, inline: bool
) -> None:
    original, denials = guarded.lookup.look, list[Answer]()
    guarded.lookup.messages[OTHER_BARE] = Unreadable.ABSENT

    def look(account_id: AccountId, ids: Sequence[MessageId], *others: Any) -> Any:
        shown = original(account_id, ids, *others)
        if OTHER_BARE in ids and not denials:
            denials.append(ask(guarded, FULL_OTHER, name="full"))
        return shown

    monkeypatch.setattr(guarded.lookup, "look", look)
    ask(guarded, OTHER_BARE, name="bare", inline=inline)
    guarded.work()
    assert [told(each) for each in denials] == [[DENIED]]
    assert told(later(guarded, "bare")) == [DENIED]
    assert guarded.cloudflare.calls == []


def test_a_learned_id_is_what_is_read_and_sent(guarded: World) -> None:
    ask(guarded, FULL, dry_run=True)
    guarded.lookup.messages[BARE] = Unreadable.ABSENT
    assert told(ask(guarded, BARE, name="two")) == [RELEASED]
    assert guarded.cloudflare.calls == [(WireForm.OBJECT, [FULL])]
    assert (message(guarded).guard, message(guarded).confirmed_id) == (Guarded.PASSED, FULL)


def test_what_nobody_can_read_any_more_is_judged_by_what_was_read(guarded: World) -> None:
    ask(guarded, FULL, dry_run=True)
    vanish(guarded)
    answer = ask(guarded, BARE, name="two", dry_run=True)
    assert told(answer) == [(Outcome.WOULD_RELEASE, None)]
    assert (answer.results[0].guard, answer.results[0].disposition) == (Guarded.PASSED_BY_RECORD, "SPAM")
    assert told(ask(guarded, BARE, name="three")) == [RELEASED]
    assert guarded.cloudflare.calls == [(WireForm.OBJECT, [FULL])]
    row = message(guarded)
    assert (row.guard, row.disposition, row.confirmed_id) == (Guarded.PASSED_BY_RECORD, "SPAM", FULL)


def test_facts_are_kept_in_the_row_of_the_message_if_there_is_one(guarded: World) -> None:
    guarded.cloudflare.answers.append(NoEffect(RefusalReason.CREDENTIALS, Evidence(403)))
    assert isinstance(release(request_row(FULL, name="first"), guarded.ports()), NotAccepted)
    first = message(guarded).facts
    assert first is not None
    assert first == facts_of(SPAM, first.read_at, keeps_recipients=True)
    guarded.lookup.messages[FULL] = EVIL
    assert told(ask(guarded, FULL, name="second")) == [DENIED]
    second = message(guarded).facts
    assert second is not None
    assert second.disposition == "MALICIOUS"
    vanish(guarded)
    assert told(ask(guarded, BARE)) == [DENIED]


def test_recipients_are_not_kept_where_they_must_not_be(guarded: World) -> None:
    guarded.guard = replace(STANDARD, keeps_recipients=False)
    ask(guarded, FULL)
    facts = message(guarded).facts
    assert facts is not None
    assert facts.recipients is None


def test_each_request_is_judged_by_its_own_policy(guarded: World) -> None:
    only_bulk, inside = Policy(dispositions=frozenset({"BULK"})), Policy(recipient_domains=frozenset({"example.org"}))
    assert told(ask(guarded, FULL, name="first", policy=only_bulk)) == [DENIED]
    vanish(guarded)
    assert told(ask(guarded, BARE, name="second", policy=inside)) == [(Outcome.DENIED, Code.RECIPIENT_NOT_ALLOWED)]
    assert told(ask(guarded, BARE, name="third", policy=only_bulk, override=True, reason="a drill")) == [RELEASED]
    assert message(guarded).guard is Guarded.OVERRIDDEN


def test_strict_does_not_pass_by_the_record(guarded: World) -> None:
    ask(guarded, FULL, dry_run=True)
    vanish(guarded)
    guarded.guard = replace(STANDARD, mode=Mode.STRICT)
    assert told(ask(guarded, BARE, name="two")) == [CANNOT_READ]


@pytest.mark.parametrize("why", [Unreadable.FAILED, NotYetRead.NOT_NOW])
@pytest.mark.parametrize("which", [BARE, FULL])
def test_a_read_that_did_not_succeed_is_no_reason_to_go_by_the_record(
    guarded: World, which: MessageId, why: NotRead
) -> None:
    ask(guarded, FULL, dry_run=True)
    vanish(guarded)
    guarded.lookup.messages[which] = why
    waits, unavailable = (Outcome.IN_PROGRESS, None), (Outcome.DENIED, Code.GUARD_UNAVAILABLE)
    assert told(ask(guarded, BARE, name="two")) == [waits if why is NotYetRead.NOT_NOW else unavailable]


@pytest.mark.parametrize("inline", [True, False])
@pytest.mark.parametrize("is_of_client", [True, False])
@pytest.mark.parametrize("names", [{"SPAM"}, DISPOSITIONS])
def test_a_list_of_dispositions_that_cannot_be_checked_is_not_passed(
    guarded: World, names: set[str], is_of_client: bool, inline: bool
) -> None:
    policy = Policy(dispositions=frozenset(names))
    guarded.guard = STANDARD if is_of_client else replace(STANDARD, policy=policy)
    own: dict[str, Any] = {"policy": policy} if is_of_client else {}
    guarded.lookup.messages[BARE] = Unreadable.ABSENT
    ask(guarded, BARE, inline=inline, **own)
    guarded.work()
    assert told(later(guarded)) == [CANNOT_READ]
    assert told(ask(guarded, BARE, name="two", override=True, reason="looked at", **own)) == [RELEASED]


def test_a_list_of_dispositions_is_checked_by_the_record(guarded: World) -> None:
    only_spam = Policy(dispositions=frozenset({"SPAM"}))
    ask(guarded, FULL, dry_run=True)
    vanish(guarded)
    assert told(ask(guarded, BARE, name="two", policy=only_spam)) == [RELEASED]
    assert message(guarded).guard is Guarded.PASSED_BY_RECORD


def test_an_id_that_nobody_has_read_proves_nothing(guarded: World) -> None:
    vanish(guarded)
    assert told(ask(guarded, FULL, name="made up")) == [(Outcome.NOT_FOUND, None)]
    assert told(ask(guarded, BARE)) == [RELEASED]
    assert message(guarded).guard is Guarded.NOT_CHECKED


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (FULL, replace(SPAM, is_doubtful=True)),
        (FULL, Unreadable.CONTRADICTED),
        (FULL, Unreadable.UNCLEAR),
        (ALERT, Several((SPAM, replace(SPAM, message_id=MessageId(f"{ALERT}-7"))))),
    ],
    ids=["held and released", "contradicting rows", "a row that tells too little", "two messages"],
)
@pytest.mark.parametrize("inline", [True, False])
def test_nothing_passes_by_a_record_of_what_was_not_clear(
    guarded: World, given: MessageId, shown: Any, inline: bool
) -> None:
    guarded.lookup.messages |= {given: shown, BARE: Unreadable.ABSENT}
    ((outcome, _),) = told(ask(guarded, given, name="first"))
    assert outcome in (Outcome.DENIED, Outcome.AMBIGUOUS)
    ask(guarded, BARE, name="second", inline=inline)
    guarded.work()
    assert told(later(guarded, "second")) == [CANNOT_READ]
    vanish(guarded)
    assert told(ask(guarded, BARE, name="third", force=True)) == [CANNOT_READ]
    assert guarded.cloudflare.calls == []
    guarded.lookup.messages[FULL] = SPAM
    assert told(ask(guarded, FULL, name="fourth")) == [RELEASED]


@pytest.mark.parametrize("how", ["bare", "alert", "Message-ID"])
def test_a_reading_of_one_of_two_messages_does_not_say_which_one_their_bare_id_means(guarded: World, how: str) -> None:
    twin = replace(SPAM, message_id=MessageId(f"{FULL}1"))
    guarded.lookup.messages |= {BARE: Several((SPAM, twin)), ALERT: Several((SPAM, twin))}
    guarded.lookup.answers[HEADER] = [SPAM, twin]
    given = {"bare": BARE, "alert": ALERT, "Message-ID": HEADER}[how]
    assert told(ask(guarded, given)) == [(Outcome.AMBIGUOUS, Code.SEVERAL_MATCHES)]
    assert told(ask(guarded, FULL, name="two", dry_run=True)) == [(Outcome.WOULD_RELEASE, None)]
    vanish(guarded)
    assert told(ask(guarded, BARE, name="three")) == [CANNOT_READ]
    assert guarded.cloudflare.calls == []


@pytest.mark.parametrize("inline", [True, False])
@pytest.mark.parametrize("narrowing", [Narrowing(), Narrowing(sender="example.net"), Narrowing(expect_count=1)])
def test_what_a_search_showed_of_several_matches_is_kept_of_each(
    guarded: World, narrowing: Narrowing, inline: bool
) -> None:
    guarded.lookup.answers[HEADER] = [SPAM, replace(EVIL, message_id=FULL_OTHER)]
    ask(guarded, HEADER, narrowing=narrowing, inline=inline)
    guarded.work()
    assert told(later(guarded))[0][0] is Outcome.AMBIGUOUS
    vanish(guarded)
    is_whole = narrowing.sender is None
    assert told(ask(guarded, OTHER_BARE, name="two")) == [DENIED if is_whole else CANNOT_READ]
    assert told(ask(guarded, BARE, name="three")) == [RELEASED if is_whole else CANNOT_READ]


def test_of_very_many_matches_few_are_kept_and_none_passes_by_its_bare_id(guarded: World) -> None:
    at = NOON - timedelta(hours=5)

    def mail(name: str, kind: Details) -> Details:
        return replace(kind, message_id=MessageId(f"{queue_id(at, name)}-{at:%Y-%m-%dT%H:%M:%S}-7"))

    spam = [mail(f"z{number:07}", SPAM) for number in range(300)]
    evil = [mail(f"zE{number:06}", EVIL) for number in range(40)]
    doubtful = mail("zDoubt00", replace(SPAM, is_doubtful=True))
    guarded.lookup.answers[HEADER] = [*spam, *evil, doubtful]
    assert told(ask(guarded, HEADER)) == [(Outcome.AMBIGUOUS, Code.SEVERAL_MATCHES)]
    apart = [key for key in guarded.dynamodb.items if key.startswith("N#")]
    assert len(apart) == MATCHES_KEPT + 1
    guarded.lookup.messages.clear()
    parts = [postfix_part(each.message_id) for each in (doubtful, evil[0], evil[39], spam[0], spam[299])]
    everything = (*map(MessageId, parts), *(each.message_id for each in (*spam, *evil, doubtful)))
    guarded.lookup.messages |= dict.fromkeys(everything, Unreadable.ABSENT)
    answers = [told(ask(guarded, part, name=str(number))) for number, part in enumerate(parts)]
    assert answers == [[CANNOT_READ], [DENIED], [CANNOT_READ], [CANNOT_READ], [CANNOT_READ]]
    guarded.lookup.messages[MessageId(parts[3])] = spam[0]
    assert told(ask(guarded, parts[3], name="read")) == [RELEASED]
    other_day = MessageId(queue_id(NOON - timedelta(days=9), "z7654321"))
    guarded.lookup.messages[other_day] = Unreadable.ABSENT
    assert told(ask(guarded, other_day, name="other day")) == [RELEASED]


def test_what_a_search_showed_of_the_clear_matches_is_kept_though_another_was_unclear(guarded: World) -> None:
    evil = replace(EVIL, message_id=FULL_OTHER)
    guarded.lookup.answers[HEADER] = Unclear((FULL,), Unreadable.CONTRADICTED, (evil,))
    ask(guarded, HEADER)
    vanish(guarded)
    assert told(ask(guarded, OTHER_BARE, name="two")) == [DENIED]
    assert told(ask(guarded, BARE, name="three")) == [CANNOT_READ]


def test_nobody_is_told_of_several_matches_before_what_was_read_of_them_is_kept(
    guarded: World, faults: list[Fault | None]
) -> None:
    guarded.lookup.answers[HEADER] = [SPAM, replace(EVIL, message_id=FULL_OTHER)]
    faults += [None, Fault.TIMEOUT_BEFORE]
    with pytest.raises(LedgerUnavailable):
        ask(guarded, HEADER)
    assert guarded.ledger.requests([RequestId("rq_one")]) == {}


def test_a_record_that_cannot_be_read_counts_as_not_clear(guarded: World) -> None:
    guarded.lookup.messages[FULL] = EVIL
    assert told(ask(guarded, FULL)) == [DENIED]
    guarded.dynamodb.items[unclaimed_key(ACCOUNT, PART)]["v"] = {"N": "9"}
    vanish(guarded)
    assert told(ask(guarded, BARE, name="two")) == [CANNOT_READ]


def test_a_record_of_another_mail_than_the_ledger_knows_is_ambiguous(guarded: World) -> None:
    guarded.cloudflare.answers.append(NoEffect(RefusalReason.CREDENTIALS, Evidence(403)))
    assert isinstance(release(request_row(FULL, name="first"), guarded.ports()), NotAccepted)
    row = message(guarded)
    read = facts_of(replace(SPAM, message_id=NEXT), NOON + timedelta(hours=1), keeps_recipients=True)
    guarded.ledger.project([Move(row, replace(row, facts=read))])
    vanish(guarded)
    guarded.lookup.messages[NEXT] = Unreadable.ABSENT
    assert told(ask(guarded, BARE)) == [AMBIGUOUS]


def test_with_the_guard_off_a_client_without_a_policy_sends_what_it_gave(guarded: World) -> None:
    """Beside one that has a policy, in the same batch of the worker."""
    ask(guarded, FULL, dry_run=True)
    vanish(guarded)
    guarded.guard = NO_GUARD
    ask(guarded, BARE, inline=False, name="held", policy=Policy(dispositions=frozenset({"BULK"})))
    ask(guarded, BARE, inline=False, name="free")
    guarded.work()
    assert told(later(guarded, "held")) == [DENIED]
    assert told(later(guarded, "free")) == [RELEASED]
    assert guarded.cloudflare.calls == [(WireForm.ARRAY, [BARE])]


# --- Ids that may mean more than another request says


@pytest.mark.parametrize("partial", [BARE, ALERT])
@pytest.mark.parametrize("shown", [Several((SPAM, replace(SPAM, message_id=NEXT))), replace(SPAM, message_id=NEXT)])
def test_what_another_request_names_more_fully_does_not_settle_what_an_id_means(
    guarded: World, partial: MessageId, shown: Details | Several
) -> None:
    guarded.lookup.messages[partial] = shown
    ask(guarded, partial, inline=False)
    ask(guarded, FULL, inline=False, name="two")
    guarded.work()
    assert told(later(guarded)) == [AMBIGUOUS]
    assert told(later(guarded, "two")) == [RELEASED]
    assert guarded.cloudflare.calls == [(WireForm.OBJECT, [FULL])]


@pytest.mark.parametrize("shown", [SPAM, Unreadable.ABSENT])
def test_an_id_that_means_no_other_message_is_released_with_the_one_that_is_named(
    guarded: World, shown: Details | NotRead
) -> None:
    guarded.lookup.messages[BARE] = shown
    ask(guarded, BARE, inline=False)
    ask(guarded, FULL, inline=False, name="two")
    guarded.work()
    assert told(later(guarded)) == [RELEASED]
    assert told(later(guarded, "two")) == [(Outcome.ALREADY_RELEASED, None)]
