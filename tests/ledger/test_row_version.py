"""Rows of other versions and damaged rows: the old ones are read, the others are left alone and never absent."""

import json
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarantine_release.domain.call_limit import AccountRow, Mark
from quarantine_release.domain.guard import Candidate, Ended, Guarded
from quarantine_release.domain.ids import AttemptId, MessageId, OperationId, RequestId, message_key, postfix_part
from quarantine_release.domain.ledger_errors import RowUnreadable
from quarantine_release.domain.lookup import Kept
from quarantine_release.domain.operation_rows import OperationKind, OperationRow
from quarantine_release.domain.policy import Policy
from quarantine_release.domain.request_options import FailOn, Narrowing
from quarantine_release.domain.rows import (
    AttemptRow,
    AttemptState,
    MessageRow,
    RequestRow,
    RequestState,
    Target,
    WireForm,
)
from quarantine_release.domain.states import Code, Outcome, State
from quarantine_release.domain.transitions import claimed
from quarantine_release.domain.unreadable import UnreadableRequest, unreadable
from quarantine_release.domain.verdicts import Evidence, Recipients, Seen, Stop, Verdict
from quarantine_release.ledger import items as ledger_items
from quarantine_release.ledger.account_row import account_row
from quarantine_release.ledger.call_budget import AccountBudget
from quarantine_release.ledger.items import attempt_row, message_row, operation_row, request_row
from quarantine_release.ledger.keys import account_key, alias_key, attempt_key, request_key, unclaimed_key
from quarantine_release.ledger.row_version import VERSION
from quarantine_release.ledger.table import Table
from quarantine_release.ledger.transactions import DynamoLedger
from quarantine_release.releasing.ports import Move
from tests.support import stored_rows
from tests.support.stand_ins import ACCOUNT, BARE, FULL, NOON, OTHER, Clock
from tests.support.stand_ins import request_row as asking
from tools.operations import Person, pause

