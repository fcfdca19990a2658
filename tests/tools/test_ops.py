"""The operations tool: what it shows, what it changes and on which conditions, and who did it and why in the trace."""

import json
import re
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, cast

import boto3
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from local.stack import Stack
from quarantine_release.config.accounts import Accounts
from quarantine_release.config.settings import Settings
from quarantine_release.domain.ids import AccountId, AttemptId, OperationId, RequestId, postfix_part
from quarantine_release.domain.ledger_errors import LedgerUnavailable
from quarantine_release.domain.operation_rows import OperationKind, OperationRow
from quarantine_release.domain.rows import MessageRow, RequestRow, RequestState
from quarantine_release.domain.states import LETTERS, Code, Outcome, State
from quarantine_release.domain.verdicts import Seen
from quarantine_release.ledger.items import operation_item, operation_row
from quarantine_release.ledger.table import Table
from quarantine_release.ledger.transactions import DynamoLedger
from quarantine_release.releasing.ports import Hint, Move
from tests.deployment.test_permissions import Need, _covers, needs_of
from tests.support.deployment import ACCOUNT as DEPLOYED_ACCOUNT
from tests.support.deployment import (
    MESSAGE,
    Deployment,
    aws_session,
    client_entry,
    deployed_template,
    path_of,
    set_clock,
)
from tests.support.known_mail import EVIL, entry
from tests.support.model_dynamodb import Fault, ModelDynamoDB
from tests.support.small_cloudflare import NO_REPLY, Reply
from tests.support.stand_ins import ACCOUNT, BARE, NOON, OTHER, TERMS, Clock, RememberingQueue, request_row
from tools import ops_wiring
from tools.operations import Person, Unchanged, pause, redrivable, redrive, resume, settle
from tools.ops import main
from tools.ops_tables import facts, listed, table

CHECKOUT = Path(__file__).parent.parent.parent
PART = postfix_part(BARE)
LATER = NOON + timedelta(minutes=5)
WHY = ("--reason", "seen in the dashboard")
IDENTITY = "arn:aws:sts::123456789012:user/moto"
TABLE = "Ledger"


def person(at: datetime = LATER, name: str = "1") -> Person:
    return Person("ann", "seen in the dashboard", at, OperationId(f"01OPERATION{name}"))


def row(state: State, message_id: str = BARE, **members: Any) -> MessageRow:
    known: dict[str, Any] = {
        "account_id": ACCOUNT,
        "part": postfix_part(cast("Any", message_id)),
        "state": state,
        "attempt": AttemptId("a1"),
        "message_id": message_id,
        "updated_at": NOON,
        "owner": RequestId("rq_one"),
        "attempts": frozenset({AttemptId("a1")}),
        "asks": frozenset({RequestId("rq_one"), RequestId("rq_two")}),
    }
    return MessageRow(**(known | members))


@pytest.fixture
def ledger(dynamodb: Any) -> DynamoLedger:
    return DynamoLedger(Table(dynamodb, "ledger", lambda _: None))


def put(ledger: DynamoLedger, *rows: MessageRow) -> None:
    assert ledger.project([Move(None, each) for each in rows]) == {}


def message(ledger: DynamoLedger, message_id: Any = BARE) -> MessageRow:
    return ledger.messages(ACCOUNT, [postfix_part(message_id)])[postfix_part(message_id)]


# --- Settling


def test_a_message_is_settled_together_with_who_and_why(ledger: DynamoLedger) -> None:
    put(ledger, row(State.NEEDS_REVIEW, code=Code.UNSETTLED))
    queue = RememberingQueue()
    settled = settle(ledger, cast("Any", queue), ACCOUNT, PART, Seen.RELEASED, person(), TERMS)
    assert isinstance(settled, MessageRow)
    assert message(ledger) == settled
    assert (settled.state, settled.operations) == (State.RELEASED, frozenset({person().operation}))
    (operation,) = ledger.operations(ACCOUNT, sorted(settled.operations))
    assert (operation.kind, operation.by, operation.reason) == (OperationKind.SETTLE, "ann", "seen in the dashboard")
    assert (operation.part, operation.settled_as) == (PART, State.RELEASED)
    assert queue.sent == []
    assert ledger.under_review(LATER, 9) == []


def test_who_waits_for_a_message_that_is_free_goes_on_at_once(ledger: DynamoLedger) -> None:
    put(ledger, row(State.UNKNOWN, deadline=NOON))
    queue = RememberingQueue()
    settled = settle(ledger, cast("Any", queue), ACCOUNT, PART, Seen.QUARANTINED, person(), TERMS)
    assert isinstance(settled, MessageRow)
    assert settled.state is State.RETRYABLE
    assert queue.sent == [(Hint(RequestId("rq_one")), 0.0), (Hint(RequestId("rq_two")), 0.0)]


