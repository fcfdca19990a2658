"""What entries of the search show of a message: which are its own, and what they prove."""

from collections.abc import Mapping
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarantine_release.cloudflare.entries import RELEASE, agree, dicts, id_of, match, shown_state
from quarantine_release.domain.ids import MessageId, contradict, postfix_part
from quarantine_release.domain.verdicts import ReadBack, Seen
from tests.support.cloudflare_entries import FREED, HELD, QUARANTINED, RELEASED, UNCLEAR, anything, likely, want
from tests.support.shapes import family
from tests.support.stand_ins import BARE, FULL, OK, OTHER

ALERT = MessageId("4Njp3P0STMz2c02Q-2024-01-05T10:00:00")
SIBLING = MessageId("4Njp3P0STMz2c02Q-2024-01-05T10:00:00-87654321")


# --- Whose an entry is -----------------------------------------------------------------------------------------------


def told(*entries: Mapping[str, Any], of: str = FULL) -> ReadBack | None:
    """Return what entries show of one message."""
    found = match(entries, [want(of)], OK)
    assert found.keys() <= {BARE}
    return found.get(postfix_part(BARE))


@pytest.mark.parametrize("of", [BARE, ALERT, FULL])
def test_an_entry_is_found_by_its_id_whatever_shape_is_wanted(of: str) -> None:
    assert told({"id": FULL, **FREED}, of=of) == ReadBack(RELEASED, OK, FULL)
    assert told({"id": FULL, "postfix_id": BARE, **HELD}, of=of) == ReadBack(QUARANTINED, OK, FULL)


@pytest.mark.parametrize("nothing", [{}, {"id": None}, {"id": ""}, {"id": 7}, {"id": ["x"]}, {"id": "ä" * 20}])
def test_an_entry_without_an_id_is_found_by_its_postfix_id(nothing: Mapping[str, Any]) -> None:
    assert told({**nothing, "postfix_id": BARE, **FREED}) == ReadBack(RELEASED, OK, BARE)
    assert told({**nothing, "postfix_id": 7, **FREED}) is None
    assert told({**nothing, **FREED}) is None


@pytest.mark.parametrize("given_id", ["a" * 9, "a" * 26, f"{'a' * 26}-2024-01-05T10:00:00-1"])
def test_an_id_whose_message_could_have_two_keys_makes_an_entry_unreadable(given_id: str) -> None:
    assert id_of({"id": given_id, "postfix_id": BARE}) is None
    assert id_of({"postfix_id": given_id}) is None
    assert id_of({"id": "short", "postfix_id": BARE}) == BARE


def test_a_postfix_id_never_overrules_an_id() -> None:
    assert told({"id": "4WtWkr6nlBz9sNH-2024-08-28T15:32:35-1", "postfix_id": BARE, **FREED}) is None


@pytest.mark.parametrize("other", [SIBLING, OTHER, "4Njp3P0STMz2c02Q-2024-01-05T10:00:01-12345678", "another.shape-1"])
def test_what_tells_another_message_is_not_believed(other: str) -> None:
    assert told({"id": other, **FREED}) is None
    assert told({"id": other, **FREED}, {"id": FULL, **HELD}) == ReadBack(QUARANTINED, OK, FULL)


@pytest.mark.parametrize("of", [BARE, ALERT])
def test_of_two_messages_that_go_by_one_partial_id_nothing_is_said(of: str) -> None:
    """Also when a released message is processed again, and comes up a second time."""
    again = {"id": SIBLING, "is_quarantined": False, "properties": {"allowlisted_pattern_type": "quarantine_release"}}
    for entries in permutations([{"id": FULL, **FREED}, again, {"id": FULL, **FREED}]):
        assert told(*entries, of=of) == ReadBack(UNCLEAR, OK, None)
    assert told({"id": FULL, **HELD}, {"id": SIBLING, **HELD}, of=of) == ReadBack(UNCLEAR, OK, None)


def test_a_full_id_is_not_confused_by_what_else_goes_by_its_postfix_id() -> None:
    assert told({"id": SIBLING, **HELD}, {"id": FULL, **FREED}, {"id": OTHER, **HELD}) == ReadBack(RELEASED, OK, FULL)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (HELD, HELD, QUARANTINED),
        (FREED, FREED, RELEASED),
        (FREED, HELD, UNCLEAR),
        (FREED, {}, UNCLEAR),
        (HELD, {}, UNCLEAR),
        ({}, {}, UNCLEAR),
    ],
)
def test_rows_of_one_message_that_differ_show_nothing_clear(
    first: Mapping[str, Any], second: Mapping[str, Any], expected: Seen
) -> None:
    one, other = {"id": FULL, **first}, {"id": FULL, **second}
    assert told(one, other) == told(other, one) == ReadBack(expected, OK, FULL)


readings = st.builds(ReadBack, st.sampled_from([RELEASED, QUARANTINED, UNCLEAR]), st.just(OK), family)


@given(st.lists(readings, min_size=1, max_size=4))
def test_in_which_order_entries_come_makes_no_difference(several: list[ReadBack]) -> None:
    def together(order: tuple[ReadBack, ...]) -> ReadBack:
        reading = order[0]
        for other in order[1:]:
            reading = agree(reading, other)
        return reading

    assert len({together(order) for order in permutations(several)}) == 1


DEEP: list[Any] = []
for _ in range(500):
    DEEP = [DEEP]