PART, OTHER_PART = postfix_part(BARE), postfix_part(OTHER)
ATTEMPT, OPERATION = AttemptId("01JDA0000000000000000000A2"), OperationId("01JDA0000000000000000000O1")
HEADER = MessageId("<a@example.net>")
YEAR = NOON + timedelta(days=400)
DECODERS: Mapping[str, Callable[[Any], Any]] = {
    "FULL_MESSAGE": message_row,
    "REVIEWED_MESSAGE": message_row,
    "CLOSED_REQUEST": request_row,
    "OPEN_REQUEST": request_row,
    "ANSWERED_ATTEMPT": attempt_row,
    "OPEN_ATTEMPT": attempt_row,
    "OPERATION": operation_row,
    "ALIAS": ledger_items.kept,
    "UNCLAIMED": ledger_items.unclaimed,
    "ACCOUNT_ROW": account_row,
}
ITEMS: Mapping[str, stored_rows.Item] = {name: getattr(stored_rows, name) for name in DECODERS}
READ: Mapping[str, Any] = {
    "FULL_MESSAGE": MessageRow(
        account_id=ACCOUNT,
        part=PART,
        state=State.PARTIAL,
        attempt=ATTEMPT,
        message_id=FULL,
        updated_at=NOON + timedelta(seconds=1.5),
        owner=RequestId("rq_one"),
        deadline=NOON + timedelta(seconds=90),
        expires_at=YEAR,
        code=Code.PARTLY_DELIVERED,
        recipients=Recipients.of(["ann@example.com"], ["bob@example.com"], ["eve@example.com"]),
        evidence=Evidence(200, (1001,), "ray-1", "timeout", Seen.UNCLEAR, OPERATION),
        attempts=frozenset({AttemptId("01JDA0000000000000000000A1"), ATTEMPT}),
        refusals=2,
        last_refused=AttemptId("01JDA0000000000000000000A0"),
        forced_over=State.RELEASED,
        forced_after=NOON - timedelta(seconds=60),
        asks=frozenset({RequestId("rq_one"), RequestId("rq_two")}),
        asks_uncounted=3,
        largest_call=10,
        guard=Guarded.OVERRIDDEN,
        disposition="SPAM",
        confirmed_at=NOON + timedelta(seconds=3),
        operations=frozenset({OPERATION}),
    ),
    "REVIEWED_MESSAGE": MessageRow(
        account_id=ACCOUNT,
        part=OTHER_PART,
        state=State.NEEDS_REVIEW,
        attempt=AttemptId("01JDA0000000000000000000A3"),
        message_id=OTHER,
        updated_at=NOON,
        code=Code.UNSETTLED,
    ),
    "CLOSED_REQUEST": RequestRow(
        request_id=RequestId("rq_one"),
        client="soar",
        account_id=ACCOUNT,
        fingerprint="f" * 64,
        nonce="0a" * 20,
        ids=(BARE, OTHER, HEADER),
        created_at=NOON,
        state=RequestState.CLOSED,
        reason="a false positive",
        ticket="INC-1",
        requested_by="Ann",
        force=True,
        fail_on=FailOn.PARTIAL,
        trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
        operation=OPERATION,
        cancelled_at=NOON + timedelta(seconds=2),
        letters="PVD",
        closed_at=NOON + timedelta(seconds=4),
        expires_at=YEAR,
        override=True,
        dry_run=True,
        confirm=True,
        narrowing=Narrowing("ann@example.com", "example.org", NOON, 2),
        policy=Policy(frozenset({"SPAM"}), timedelta(days=7), frozenset({"example.com"}), is_strict=True),
        resolved={HEADER: FULL},
        ended={
            HEADER: Ended(
                Outcome.DENIED,
                Code.DISPOSITION_NOT_ALLOWED,
                "Rule dispositions",
                (Candidate(FULL, NOON, "SPAM", is_quarantined=True),),
                "MALICIOUS",
                Guarded.PASSED,
            )
        },
        notes=2,
    ),
    "OPEN_REQUEST": RequestRow(
        request_id=RequestId("rq_two"),
        client="soar",
        account_id=ACCOUNT,
        fingerprint="e" * 64,
        nonce="0b" * 20,
        ids=(OTHER,),
        created_at=NOON,
        state=RequestState.OPEN,
    ),
    "ANSWERED_ATTEMPT": AttemptRow(
        account_id=ACCOUNT,
        attempt=ATTEMPT,
        wire_form=WireForm.OBJECT,
        targets=(Target(PART, FULL), Target(OTHER_PART, OTHER)),
        owners={PART: RequestId("rq_one"), OTHER_PART: RequestId("rq_two")},
        sent_at=NOON,
        deadline=NOON + timedelta(seconds=90),
        state=AttemptState.ANSWERED,
        ended_at=NOON + timedelta(seconds=1),
        evidence=Evidence(200, (), "ray-1"),
        verdicts={
            PART: Verdict(
                State.PARTIAL,
                Code.PARTLY_DELIVERED,
                Recipients.of(["ann@example.com"], ["bob@example.com"]),
                FULL,
            ),
            OTHER_PART: Verdict(State.UNKNOWN, Code.MISSING_IN_ANSWER),
        },
        expires_at=YEAR,
    ),
    "OPEN_ATTEMPT": AttemptRow(
        account_id=ACCOUNT,
        attempt=AttemptId("01JDA0000000000000000000A3"),
        wire_form=WireForm.ARRAY,
        targets=(Target(OTHER_PART, OTHER),),
        owners={OTHER_PART: RequestId("rq_two")},
        sent_at=NOON,
        deadline=NOON + timedelta(seconds=90),
        state=AttemptState.OPEN,
    ),
    "OPERATION": OperationRow(
        account_id=ACCOUNT,
        operation=OPERATION,
        kind=OperationKind.SETTLE,
        at=NOON,
        by="ann",
        reason="seen",
        client="soar",
        part=PART,
        settled_as=State.RELEASED,
        redriven=RequestId("rq_one"),
        request_id=RequestId("rq_two"),
    ),
    "ALIAS": Kept(FULL, NOON + timedelta(days=1)),
    "UNCLAIMED": frozenset({RequestId("rq_one")}),
    "ACCOUNT_ROW": AccountRow(
        calls={59844960: 1},
        paused_until=NOON + timedelta(milliseconds=30_003),
        troubles=1,
        stops={"soar": Stop("a wrong rule", "ann", NOON, OperationId("01JDA0000000000000000000O2"))},
        operations=(OperationId("01JDA0000000000000000000O2"),),
    ),
}


