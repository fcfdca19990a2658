"""How what is wanted is packed into calls: each is one claim, and each wire form a call of its own."""

import random
from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from quarantine_release.domain.ids import AttemptId, MessageId, PostfixPart, RequestId, postfix_part
from quarantine_release.domain.packing import PlannedCall, WantedRelease, plan_calls
from quarantine_release.domain.rows import MessageRow, Target, WireForm
from quarantine_release.domain.states import State
from tests.support.stand_ins import ACCOUNT, FULL, NOON, OTHER, ids


def want(given: MessageId, *names: str) -> WantedRelease:
    requests = tuple(RequestId(f"rq_{name}") for name in names or ("one",))
    return WantedRelease(Target(postfix_part(given), given), requests, dict.fromkeys(requests))


def row(given: MessageId, largest_call: int | None = None) -> MessageRow:
    return MessageRow(
        account_id=ACCOUNT,
        part=postfix_part(given),
        state=State.RETRYABLE,
        attempt=AttemptId("a1"),
        message_id=given,
        updated_at=NOON,
        largest_call=largest_call,
    )


def sizes(calls: Sequence[PlannedCall]) -> list[int]:
    return [len(call.wants) for call in calls]


def test_what_one_request_wants_goes_out_98_to_a_call() -> None:
    calls = plan_calls([want(each) for each in ids(1000)], {}, None)
    assert sizes(calls) == [98] * 10 + [20]
    assert [want.target.message_id for call in calls for want in call.wants] == ids(1000)


def test_what_many_requests_want_goes_out_49_to_a_call_since_each_is_looked_at() -> None:
    wants = [want(each, str(number)) for number, each in enumerate(ids(100))]
    assert sizes(plan_calls(wants, {}, None)) == [49, 49, 2]


def test_a_few_requests_with_several_messages_each_share_a_call() -> None:
    wants = [want(each, str(number // 3)) for number, each in enumerate(ids(90))]
    assert sizes(plan_calls(wants, {}, None)) == [74, 16]


def test_each_wire_form_is_a_call_of_its_own_unless_a_setting_forces_one() -> None:
    bare, full = want(OTHER), want(FULL)
    assert plan_calls([full, bare], {}, None) == [
        PlannedCall(WireForm.OBJECT, (full,)),
        PlannedCall(WireForm.ARRAY, (bare,)),
    ]
    assert plan_calls([full, bare], {}, WireForm.ARRAY) == [PlannedCall(WireForm.ARRAY, (full, bare))]
    assert plan_calls([], {}, None) == []


def test_what_was_rejected_with_others_goes_out_with_fewer_and_holds_up_no_other() -> None:
    given = ids(30)
    limits = [10] * 12 + [1] * 2
    rows = {postfix_part(each): row(each, limit) for each, limit in zip(given, limits, strict=False)}
    rows |= {postfix_part(given[20]): row(given[20])}
    calls = plan_calls([want(each) for each in given], rows, None)
    assert sizes(calls) == [10, 2, 1, 1, 16]


SHAPES = ("", "-2024-01-05T10:00:00", "-2024-01-05T10:00:00-1")


@st.composite
def wanted(draw: st.DrawFn) -> tuple[list[WantedRelease], dict[PostfixPart, MessageRow]]:
    """Draw what up to fifty requests want of up to 300 messages, and what is known of these."""
    # One seed for all: to draw some hundreds of values one by one takes ten times as long.
    chance = random.Random(draw(st.integers(0, 2**32)))  # noqa: S311
    given = [MessageId(f"{each}{chance.choice(SHAPES)}") for each in ids(draw(st.integers(0, 300)))]
    names = [str(number) for number in range(draw(st.integers(1, 51)))]
    limits = {postfix_part(each): chance.choice((None, None, None, 0, 10, 1)) for each in given}
    rows = {
        part: replace(row(MessageId(part)), largest_call=limit or None)
        for part, limit in limits.items()
        if limit is not None
    }
    return [want(each, *chance.sample(names, chance.randint(1, min(3, len(names))))) for each in given], rows


@given(wanted(), st.sampled_from([None, *WireForm]))
def test_every_message_is_in_one_call_and_every_call_is_one_claim(
    given: tuple[list[WantedRelease], dict[PostfixPart, MessageRow]], forced: WireForm | None
) -> None:
    wants, rows = given
    calls = plan_calls(wants, rows, forced)
    assert sorted(each.target.part for call in calls for each in call.wants) == sorted(w.target.part for w in wants)
    for call in calls:
        owners = {each.requests[0] for each in call.wants}
        assert call.wants
        assert len(call.wants) + len(owners) + 1 <= 100
        for each in call.wants:
            is_bare = "-" not in each.target.message_id
            assert call.wire_form is (forced or (WireForm.ARRAY if is_bare else WireForm.OBJECT))
            known = rows.get(each.target.part)
            assert known is None or known.largest_call is None or len(call.wants) <= known.largest_call