@pytest.mark.parametrize(
    ("known", "seen", "why"),
    [
        (None, Seen.RELEASED, "nobody has asked"),
        (row(State.RELEASED), Seen.QUARANTINED, "it is RELEASED"),
        (row(State.RETRYABLE), Seen.RELEASED, "it is RETRYABLE"),
        (row(State.RELEASING, deadline=LATER + timedelta(seconds=1)), Seen.RELEASED, "not before 12:07:01 UTC"),
        (row(State.UNKNOWN, deadline=LATER), Seen.QUARANTINED, "not before 12:07:00 UTC"),
        (row(State.NEEDS_REVIEW, forced_over=State.RELEASED), Seen.QUARANTINED, "before it was forced"),
    ],
)
def test_what_may_not_be_settled_stays_and_is_told_why(
    ledger: DynamoLedger, known: MessageRow | None, seen: Seen, why: str
) -> None:
    put(ledger, *([known] if known else []))
    told = settle(ledger, None, ACCOUNT, PART, seen, person(), TERMS)
    assert isinstance(told, Unchanged)
    assert why in told.why
    assert ledger.messages(ACCOUNT, [PART]) == ({PART: known} if known else {})
    assert ledger.operations(ACCOUNT, [person().operation]) == []


def test_a_person_who_looked_before_somebody_else_changed_it_changes_nothing(ledger: DynamoLedger) -> None:
    seen = row(State.UNKNOWN, deadline=NOON)
    put(ledger, seen)

    class Slow:
        """A person's view that was true a moment ago."""

        def messages(self, *_: object) -> dict[Any, MessageRow]:
            return {PART: seen}

        operate = staticmethod(ledger.operate)

    ledger.project([Move(seen, row(State.RELEASED))])
    told = settle(cast("Any", Slow()), None, ACCOUNT, PART, Seen.QUARANTINED, person(), TERMS)
    assert isinstance(told, Unchanged)
    assert "changed meanwhile" in told.why
    assert message(ledger).state is State.RELEASED
    assert ledger.operations(ACCOUNT, [person().operation]) == []


def test_a_change_whose_answer_was_lost_is_found_to_be_done(faults: list[Fault | None]) -> None:
    dynamodb = ModelDynamoDB(lambda _: faults.pop(0) if faults else None)
    ledger = DynamoLedger(Table(cast("Any", dynamodb), "ledger", lambda _: None))
    before = row(State.NEEDS_REVIEW)
    put(ledger, before)
    operation = person().does(OperationKind.SETTLE, ACCOUNT)
    assert ledger.operate(operation, Move(before, row(State.RELEASED)))
    assert ledger.operate(operation, Move(before, row(State.RELEASED)))
    another = person(name="2").does(OperationKind.SETTLE, ACCOUNT)
    assert not ledger.operate(another, Move(before, row(State.RELEASED)))


# --- What is open


def test_what_needs_review_stands_in_the_open_index_and_leaves_it_with_the_state(ledger: DynamoLedger) -> None:
    older, newer = row(State.NEEDS_REVIEW), row(State.NEEDS_REVIEW, OTHER, updated_at=NOON + timedelta(seconds=1))
    put(ledger, newer, older)
    assert ledger.under_review(LATER, 9) == [older, newer]
    assert ledger.under_review(NOON - timedelta(seconds=1), 9) == []
    claimed = row(State.RELEASING, deadline=LATER)
    assert ledger.project([Move(older, claimed)]) == {}
    assert ledger.under_review(LATER, 9) == [newer]
    assert ledger.project([Move(claimed, older)]) == {}
    assert ledger.under_review(LATER, 9) == [older, newer]


# --- The switch


def test_pauses_of_an_account_and_of_a_client_stand_beside_one_another(ledger: DynamoLedger) -> None:
    pause(ledger, ACCOUNT, None, person(name="1"))
    pause(ledger, ACCOUNT, "soar", person(name="2"))
    assert ledger.account(ACCOUNT).stops.keys() == {"*", "soar"}
    assert isinstance(resume(ledger, ACCOUNT, None, person(name="3")), OperationRow)
    assert ledger.account(ACCOUNT).stops.keys() == {"soar"}
    told = resume(ledger, ACCOUNT, None, person(name="4"))
    assert told == Unchanged("the account is not paused")
    assert resume(ledger, ACCOUNT, "other", person(name="4")) == Unchanged("client other is not paused")
    orders = ledger.operations(ACCOUNT, ledger.account(ACCOUNT).operations)
    assert [(each.kind, each.client) for each in orders] == [("pause", None), ("pause", "soar"), ("resume", None)]