@pytest.mark.parametrize("name", DECODERS)
def test_every_kind_of_row_of_4c3b95d_is_read_as_it_was_meant(name: str) -> None:
    assert DECODERS[name](ITEMS[name]) == READ[name]


@pytest.mark.parametrize("version", [{"N": str(VERSION + 1)}, {"N": "0"}, {"N": "1.5"}, {"S": "1"}])
@pytest.mark.parametrize("name", DECODERS)
def test_no_row_of_a_version_that_is_not_known_is_read(name: str, version: Any) -> None:
    with pytest.raises(RowUnreadable) as error:
        DECODERS[name]({**ITEMS[name], "v": version})
    assert (error.value.key, error.value.kind) == (ITEMS[name]["pk"]["S"], ITEMS[name]["pk"]["S"][0])
    assert DECODERS[name]({**ITEMS[name], "v": {"N": str(VERSION)}}) == READ[name]


def packed(text: str) -> dict[str, bytes]:
    return {"B": zlib.compress(text.encode())}


# None: the attribute is missing.
DAMAGES: tuple[tuple[str, str, Any], ...] = (
    ("FULL_MESSAGE", "state", {"S": "TELEPORTED"}),
    ("FULL_MESSAGE", "state", {"S": "UNREADABLE"}),
    ("FULL_MESSAGE", "state", None),
    ("FULL_MESSAGE", "code", {"S": "out_of_space"}),
    ("FULL_MESSAGE", "message_id", None),
    ("FULL_MESSAGE", "updated_at", {"S": "yesterday"}),
    ("FULL_MESSAGE", "updated_at", {"N": "1e30"}),
    ("FULL_MESSAGE", "expires_at", {"N": "9" * 30}),
    ("FULL_MESSAGE", "attempts", {"L": []}),
    ("FULL_MESSAGE", "recipients", {"S": "[["}),
    ("FULL_MESSAGE", "recipients", {"S": "[" * 100_000}),
    ("FULL_MESSAGE", "recipients", {"S": "[[1],[],[],[1,0,0]]"}),
    ("FULL_MESSAGE", "recipients", {"S": '[[],[],[],["1",0,0]]'}),
    ("FULL_MESSAGE", "recipients", {"S": "[[],[],[],[1]]"}),
    ("FULL_MESSAGE", "evidence", {"S": '{"status":"200","error_codes":[],"cf_ray":null,"failure":null,"seen":null}'}),
    ("FULL_MESSAGE", "evidence", {"S": '{"status":200,"error_codes":["1"],"cf_ray":null,"failure":null,"seen":null}'}),
    ("FULL_MESSAGE", "evidence", {"S": '{"status":200,"error_codes":[],"cf_ray":1,"failure":null,"seen":null}'}),
    ("FULL_MESSAGE", "evidence", {"S": '{"status":200,"error_codes":[],"cf_ray":null,"failure":null,"seen":"gone"}'}),
    ("FULL_MESSAGE", "evidence", {"S": "[]"}),
    ("CLOSED_REQUEST", "letters", {"S": "P?D"}),
    ("CLOSED_REQUEST", "letters", {"S": "PV"}),
    ("CLOSED_REQUEST", "letters", None),
    ("OPEN_REQUEST", "letters", {"S": "R"}),
    ("CLOSED_REQUEST", "ids", None),
    ("CLOSED_REQUEST", "ids", {"S": ""}),
    ("CLOSED_REQUEST", "force", {"S": "true"}),
    ("CLOSED_REQUEST", "fail_on", {"S": "mondays"}),
    ("CLOSED_REQUEST", "policy", {"S": '{"dispositions":["NICE"]}'}),
    ("CLOSED_REQUEST", "narrowing", {"S": "[1,null,null,null]"}),
    ("CLOSED_REQUEST", "narrowing", {"S": '[null,null,null,"2"]'}),
    ("CLOSED_REQUEST", "end_2", {"S": '["vanished",null,"",[],null,null]'}),
    ("CLOSED_REQUEST", "end_2", {"S": '["denied",null,null,[],null,null]'}),
    ("CLOSED_REQUEST", "end_2", {"S": '["denied",null,"",[["x",null,null,"yes"]],null,null]'}),
    ("CLOSED_REQUEST", "end_7", {"S": '["denied",null,"",[],null,null]'}),
    ("CLOSED_REQUEST", "resolved_x", {"S": FULL}),
    ("ANSWERED_ATTEMPT", "targets", {"B": b"damaged"}),
    ("ANSWERED_ATTEMPT", "targets", packed("[]")),
    ("ANSWERED_ATTEMPT", "targets", packed("[1]")),
    ("ANSWERED_ATTEMPT", "owners", packed('{"x":null}')),
    ("ANSWERED_ATTEMPT", "verdicts", packed('{"x":["TELEPORTED",null,null,[[],[],[],[0,0,0]]]}')),
    ("ANSWERED_ATTEMPT", "verdicts", packed('{"x":["RELEASED",null,7,[[],[],[],[0,0,0]]]}')),
    ("ANSWERED_ATTEMPT", "wire_form", {"S": "pigeon"}),
    ("OPERATION", "kind", {"S": "wish"}),
    ("ALIAS", "message_id", {"N": "1"}),
    ("ALIAS", "expires_at", None),
    ("UNCLAIMED", "asks", {"S": "rq_one"}),
    ("ACCOUNT_ROW", "switch", {"S": "{"}),
    ("ACCOUNT_ROW", "switch", {"S": '{"stops":{"soar":["a"]},"operations":[]}'}),
    ("ACCOUNT_ROW", "calls_59844960", {"S": "many"}),
    ("ACCOUNT_ROW", "calls_today", {"N": "1"}),
)