# --- What an entry shows ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"delivery_status": ["quarantined"]},
        {"post_delivery_operations": ["PREVIEW", RELEASE, "MOVE"]},
        {"properties": {"allowlisted_pattern_type": "quarantine_release"}},
    ],
)
def test_the_operation_proves_the_release_of_a_message_that_is_no_longer_held(more: Mapping[str, Any]) -> None:
    assert shown_state({"post_delivery_operations": [RELEASE], "is_quarantined": False, **more}) is RELEASED


@pytest.mark.parametrize("held", [True, None, 0, "false", []])
def test_a_listed_operation_proves_nothing_while_the_message_may_be_held(held: object) -> None:
    assert shown_state({"post_delivery_operations": [RELEASE], "is_quarantined": held}) is UNCLEAR
    assert shown_state({"post_delivery_operations": [RELEASE]}) is UNCLEAR


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"post_delivery_operations": []},
        {"post_delivery_operations": None},
        {"post_delivery_operations": ["PREVIEW", "SUBMISSION"]},
        {"delivery_status": ["quarantined"]},
        {"delivery_status": "quarantined"},
        {"delivery_status": ["queued", "quarantined"]},
        {"delivery_status": []},
        {"delivery_status": None},
        {"properties": {"allowlisted_pattern_type": "acceptable_sender"}},
        {"properties": None},
        {"action_log": []},
        {"action_log": None},
        {"action_log": [{"operation": "MOVE"}, "PREVIEW", None]},
        {
            "subject": "RELEASE",
            "from": "release@example.net",
            "properties": {"allowlisted_pattern": "releases@x.example"},
        },
        {"is_released": False, "released_at": None, "quarantine_release": ""},
    ],
)
def test_quarantined_is_what_says_so_and_bears_no_trace_of_a_release(more: Mapping[str, Any]) -> None:
    assert shown_state({"is_quarantined": True, **more}) is QUARANTINED
    assert shown_state({"is_quarantined": False, **more}) is UNCLEAR


@pytest.mark.parametrize("claim", [None, 1, "true", "quarantined", [True], {}])
def test_only_true_is_quarantined(claim: object) -> None:
    assert shown_state({"is_quarantined": claim, "delivery_status": ["quarantined"]}) is UNCLEAR
    assert shown_state({"delivery_status": ["quarantined"]}) is UNCLEAR


@pytest.mark.parametrize(
    "trace",
    [
        {"delivery_status": ["delivered"]},
        {"delivery_status": "delivered"},
        {"delivery_status": ["quarantined", "delivered"]},
        {"delivery_status": ["moved"]},
        {"delivery_status": [None]},
        {"delivery_status": {"quarantined": True}},
        {"properties": {"allowlisted_pattern_type": "quarantine_release"}},
        {"action_log": [{"operation": "RELEASE"}]},
        {"action_log": [{"operation": "MOVE"}, {"operation": RELEASE, "success": False}]},
        {"action_log": {"operation": RELEASE}},
        {"action_log": [{"operation": "MOVE"}, "RELEASE", None]},
        *({"post_delivery_operations": each} for each in (RELEASE, "RELEASE", {RELEASE: 1}, [[RELEASE]])),
        *({"post_delivery_operations": [each]} for each in ("QUARANTINE_RELEASED", "quarantineRelease", "Released")),
        {"post_delivery_operations": [{"operation": "quarantine release", "success": False}]},
        {"properties": {"whitelisted_pattern_type": "QUARANTINE-RELEASE"}},
        {"properties": {"quarantine_release": True}},
        {"postDeliveryOperations": [RELEASE]},
        {"message_action": "QUARANTINE_RELEASED"},
        {"released_at": "2026-11-22T12:00:00Z"},
        {"is_released": True},
        {"delivery_status": ["quarantined", "DELIVERED"]},
        {"post_delivery_operations": DEEP},
    ],
)
def test_a_trace_of_a_release_forbids_to_say_still_quarantined(trace: Mapping[str, Any]) -> None:
    assert shown_state({"is_quarantined": True, **trace}) is UNCLEAR


@pytest.mark.parametrize(
    "operations", [RELEASE, {RELEASE: 1}, "QUARANTINE_RELEASED", ["QUARANTINE_RELEASED"], [[RELEASE]]]
)
def test_what_only_resembles_the_proof_is_none(operations: object) -> None:
    assert shown_state({"post_delivery_operations": operations, "is_quarantined": False}) is UNCLEAR


# --- Whatever Cloudflare sends ---------------------------------------------------------------------------------------


@given(anything | st.lists(likely | anything, max_size=5), st.sampled_from([BARE, ALERT, FULL, OTHER]))
def test_whatever_is_listed_nothing_is_raised_and_nothing_claimed_without_its_proof(result: Any, of: MessageId) -> None:
    for part, reading in match(dicts(result), [want(of)], OK).items():
        assert part == postfix_part(of)
        listed = result if isinstance(result, list) else [result]
        own = [each for each in listed if isinstance(each, dict) and id_of(each) == reading.message_id is not None]
        if reading.seen is RELEASED:
            assert any(
                isinstance(each.get("post_delivery_operations"), list) and RELEASE in each["post_delivery_operations"]
                for each in own
            )
            assert all(each["is_quarantined"] is False for each in own)
        if reading.seen is QUARANTINED:
            assert own
            assert all(each["is_quarantined"] is True for each in own)
        if reading.message_id is not None:
            assert not contradict(reading.message_id, of)