def test_a_pause_gets_a_new_reason_and_the_row_keeps_the_last_orders_alone(ledger: DynamoLedger) -> None:
    for number in range(25):
        pause(ledger, ACCOUNT, None, Person("ann", f"reason {number}", LATER, OperationId(f"01{number:02d}")))
    account = ledger.account(ACCOUNT)
    assert account.stops["*"].reason == "reason 24"
    assert [str(each) for each in account.operations] == [f"01{number:02d}" for number in range(5, 25)]


def test_two_persons_at_once_lose_nothing(ledger: DynamoLedger) -> None:
    class Late:
        """Somebody else's pause comes between the look and the write."""

        def __init__(self) -> None:
            self.looks = 0

        def account(self, account_id: AccountId) -> Any:
            seen = ledger.account(account_id)
            self.looks += 1
            if self.looks == 1:
                pause(ledger, account_id, "other", person(name="other"))
            return seen

        operate = staticmethod(ledger.operate)

    pause(cast("Any", Late()), ACCOUNT, "soar", person())
    assert ledger.account(ACCOUNT).stops.keys() == {"soar", "other"}


def test_a_switch_that_others_change_without_end_is_told(ledger: DynamoLedger) -> None:
    class Contended:
        account = staticmethod(ledger.account)

        def operate(self, *_: object) -> bool:
            return False

    with pytest.raises(LedgerUnavailable):
        pause(cast("Any", Contended()), ACCOUNT, None, person())


# --- Redriving


def closed(letters: str, *ids: str, **members: Any) -> RequestRow:
    return request_row(*ids, state=RequestState.CLOSED, letters=letters, closed_at=NOON, **members)


def test_only_what_failed_is_asked_for_again(ledger: DynamoLedger) -> None:
    ids = [f"4Njp3P0STMz2c{number:04d}" for number in range(8)]
    request = closed("ECNXFRVV", *ids, client="playbooks", ticket="INC-1")
    put(
        ledger,
        row(State.FAILED, ids[3], code=Code.CLOUDFLARE_REJECTED),
        row(State.FAILED, ids[4], code=Code.NOT_DELIVERED),
        row(State.RELEASED, ids[5]),
        row(State.NEEDS_REVIEW, ids[6]),
        row(State.RETRYABLE, ids[7]),  # a person has found that it was not released
    )
    assert ledger.accept(request) is None
    queue = RememberingQueue()
    again = redrive(ledger, cast("Any", queue), request.request_id, person(), "nonce")
    assert isinstance(again, RequestRow)
    assert list(again.ids) == [*ids[:4], ids[7]]
    assert ledger.requests([again.request_id]) == {again.request_id: again}
    assert (again.client, again.ticket, again.state) == ("playbooks", "INC-1", RequestState.OPEN)
    assert (again.reason, again.requested_by, again.created_at) == ("seen in the dashboard", "ann", LATER)
    assert queue.sent == [(Hint(again.request_id, 0), 0.0)]
    (operation,) = ledger.operations(ACCOUNT, [person().operation])
    assert (operation.redriven, operation.request_id) == (request.request_id, again.request_id)
    twice = redrive(ledger, cast("Any", queue), request.request_id, person(name="2"), "another")
    assert twice == Unchanged(f"it was redriven already: {again.request_id}")


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (None, "no such request"),
        (request_row(BARE), "it is OPEN"),
        (closed("R", BARE), "nothing of it failed"),
    ],
)
def test_what_cannot_be_redriven_is_told_why(ledger: DynamoLedger, request_: RequestRow | None, why: str) -> None:
    put(ledger, row(State.RELEASED))
    if request_ is not None:
        ledger.accept(request_)
    told = redrive(ledger, None, RequestId("rq_one"), person(), "nonce")
    assert isinstance(told, Unchanged)
    assert why in told.why


@given(
    letter=st.sampled_from(sorted(LETTERS)),
    state=st.none() | st.sampled_from(State),
    code=st.sampled_from([None, Code.CLOUDFLARE_REJECTED, Code.NOT_DELIVERED]),
    expires_at=st.none() | st.sampled_from([NOON, LATER + timedelta(days=1)]),
)
def test_nothing_that_is_out_or_may_be_is_ever_redriven(
    letter: str, state: State | None, code: Code | None, expires_at: datetime | None
) -> None:
    rows = {} if state is None else {PART: row(state, code=code, expires_at=expires_at)}
    again = redrivable(closed(letter, BARE), rows, LATER)
    is_safe = state in (None, State.RETRYABLE) or (state, code) == (State.FAILED, Code.CLOUDFLARE_REJECTED)
    assert not again or is_safe
    outcome, _ = LETTERS[letter]
    assert not again or outcome in (Outcome.FAILED, Outcome.EXPIRED, Outcome.CANCELLED, Outcome.NEEDS_REVIEW)