def with_damage(name: str, attribute: str, value: Any) -> dict[str, Any]:
    item = {**ITEMS[name], attribute: value}
    return {each: kept for each, kept in item.items() if kept is not None}


@pytest.mark.parametrize(("name", "attribute", "value"), DAMAGES)
def test_a_damaged_row_is_not_read_and_its_content_is_not_told(name: str, attribute: str, value: Any) -> None:
    with pytest.raises(RowUnreadable) as error:
        DECODERS[name](with_damage(name, attribute, value))
    assert str(error.value) == f"{ITEMS[name]['pk']['S']}: {error.value.why}"
    assert error.value.why.isidentifier()
    assert (error.value.__cause__, error.value.__suppress_context__) == (None, True)


garbage = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["RELEASED", BARE]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=8,
)
attributes: st.SearchStrategy[Any] = (
    st.builds(lambda text: {"S": text}, st.text(max_size=8))
    | st.builds(lambda value: {"S": json.dumps(value)}, garbage)
    | st.builds(lambda value: packed(json.dumps(value)), garbage)
    | st.builds(lambda number: {"N": str(number)}, st.integers() | st.floats())
    | st.builds(lambda names: {"SS": names}, st.lists(st.text(max_size=4), max_size=3))
    | st.builds(lambda data: {"B": data}, st.binary(max_size=8))
    | st.sampled_from([None, {"BOOL": True}, {"NULL": True}, {"L": []}, {}])
)


@given(st.data(), st.sampled_from(sorted(DECODERS)), attributes)
def test_whatever_a_row_holds_it_is_read_or_unreadable(data: st.DataObject, name: str, value: Any) -> None:
    attribute = data.draw(st.sampled_from(sorted(ITEMS[name].keys() - {"pk"})))
    with suppress(RowUnreadable):  # and nothing else
        DECODERS[name](with_damage(name, attribute, value))


# --- In the table


