"""The rows as values: which messages a request means, when it may claim, and when a call is open."""

from dataclasses import replace
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from quarantine_release.domain.ids import (
    AttemptId,
    MessageId,
    OperationId,
    PostfixPart,
    RequestId,
    contradict,
    postfix_part,
)
from quarantine_release.domain.operation_rows import OperationKind, OperationRow, select_orders
from quarantine_release.domain.rows import AttemptRow, AttemptState, RequestState, Target, WireForm, parse_targets
from quarantine_release.domain.states import State
from quarantine_release.domain.verdicts import Verdict
from tests.support.shapes import family, message_ids
from tests.support.stand_ins import ACCOUNT, BARE, FULL, NOON, OTHER, TERMS, request_row

ALERT = MessageId("4Njp3P0STMz2c02Q-2024-01-05T10:00:00")
CONTRARY = MessageId("4Njp3P0STMz2c02Q-2024-01-05T10:00:00-87654321")
PART = postfix_part(BARE)


def test_ids_of_one_message_are_one_target_under_the_fullest() -> None:
    assert parse_targets((BARE, OTHER, FULL, ALERT)) == (Target(PART, FULL), Target(PostfixPart(OTHER), OTHER))


def test_ids_that_contradict_each_other_are_no_target_and_harm_no_other() -> None:
    assert parse_targets((BARE, FULL, CONTRARY, OTHER)) == (Target(PostfixPart(OTHER), OTHER),)


@given(st.lists(message_ids | family, min_size=1, max_size=8))
def test_every_target_is_a_message_asked_for_and_none_is_named_twice(ids: list[MessageId]) -> None:
    targets = parse_targets(tuple(ids))
    assert len({target.part for target in targets}) == len(targets)
    for target in targets:
        assert target.message_id in ids
        assert not any(contradict(target.message_id, each) for each in ids if postfix_part(each) == target.part)


def test_only_an_open_request_that_is_not_cancelled_may_claim() -> None:
    request = request_row(FULL)
    assert request.may_claim
    assert not replace(request, cancelled_at=NOON).may_claim
    assert not replace(request, state=RequestState.CLOSED).may_claim
    assert not replace(request, state=RequestState.REFUSED).may_claim


def test_an_attempt_is_open_while_something_about_it_is_unknown() -> None:
    sent = AttemptRow(
        account_id=ACCOUNT,
        attempt=AttemptId("a1"),
        wire_form=WireForm.ARRAY,
        targets=(Target(PART, BARE),),
        owners={PART: RequestId("rq_one")},
        sent_at=NOON,
        deadline=NOON + TERMS.lease,
        state=AttemptState.OPEN,
    )
    answered = replace(sent, state=AttemptState.ANSWERED, verdicts={PART: Verdict(State.RELEASED)})
    unclear = replace(answered, verdicts={**answered.verdicts, PostfixPart(OTHER): Verdict(State.UNKNOWN)})  # type: ignore[dict-item]
    assert sent.is_open
    assert not replace(sent, state=AttemptState.REFUSED).is_open
    assert not answered.is_open
    assert unclear.is_open


PAUSE, RESUME = OperationKind.PAUSE, OperationKind.RESUME


def order(kind: OperationKind, minutes: int, client: str | None = None) -> OperationRow:
    at = NOON + timedelta(minutes=minutes)
    name = OperationId(f"{minutes + 100:03}{client or ''}")
    return OperationRow(account_id=ACCOUNT, operation=name, kind=kind, at=at, by="ann", reason="why", client=client)


def test_requests_may_have_met_what_was_paused_or_resumed_since_the_first_of_them() -> None:
    asked = [request_row(FULL, created_at=NOON + timedelta(minutes=5)), request_row(FULL, client="other")]
    orders = [order(PAUSE, 0), order(RESUME, 1), order(PAUSE, 2, "soar"), order(RESUME, 3, "other")]
    assert select_orders(asked, [*reversed(orders), order(PAUSE, 2, "nobody")]) == orders
    assert select_orders(asked[:1], orders) == [order(PAUSE, 2, "soar")]
    assert select_orders([], orders) == []


def test_of_what_was_ordered_before_they_have_met_the_pauses_that_stood() -> None:
    asked = [request_row(FULL)]
    stood = [order(PAUSE, -9), order(PAUSE, -7)]
    lifted = [order(PAUSE, -8, "soar"), order(RESUME, -1, "soar")]
    assert select_orders(asked, [*stood, *lifted, order(RESUME, 1)]) == [stood[1], order(RESUME, 1)]