def test_an_operation_is_read_back_as_it_was_written() -> None:
    operation = OperationRow(
        account_id=ACCOUNT,
        operation=OperationId("01OPERATION"),
        kind=OperationKind.REDRIVE,
        at=NOON,
        by="ann",
        reason="why",
        client="soar",
        part=PART,
        settled_as=State.RELEASED,
        redriven=RequestId("rq_one"),
        request_id=RequestId("rq_two"),
    )
    assert operation_row(operation_item(operation)) == operation


# --- What is printed


def test_tables_are_as_wide_as_what_stands_in_them_and_steer_no_terminal() -> None:
    assert table(("id", "why"), [["a", None], ["long", "x\x1b[2J"]]) == "id    why\na     -\nlong  x?[2J"
    assert listed("Things", [], ("id",)) == "Things: none"
    body = {"a": True, "bb": ["x", "y"], "c": {"d": 1, "e": None}, "f": [], "g": False}
    text = facts(body, ("a", "bb", "c", "f", "g"))
    assert text == "a   yes\nbb  x, y\nc   d 1\nf   -\ng   no"


def test_a_list_has_no_column_in_which_nothing_stands() -> None:
    bodies: list[dict[str, Any]] = [{"a": 1, "b": None, "c": []}, {"a": 2, "b": "", "d": False}]
    assert listed("Things", bodies, ("a", "b", "c", "d", "e")) == "Things:\na  d\n1  -\n2  no"


# --- The command line, against moto


@dataclass
class Tool:
    """The tool on the deployed stack's table."""

    capsys: pytest.CaptureFixture[str]
    where: tuple[str, ...] = ("--table", TABLE, "--account", DEPLOYED_ACCOUNT)

    def run(self, *arguments: str) -> tuple[int, str, str]:
        self.capsys.readouterr()
        code = main([*arguments, *self.where])
        printed = self.capsys.readouterr()
        return code, printed.out, printed.err

    def json(self, *arguments: str) -> dict[str, Any]:
        code, out, err = self.run(*arguments, "--json")
        assert (code, err) == (0, "")
        return dict(json.loads(out))