class Rows:
    """A ledger over a table whose rows a test edits, and what was reported to it."""

    def __init__(self, dynamodb: Any) -> None:
        self.dynamodb = dynamodb
        self.reported: list[RowUnreadable] = []
        self.table = Table(dynamodb, "ledger", lambda _: None)
        self.ledger = DynamoLedger(self.table, self.reported.append)

    def put(self, name: str, **damage: Any) -> dict[str, Any]:
        item = {**ITEMS[name], **damage}
        self.dynamodb.put_item(TableName="ledger", Item=item)
        return item

    def item(self, key: str) -> dict[str, Any]:
        wanted: Any = {"ledger": {"Keys": [{"pk": {"S": key}}]}}
        found = self.dynamodb.batch_get_item(RequestItems=wanted)["Responses"]["ledger"]
        return dict(found[0]) if found else {}

    @property
    def keys(self) -> list[str]:
        keys, self.reported[:] = [error.key for error in self.reported], []
        return keys


@pytest.fixture
def rows(dynamodb: Any) -> Rows:
    return Rows(dynamodb)


NEWER = {"v": {"N": "99"}}


def test_a_message_that_cannot_be_read_is_never_absent(rows: Rows) -> None:
    rows.put("FULL_MESSAGE", **NEWER)
    hidden = unreadable(ACCOUNT, PART)
    assert rows.ledger.messages(ACCOUNT, [PART, OTHER_PART]) == {PART: hidden}
    assert rows.ledger.known(ACCOUNT, None, [PART], []).messages == {PART: hidden}
    assert rows.keys == [message_key(ACCOUNT, PART)] * 2
    assert not hidden.is_readable


def test_a_row_of_those_who_asked_may_hold_something_else_alone() -> None:
    assert ledger_items.unclaimed({"pk": ITEMS["UNCLAIMED"]["pk"]}) == frozenset()


def test_what_else_cannot_be_read_is_left_out_and_reported(rows: Rows) -> None:
    rows.put("CLOSED_REQUEST", **NEWER)
    rows.put("OPEN_REQUEST")
    rows.put("ANSWERED_ATTEMPT", **NEWER)
    rows.put("OPERATION", **NEWER)
    rows.put("UNCLAIMED", **NEWER)
    rows.put("ALIAS", **NEWER)
    ledger, names = rows.ledger, [RequestId("rq_one"), RequestId("rq_two")]
    assert ledger.requests(names) == {names[1]: READ["OPEN_REQUEST"]}
    assert ledger.attempts(ACCOUNT, [ATTEMPT]) == []
    assert ledger.operations(ACCOUNT, [OPERATION]) == []
    assert ledger.unclaimed(ACCOUNT, PART) == frozenset()
    assert ledger.known(ACCOUNT, None, [], ["question"]).answers == {}
    assert [key[0] for key in rows.keys] == ["R", "T", "O", "N", "I"]


def test_of_a_request_that_cannot_be_read_is_told_whose_it_is_as_far_as_the_row_tells(rows: Rows) -> None:
    name = RequestId("rq_one")
    rows.put("CLOSED_REQUEST", **NEWER)
    found = UnreadableRequest(request_id=name, client="soar", account_id=ACCOUNT)
    assert rows.ledger.find_requests([name]) == {name: found}
    rows.put("CLOSED_REQUEST", client={"N": "1"}, account_id={"N": "2"})
    assert rows.ledger.find_requests([name]) == {name: replace(found, client=None, account_id=None)}
    with pytest.raises(RowUnreadable):
        rows.ledger.known(ACCOUNT, name, [], [])
    assert len(rows.keys) == 3


def test_an_account_that_cannot_be_read_has_no_budget_and_lets_no_call_pass(rows: Rows) -> None:
    rows.put("ACCOUNT_ROW", switch={"S": "{"})
    budget = AccountBudget(rows.table, {Mark.INLINE: 300, Mark.ALL: 900}, Clock(), rows.reported.append)
    calls: tuple[Callable[[], Any], ...] = (
        lambda: budget.take(ACCOUNT, Mark.ALL),
        lambda: budget.pause_left(ACCOUNT),
        lambda: budget.active_pause(ACCOUNT, "soar"),
        lambda: rows.ledger.account(ACCOUNT),
    )
    for call in calls:
        with pytest.raises(RowUnreadable):
            call()
    assert rows.keys == [account_key(ACCOUNT)] * 4
    item = rows.put("ACCOUNT_ROW", **NEWER)
    for call in calls:
        with pytest.raises(RowUnreadable):
            call()
    assert rows.item(account_key(ACCOUNT)) == item
    rows.put("OPERATION")
    row = replace(READ["FULL_MESSAGE"], operations=frozenset({OPERATION}))
    assert rows.ledger.operations_met(ACCOUNT, row, []) == [READ["OPERATION"]]


def test_rows_that_cannot_be_read_hide_no_others_behind_them_in_the_index(rows: Rows) -> None:
    kind = ITEMS["OPEN_REQUEST"]["open_kind"]
    for number in range(5):
        rows.put("OPEN_REQUEST", pk={"S": f"R#rq_{number}"}, **NEWER)
    later = {"N": str(int(ITEMS["OPEN_REQUEST"]["open_at"]["N"]) + 1)}
    rows.put("OPEN_REQUEST", pk={"S": "R#rq_later"}, open_at=later)
    rows.put("REVIEWED_MESSAGE", **NEWER)
    rows.put("OPEN_ATTEMPT", **NEWER)
    assert kind["S"].startswith("R#")
    due = NOON + timedelta(days=1)
    assert [row.request_id for row in rows.ledger.open_requests(due, 2)] == ["rq_later"]
    assert sorted(rows.keys) == [f"R#rq_{number}" for number in range(5)]
    assert (rows.ledger.open_attempts(due, 2), rows.ledger.under_review(due, 2)) == ([], [])
    assert [key[0] for key in rows.keys] == ["T", "M"]


def test_a_claim_that_meets_a_message_that_cannot_be_read_tells_so_and_writes_nothing(rows: Rows) -> None:
    item = rows.put("FULL_MESSAGE", state={"S": "TELEPORTED"})
    request = asking(BARE)
    own = replace(READ["OPEN_ATTEMPT"], targets=(Target(PART, BARE),), owners={PART: request.request_id})
    move = Move(None, claimed(None, own.targets[0], request, own))
    conflict = rows.ledger.claim(own, [move], opened=request)
    assert conflict is not None
    assert conflict.messages == {PART: unreadable(ACCOUNT, PART)}
    assert rows.item(message_key(ACCOUNT, PART)) == item
    assert rows.item(request_key(request.request_id)) == {}
    assert rows.keys == [message_key(ACCOUNT, PART)]


def test_a_claim_under_a_key_whose_request_cannot_be_read_fails(rows: Rows) -> None:
    rows.put("CLOSED_REQUEST", **NEWER)
    with pytest.raises(RowUnreadable):
        rows.ledger.accept(asking(BARE))
    # An accepted request that cannot be read any more is gone for the worker.
    move = Move(None, replace(READ["REVIEWED_MESSAGE"], state=State.RELEASING))
    conflict = rows.ledger.claim(READ["OPEN_ATTEMPT"], [move], accepted={RequestId("rq_one"): 0})
    assert conflict is not None
    assert conflict.requests == {RequestId("rq_one"): None}