@pytest.fixture
def clock(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> Clock:
    assert deployment.environment["TABLE_NAME"] == TABLE
    return set_clock(monkeypatch)


@pytest.fixture
def tool(clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Tool:  # noqa: ARG001
    monkeypatch.setattr(boto3, "Session", lambda **_: aws_session())
    return Tool(capsys)


def lose_an_answer(deployment: Deployment, message_id: str = MESSAGE) -> str:
    deployment.upstream.answers.append(NO_REPLY)
    return path_of(deployment.post([message_id]))


def test_an_unconfirmed_message_is_shown_settled_and_shown_again(
    deployment: Deployment, tool: Tool, clock: Clock
) -> None:
    path = lose_an_answer(deployment)
    (entry,) = tool.json("open")["open"]
    assert (entry["id"], entry["state"], entry["calls"]) == (MESSAGE, "UNKNOWN", 1)
    code, out, err = tool.run("settle", MESSAGE, "--as", "not-released", *WHY)
    assert (code, out) == (1, "")
    assert "its call may still have an effect" in err
    assert json.loads(tool.run("settle", MESSAGE, "--as", "not-released", *WHY, "--json")[1])["ok"] is False
    clock.move(minutes=4)
    code, out, _ = tool.run("settle", MESSAGE, "--as", "released", *WHY, "--by", "Ann")
    assert code == 0
    assert f"{MESSAGE} is RELEASED now" in out
    assert tool.json("open") == {"open": [], "may_be_more": False, "unreadable": []}
    assert "Unconfirmed or in review: none" in tool.run("open")[1]
    shown = tool.json("trace", MESSAGE)
    (operation,) = shown["operations"]
    assert (operation["kind"], operation["settled_as"]) == ("settle", "RELEASED")
    assert (operation["by"], operation["reason"]) == (f"Ann ({IDENTITY})", "seen in the dashboard")
    assert shown["evidence"]["operation"] == operation["operation_id"]
    assert "seen in the dashboard" in tool.run("trace", MESSAGE)[1]
    assert deployment.get(path).result["outcome"] == "released"
    assert deployment.get(f"/v1/messages/{MESSAGE}", client="auditor").body["operations"] == shown["operations"]
    seen_by_others = deployment.get(f"/v1/messages/{MESSAGE}", client="other").body["operations"]
    assert seen_by_others == [{"at": operation["at"], "kind": "settle"}]
    clock.move(minutes=5)
    deployment.reconcile()
    assert tool.json("trace", MESSAGE)["state"] == "RELEASED"


def test_what_needs_review_is_found_freed_redriven_and_released(
    deployment: Deployment, tool: Tool, clock: Clock
) -> None:
    path = lose_an_answer(deployment)
    clock.move(seconds=215)
    deployment.start_afresh()
    deployment.upstream.answers += [Reply(result={"id": MESSAGE, "is_quarantined": False}), Reply(result=[])]
    deployment.reconcile()
    assert deployment.get(path).result["outcome"] == "needs_review"
    (entry,) = tool.json("open")["open"]
    assert (entry["state"], entry["seen"]) == ("NEEDS_REVIEW", "unclear")
    assert MESSAGE in tool.run("open")[1]
    request = path.rpartition("/")[2]
    assert "nothing of it failed" in tool.run("redrive", request, *WHY)[2]
    assert tool.json("settle", MESSAGE, "--as", "not-released", *WHY)["state"] == "RETRYABLE"
    code, out, _ = tool.run("redrive", request, *WHY)
    assert code == 0
    again = next(iter(re.findall(r"rq_\w{26}", out)))
    shown = tool.json("request", again)
    assert (shown["state"], shown["client"], shown["reason"]) == ("open", "soar", "seen in the dashboard")
    assert shown["operations"][0]["redriven"] == request
    assert "in progress" in tool.run("request", again)[1]
    # Without the queue's address the sweep goes on.
    deployment.start_afresh()
    clock.move(minutes=3)
    deployment.reconcile()
    deployment.start_afresh()
    deployment.work()
    kinds = [operation["kind"] for operation in tool.json("trace", MESSAGE)["operations"]]
    assert kinds == ["settle", "redrive"]
    assert deployment.get(f"/v1/releases/{again}").result["outcome"] == "released"


def test_a_pause_is_set_shown_and_lifted(deployment: Deployment, tool: Tool) -> None:
    code, out, _ = tool.run("pause", "--client", "soar", "--reason", "a wrong rule")
    assert code == 0
    assert "within a second" in out
    assert deployment.post().body["pause_reason"] == "a wrong rule"
    (paused,) = tool.json("pauses")["paused"]
    assert (paused["client"], paused["reason"], paused["by"]) == ("soar", "a wrong rule", IDENTITY)
    assert "a wrong rule" in tool.run("pauses")[1]
    assert tool.run("resume", "--reason", "done")[0] == 1
    (operation,) = tool.json("resume", "--client", "soar", "--reason", "done")["operations"]
    assert operation["kind"] == "resume"
    assert tool.json("pauses")["paused"] == []
    deployment.start_afresh()
    assert deployment.post().result["outcome"] == "released"
    assert tool.json("trace", MESSAGE)["operations"] == []
    tool.run("pause", "--client", "soar", "--reason", "another wrong rule")
    assert "another wrong rule" in tool.run("trace", MESSAGE)[1]
    assert deployment.post().code == "releases_paused"
    (shown,) = deployment.get(f"/v1/messages/{MESSAGE}", client="auditor").body["operations"]
    assert tool.json("trace", MESSAGE)["operations"] == [shown]
    assert (shown["kind"], shown["client"], shown["reason"]) == ("pause", "soar", "another wrong rule")


def test_the_tables_show_what_the_guard_made_of_a_mail_and_how_it_was_asked_for(
    deployment: Deployment, tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GUARD_MODE", "standard")
    may = client_entry("soar", scopes=["release", "override"])
    deployment.put_secret("clients", {"clients": [may]})
    evil = entry(EVIL, final_disposition="MALICIOUS")
    bodies: list[dict[str, Any]] = [
        {},
        {"override": True, "reason": "as evidence", "dry_run": True},
        {"override": True, "reason": "as evidence"},
    ]
    asked = []
    for body in bodies:
        # The last release is a call of its own.
        deployment.upstream.answers.append(Reply(result=evil))
        asked.append(deployment.post({"ids": [EVIL], **body}).body["request_id"])
    denied, rehearsed, released = (_words(tool.run("request", each)[1]) for each in asked)
    rule = "Rule dispositions: mail whose disposition is MALICIOUS is not released."
    assert [rule in each for each in (denied, rehearsed, released)] == [True, False, False]
    assert f"{EVIL} denied disposition_not_allowed MALICIOUS" in denied
    assert f"{EVIL} would_release overridden MALICIOUS" in rehearsed
    assert f"{EVIL} released overridden MALICIOUS" in released
    assert ["flags override, dry_run" in each for each in (denied, rehearsed, released)] == [False, True, False]
    assert "flags override" in released
    trace = _words(tool.run("trace", EVIL)[1])
    assert "guard overridden disposition MALICIOUS" in trace
    assert "soar - denied disposition_not_allowed - MALICIOUS - " + rule in trace
    assert "soar override, dry_run would_release - overridden MALICIOUS as evidence" in trace
    assert "soar override released" in trace


def _words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("trace", "4Njp3P0STMz2cXXX"), 1, "Nobody has asked for this message, or what was asked still waits"),
        (("request", "rq_" + "a" * 26), 1, "no such request"),
        (("redrive", "rq_" + "a" * 26, *WHY), 1, "no such request"),
        (("request", "other"), 2, "rq_ and 26"),
        (("trace", "!"), 2, "8 to 128"),
        (("trace", MESSAGE, "--account", "b" * 32), 2, "one account"),
        (("open", "--account", "x"), 1, ""),
    ],
)
def test_what_is_not_there_or_not_understood_is_told(
    tool: Tool, arguments: tuple[str, ...], code: int, told: str
) -> None:
    if arguments[0] == "open":
        tool.where = ("--table", TABLE)
        code = 2
    found, out, err = tool.run(*arguments)
    assert (found, out) == (code, "")
    assert told in err


@pytest.mark.parametrize(
    "arguments",
    [(), ("settle", MESSAGE, "--as", "released"), ("pause", "--reason", "\x1b"), ("pause", *WHY, "--client", "*")],
)
def test_nothing_is_changed_without_a_reason_or_for_what_is_no_client(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--table", TABLE])
    assert ended.value.code == 2
    capsys.readouterr()


def test_a_ledger_that_cannot_be_reached_is_told(deployment: Deployment, tool: Tool) -> None:
    deployment.delete_table()
    code, _, err = tool.run("open")
    assert code == 2
    assert "cannot be reached" in err


def make_unreadable(deployment: Deployment, kind: str) -> list[str]:
    """Give every row of a kind a version that is not known yet, and return their keys."""
    rows = deployment.rows(kind)
    for item in rows:
        deployment.put_row({**item, "v": {"N": "99"}})
    return sorted(item["pk"]["S"] for item in rows)


def test_rows_that_cannot_be_read_are_shown_and_left_as_they_are(deployment: Deployment, tool: Tool) -> None:
    request = lose_an_answer(deployment).rpartition("/")[2]
    (message_key,) = make_unreadable(deployment, "M#")
    why = [{"key": message_key, "why": "version 99"}]
    assert tool.json("open") == {"open": [], "may_be_more": False, "unreadable": why}
    assert tool.json("request", request)["unreadable"] == why
    for command in (("open",), ("request", request)):
        assert "Cannot be read:" in tool.run(*command)[1]
        assert f"{message_key}  version 99" in tool.run(*command)[1]
    code, _, err = tool.run("trace", MESSAGE)
    assert (code, err) == (1, f"Its row cannot be read: {message_key}: version 99.\n")
    assert "its row cannot be read" in tool.run("settle", MESSAGE, "--as", "released", *WHY)[2]
    keys = [*make_unreadable(deployment, "R#"), *make_unreadable(deployment, "T#")]
    assert [each["key"] for each in tool.json("open")["unreadable"]] == keys
    assert tool.run("request", request)[2] == f"Its row cannot be read: R#{request}: version 99.\n"
    assert "its row cannot be read" in tool.run("redrive", request, *WHY)[2]
    (account_key,) = make_unreadable(deployment, "A#")
    code, _, err = tool.run("pause", *WHY)
    assert (code, err) == (2, f"A row cannot be read, and was left as it is: {account_key}: version 99.\n")


def test_more_than_is_shown_is_told(deployment: Deployment, tool: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.ops.OPEN_LIMIT", 1)
    lose_an_answer(deployment)
    assert "There may be more" in tool.run("open")[1]


# --- Where it works


def test_without_a_place_or_an_account_it_says_what_is_missing(
    deployment: Deployment,  # noqa: ARG001
    tool: Tool,
    tmp_path: Path,
) -> None:
    tool.where = ()
    assert "--stack, --table or --local" in tool.run("open")[2]
    tool.where = ("--table", TABLE)
    assert "--account" in tool.run("trace", MESSAGE)[2]
    tool.where = ("--local", str(tmp_path))
    assert "make run" in tool.run("open")[2]


class _CloudFormation(BaseHTTPRequestHandler):
    """Answers DescribeStacks as CloudFormation's query protocol does."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        outputs = {
            "TableName": TABLE,
            "ReleaseQueueUrl": "https://sqs.us-east-1.amazonaws.com/123456789012/hints",
            "CloudflareSecretArn": "CloudflareSecret",
        }
        members = "".join(
            f"<member><OutputKey>{key}</OutputKey><OutputValue>{value}</OutputValue></member>"
            for key, value in outputs.items()
        )
        body = (
            '<DescribeStacksResponse xmlns="http://cloudformation.amazonaws.com/doc/2010-05-15/"><DescribeStacksResult>'
            "<Stacks><member><StackName>quarantine-release</StackName><StackStatus>CREATE_COMPLETE</StackStatus>"
            f"<CreationTime>2026-11-22T12:00:00Z</CreationTime><Outputs>{members}</Outputs><Parameters><member>"
            "<ParameterKey>TraceRetentionDays</ParameterKey><ParameterValue>30</ParameterValue></member></Parameters>"
            "</member></Stacks></DescribeStacksResult></DescribeStacksResponse>"
        ).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def cloudformation(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _CloudFormation)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL_CLOUDFORMATION", f"http://127.0.0.1:{server.server_port}")
    yield
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("cloudformation")
def test_a_stack_names_table_queue_accounts_and_retention(
    deployment: Deployment, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    tool = Tool(capsys, ("--stack", "quarantine-release", "--region", "us-east-1"))
    lose_an_answer(deployment)
    clock.move(minutes=4)
    assert tool.json("settle", MESSAGE, "--as", "released", *WHY)["state"] == "RELEASED"
    (released,) = deployment.rows("M")
    expires = int(released["expires_at"]["N"]) - clock.now.timestamp()
    assert 29.9 < expires / 86400 < 30.1
    assert len(tool.json("pause", *WHY)["operations"]) == 1
    assert deployment.post(["4WtWkr6nlBz9sNH"]).code == "releases_paused"


@pytest.mark.usefixtures("deployment")
def test_an_account_is_not_guessed_from_a_secret_that_cannot_be_used(
    tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unusable() -> Accounts:
        return ops_wiring._accounts(cast("Any", Broken()), "CloudflareSecret")

    class Broken:
        def get_secret_value(self, **_: object) -> dict[str, str]:
            return {"SecretString": "{}"}

    place = ops_wiring.place_of(_options(tool))
    monkeypatch.setattr(
        "tools.ops.place_of", lambda _: ops_wiring.Place(place.ledger, None, place.terms, unusable, place.identity)
    )
    tool.where = ()
    code, _, err = tool.run("trace", MESSAGE)
    assert (code, err) == (2, "the cloudflare secret is empty: it was never set: say --account\n")


def _options(tool: Tool) -> Any:
    return Namespace(local=None, region=None, stack=None, table=tool.where[1], queue_url=None, retention_days=None)


def test_what_aws_refuses_is_told(tool: Tool, monkeypatch: pytest.MonkeyPatch, deployment: Deployment) -> None:  # noqa: ARG001
    monkeypatch.undo()
    monkeypatch.setenv("AWS_ENDPOINT_URL_CLOUDFORMATION", "http://127.0.0.1:1")
    tool.where = ("--stack", "quarantine-release", "--region", "us-east-1")
    code, _, err = tool.run("open")
    assert code == 2
    assert err.startswith("AWS: ")


def test_lease_settle_and_retention_are_the_templates() -> None:
    settings = Settings.from_env(deployed_template().functions()["WebhookFunction"].environment)
    assert (settings.terms.lease, settings.terms.settle) == (ops_wiring.LEASE, ops_wiring.SETTLE)
    assert settings.terms.retention == timedelta(days=ops_wiring.RETENTION_DAYS)


# --- What it needs permission for


def policy() -> list[Mapping[str, Any]]:
    """Return the operator's policy of docs/operations.md, its resources as the template calls them."""
    text = (CHECKOUT / "docs" / "operations.md").read_text("utf-8")
    (found,) = re.findall(r"```json\n(\{\s+\"Version\".*?)```", text, re.DOTALL)
    for name, resource in (
        ("TABLE_ARN", "${Ledger.Arn}"),
        ("QUEUE_ARN", "${ReleaseQueue.Arn}"),
        ("CLOUDFLARE_SECRET_ARN", "${CloudflareSecret}"),
    ):
        found = found.replace(name, resource)
    statements: list[Mapping[str, Any]] = json.loads(found)["Statement"]
    return statements


def test_the_policy_of_the_documentation_allows_what_the_tool_does_and_nothing_else(
    deployment: Deployment, tool: Tool, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    needs: set[Need] = set()

    def hear(model: Any, params: Mapping[str, Any], **_: Any) -> None:
        needs.update(needs_of(model.name, params))

    session = aws_session()
    events = [
        session.client(service, config=ops_wiring._AWS).meta.events for service in ("dynamodb", "sqs", "secretsmanager")
    ]
    for each in events:
        each.register("provide-client-params", hear)
    try:
        rejected = deployment.upstream.answers
        rejected.append(Reply(400))
        request = str(deployment.post().body["request_id"])
        lose_an_answer(deployment, "4WtWkr6nlBz9sNH")
        clock.move(minutes=5)
        tool.where = ("--table", TABLE, "--queue-url", deployment.environment["QUEUE_URL"])
        tool.where += ("--account", DEPLOYED_ACCOUNT)
        for arguments in (
            ("open",),
            ("pause", *WHY),
            ("pauses",),
            ("resume", *WHY),
            ("redrive", request, *WHY),
            ("request", request),
            ("settle", "4WtWkr6nlBz9sNH", "--as", "not-released", *WHY),
            ("trace", MESSAGE),
        ):
            code, _, err = tool.run(*arguments)
            assert (code, err) == (0, "")
        ops_wiring._accounts(session.client("secretsmanager", config=ops_wiring._AWS), "CloudflareSecret")
    finally:
        for each in events:
            each.unregister("provide-client-params", hear)
    capsys.readouterr()
    statements = [one for one in policy() if one["Sid"] != "Stack"]
    assert [need for need in needs if not any(_covers(one, need) for one in statements)] == []
    granted = {(action, one["Resource"]) for one in statements for action in as_list(one["Action"])}
    assert granted == {(need.action, need.resource) for need in needs}
    forbidden = [
        Need("dynamodb:PutItem", "${Ledger.Arn}", frozenset({"M#1"})),
        Need("dynamodb:UpdateItem", "${Ledger.Arn}", frozenset({"O#1"})),
        Need("dynamodb:UpdateItem", "${Ledger.Arn}", frozenset({"R#1"})),
        Need("dynamodb:Scan", "${Ledger.Arn}"),
    ]
    assert not [need for need in forbidden if any(_covers(one, need) for one in statements)]


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


# --- Against the local stack


LOST, FAILED = "4WtOpsLost00001-2026-08-28T15:32:35-10000001", "4WtOpsFailed002-2026-08-28T15:32:36-10000002"


@pytest.mark.slow
def test_everything_from_a_terminal_against_the_local_stack(tmp_path: Path) -> None:
    """With the reconciler at rest, so that a person settles what it would."""
    environment = {"PORT": "0", "LEASE_SECONDS": "1", "SETTLE_SECONDS": "1", "RECONCILE_EVERY_SECONDS": "9999"}
    with Stack(environment, folder=tmp_path, processes=2) as stack:
        ops = partial(_ops, tmp_path)

        def post(message_id: str) -> requests.Response:
            headers = {"Authorization": f"Bearer {stack.token}"}
            return requests.post(f"{stack.base_url}/v1/releases", json=[message_id], headers=headers, timeout=60)

        def script(message_id: str, behaviour: str) -> None:
            content = {"id": message_id, "behaviour": behaviour, "times": 1}
            address = f"{stack.simulator_url}/_simulator/script"
            requests.post(address, json=content, timeout=10).raise_for_status()

        assert ops("pause", *WHY)["ok"] is True
        refused = post(LOST)
        assert (refused.status_code, refused.json()["pause_reason"]) == (503, "seen in the dashboard")
        assert ops("resume", *WHY)["ok"] is True
        time.sleep(1.0)  # by then every process knows
        script(LOST, "reset_after_effect")
        assert post(LOST).json()["results"][0]["outcome"] == "unconfirmed"
        _until(lambda: [entry["id"] for entry in ops("open")["open"]] == [LOST])
        assert ops("settle", LOST, "--as", "released", *WHY)["state"] == "RELEASED"
        shown = ops("trace", LOST)
        assert shown["operations"][0]["reason"] == "seen in the dashboard"
        script(FAILED, "not_found")
        failed = post(FAILED).json()
        assert failed["results"][0]["code"] == "cloudflare_rejected"
        again = ops("redrive", failed["request_id"], *WHY)["request_id"]
        _until(lambda: ops("request", again)["outcome"] == "released")
        text = _run(tmp_path, "request", again).stdout
        assert "released" in text
        assert _run(tmp_path, "trace", "4WtOpsNobody004").returncode == 1
    assert not list(tmp_path.glob("environment.json"))


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tools.ops", *arguments, "--local", str(folder)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _ops(folder: Path, *arguments: str) -> dict[str, Any]:
    done = _run(folder, *arguments, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return dict(json.loads(done.stdout))


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.2)