def test_no_write_passes_a_row_of_a_newer_version(rows: Rows) -> None:
    ledger, names = rows.ledger, ("FULL_MESSAGE", "OPEN_REQUEST", "ANSWERED_ATTEMPT", "ALIAS", "UNCLAIMED")
    before = {name: rows.put(name, **NEWER) for name in names}
    request, message, attempt = READ["OPEN_REQUEST"], READ["FULL_MESSAGE"], READ["ANSWERED_ATTEMPT"]
    noted = replace(request, ended={OTHER: Ended(Outcome.NOT_FOUND, None, "Nothing.")})
    closed = replace(request, state=RequestState.CLOSED, letters="Z", closed_at=NOON, expires_at=YEAR)
    ledger.postpone([request, attempt], YEAR)
    assert ledger.note(request, noted) == request
    ledger.close([closed])
    with pytest.raises(RowUnreadable):
        ledger.cancel(replace(request, cancelled_at=NOON))
    assert ledger.project([Move(message, replace(message, refusals=3))]) == {PART: unreadable(ACCOUNT, PART)}
    ended = replace(attempt, state=AttemptState.SETTLED)
    ledger.record(ended, AttemptState.ANSWERED, [Move(message, replace(message, refusals=3))], closed)
    ledger.keep_aliases(ACCOUNT, {"question": OTHER}, NOON, YEAR)
    ledger.note_unclaimed(ACCOUNT, [PART], RequestId("rq_two"), YEAR)
    reviewed = replace(message, state=State.NEEDS_REVIEW, message_id=MessageId(PART))
    assert ledger.add_requesters([Move(reviewed, replace(reviewed, message_id=FULL))]) is not None
    keys = {
        "FULL_MESSAGE": message_key(ACCOUNT, PART),
        "OPEN_REQUEST": request_key(RequestId("rq_two")),
        "ANSWERED_ATTEMPT": attempt_key(ACCOUNT, ATTEMPT),
        "ALIAS": alias_key(ACCOUNT, "question"),
        "UNCLAIMED": unclaimed_key(ACCOUNT, PART),
    }
    assert {name: rows.item(key) for name, key in keys.items()} == before


@pytest.mark.parametrize("members", [{"state": {"S": "REFUSED"}}, {"expires_at": {"N": "1"}}])
def test_a_newer_request_row_is_not_replaced_though_it_is_refused_or_past_its_time(
    rows: Rows, members: Mapping[str, Any]
) -> None:
    item = rows.put("OPEN_REQUEST", **members, **NEWER)
    with pytest.raises(RowUnreadable):
        rows.ledger.accept(replace(READ["OPEN_REQUEST"], nonce="2"))
    assert rows.item(request_key(RequestId("rq_two"))) == item


def test_every_write_stamps_the_version(rows: Rows) -> None:
    rows.put("OPEN_REQUEST")
    rows.ledger.postpone([READ["OPEN_REQUEST"]], YEAR)
    assert rows.item(request_key(RequestId("rq_two")))["v"] == {"N": str(VERSION)}
    rows.ledger.project([Move(None, READ["REVIEWED_MESSAGE"])])
    assert rows.item(message_key(ACCOUNT, OTHER_PART))["v"] == {"N": str(VERSION)}
    pause(rows.ledger, ACCOUNT, None, Person("ann", "why", NOON, OPERATION))
    assert rows.item(account_key(ACCOUNT))["v"] == {"N": str(VERSION)}


def test_an_attempt_stays_in_the_index_while_one_of_its_messages_cannot_be_read(rows: Rows) -> None:
    rows.put("ANSWERED_ATTEMPT")
    rows.put("FULL_MESSAGE", **NEWER)
    message = READ["FULL_MESSAGE"]
    settled = replace(READ["ANSWERED_ATTEMPT"], state=AttemptState.SETTLED, verdicts={})
    others = rows.ledger.record(settled, AttemptState.ANSWERED, [Move(message, replace(message, refusals=3))], None)
    assert others == {PART: unreadable(ACCOUNT, PART)}
    item = rows.item(attempt_key(ACCOUNT, ATTEMPT))
    assert (item["state"], "open_kind" in item) == ({"S": "SETTLED"}, True)


@pytest.mark.parametrize(("damage", "is_reopened"), [({"wire_form": {"S": "pigeon"}}, False), ({}, True)])
def test_a_review_is_reopened_only_through_an_attempt_that_can_be_read(
    rows: Rows, damage: Mapping[str, Any], is_reopened: bool
) -> None:
    item = {**{name: value for name, value in ITEMS["OPEN_ATTEMPT"].items() if name[:5] != "open_"}, **damage}
    row = READ["REVIEWED_MESSAGE"]
    named = replace(row, candidates=frozenset({MessageId(f"{OTHER}-2024-08-28T15:32:35-7")}))
    rows.put("REVIEWED_MESSAGE")
    rows.dynamodb.put_item(TableName="ledger", Item=item)
    assert rows.ledger.add_requesters([Move(row, named)]) is None
    assert (rows.item(item["pk"]["S"]) != item) == is_reopened
