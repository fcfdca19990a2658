"""The only DynamoDB user: one table, the trace and the lock in one.

=========  ==============================  =============================================================
item       `pk`                            holds
=========  ==============================  =============================================================
message    `M#<account>#<postfix part>`    state, last attempt, owner, fullest id, recipients, evidence
attempt    `T#<account>#<ulid>`            the write-ahead intent of one Cloudflare call, then its outcome
request    `R#<request_id>`                who, why, which ids; at the end one outcome letter per id
alias      `I#<account>#<sha256>`          the message that a Message-ID was found to mean, for a day
unclaimed  `N#<account>#<postfix part>`    who asked for a message without a claim: denied, or a dry run
operation  `O#<account>#<ulid>`            what a person has changed with the operations tool, who, why; never deleted
=========  ==============================  =============================================================

Open attempts and requests, and messages under review, carry `open_kind` and `open_at`, the keys of the sparse index
`open-index`. The account's row is `budget.py`'s, but for its switch. Every write to a message is conditional on the
state and the attempt that its writer saw, so that a stale writer changes nothing.
Limits: a transaction takes 100 actions and 4 MB, an item 400 KB (DynamoDB developer guide, "Quotas").
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from quarantine_release.allowance import AccountRow
from quarantine_release.ledger_account import account_row, switch
from quarantine_release.ledger_codecs import Attribute, Item
from quarantine_release.ledger_items import (
    attempt_item,
    attempt_row,
    checks_item,
    ended_parts,
    message_item,
    message_row,
    operation_item,
    operation_row,
    other_check,
    request_item,
    request_row,
)
from quarantine_release.ledger_keys import (
    account_key,
    alias_key,
    attempt_key,
    message_key,
    open_at,
    open_kind,
    operation_key,
    request_key,
    unclaimed_key,
)
from quarantine_release.outcome import (
    UNSETTLED,
    AccountId,
    AttemptId,
    MessageId,
    OperationId,
    PostfixPart,
    RequestId,
    State,
    is_header,
)
from quarantine_release.ports import Conflict, Known, LedgerContended, Move
from quarantine_release.table import CONDITION_FAILED, Table
from quarantine_release.trace import AttemptRow, AttemptState, MessageRow, OperationRow, RequestRow, RequestState
from quarantine_release.update_expression import UpdateExpression

# Actions in one transaction.
_TRANSACTION_LIMIT: Final = 100
# Of those who asked without a claim so many are kept; and so many notes of one request are written at once, since an
# expression may have 4 KB (DynamoDB developer guide, "Quotas").
_UNCLAIMED_KEPT: Final = 100
_NOTES_AT_ONCE: Final = 40
_NO_NOTES: Final[Mapping[RequestId, int]] = {}
# Sets and counters are changed by what is added or taken away, so that writers who saw another version lose nothing.
_SETS: Final = ("attempts", "asks", "operations")
_COUNTERS: Final = ("refusals", "asks_uncounted")


@dataclass(frozen=True, slots=True)
class Switch:
    """What a person has paused of an account, as it was seen and as it is wanted."""

    account_id: AccountId
    before: AccountRow
    after: AccountRow


class DynamoLedger:
    """The ledger in one DynamoDB table."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def claim(
        self,
        opened: RequestRow | None,
        accepted: Sequence[RequestId],
        attempt: AttemptRow | None,
        moves: Sequence[Move],
        asks: Sequence[Move],
        notes: Mapping[RequestId, int] = _NO_NOTES,
    ) -> Conflict | None:
        """Write request, attempt, claims and asks in one transaction, or nothing and tell why.

        `notes`: how many an accepted request had when it was read. One round trip. Requests accepted before must still
        be open: nothing leaves on behalf of one that was refused or has ended. A claim whose answer was lost is
        recognised by its own attempt or nonce and is a success.
        """
        updates = {move.after.part: self._move(move) for move in (*moves, *asks) if move.before != move.after}
        requests = {request_id: self._check_open(request_id, notes.get(request_id, 0)) for request_id in accepted}
        if opened is not None:
            requests = {opened.request_id: self._put_request(opened)}
        actions = [*updates.values(), *requests.values()]
        if attempt is not None:
            actions.append({"Put": self._put(attempt_item(attempt), "attribute_not_exists(pk)")})
        reasons = self._table.transact(actions) if updates or opened is not None else None
        if reasons is None:
            self._reopen(asks)
            return None
        failed = [reason["Code"] == CONDITION_FAILED for reason in reasons]
        found: list[Item | None] = [reason.get("Item") for reason in reasons]
        messages = zip(updates, failed, found, strict=False)
        others = zip(requests, failed[len(updates) :], found[len(updates) :], strict=False)
        conflict = Conflict(
            {name: request_row(item) if item else None for name, item_failed, item in others if item_failed},
            {part: message_row(item) if item else None for part, item_failed, item in messages if item_failed},
        )
        if attempt is not None:
            was_lost = failed[-1]
        else:
            earlier = conflict.requests.get(opened.request_id) if opened is not None else None
            was_lost = opened is not None and earlier is not None and earlier.nonce == opened.nonce
        return None if was_lost else conflict

    def record(
        self, attempt: AttemptRow, was: AttemptState, moves: Sequence[Move], request: RequestRow | None
    ) -> dict[PostfixPart, MessageRow]:
        """Write a call's outcome; return the messages that are no longer as its writer saw them, as they are.

        In one transaction, one round trip, where nothing has moved meanwhile and nobody contends. Else first and
        durably on the attempt, then on each message that is still as it was seen, and on the request if they all were;
        but a refusal first on the request, since nothing may leave after its caller was told no. An attempt with a
        message that is still to be settled stays open, whatever its writer took it for.
        """
        end, closing = self._end_attempt(attempt, was), [self._end_request(request)] if request is not None else []
        with suppress(LedgerContended):
            if self._table.transact([end, *map(self._move, moves), *closing]) is None:
                return {}
        is_refusal = request is not None and request.state is RequestState.REFUSED
        for action in closing if is_refusal else ():
            self._table.write(action)
        # Due again at once: whoever finds the outcome here brings it to the messages that it has not reached.
        self._table.write(self._end_attempt(attempt, was, stays_open=True))
        others = self._write_each(moves)
        is_settled = not any(row.attempt == attempt.attempt and row.state in UNSETTLED for row in others.values())
        if not attempt.is_open and is_settled:
            self._table.write(self._end_attempt(attempt, attempt.state))
        for action in closing if not others and not is_refusal else ():
            self._table.write(action)
        return others

    def project(self, moves: Sequence[Move]) -> dict[PostfixPart, MessageRow]:
        """Move messages on, 100 in a transaction; return those that were not as they were seen, as they are."""
        others: dict[PostfixPart, MessageRow] = {}
        for start in range(0, len(moves), _TRANSACTION_LIMIT):
            some = moves[start : start + _TRANSACTION_LIMIT]
            if self._table.transact(list(map(self._move, some))) is not None:
                others |= self._write_each(some)
        return others

    def operate(self, operation: OperationRow, change: Move | RequestRow | Switch) -> bool:
        """Write what a person changes together with the operation, or nothing, and return False, if it has moved.

        The change passes on the same conditions as everybody's: a message must be as it was seen, a request new.
        """
        if isinstance(change, Move):
            action = self._move(change)
        elif isinstance(change, RequestRow):
            action = self._put_request(change)
        else:
            action = self._set_switch(change)
        put = {"Put": self._put(operation_item(operation), "attribute_not_exists(pk)")}
        reasons = self._table.transact([action, put])
        # The operation's own row was there already: written by this very call, whose answer was lost.
        return reasons is None or reasons[1]["Code"] == CONDITION_FAILED

    def close(self, requests: Sequence[RequestRow]) -> None:
        """Close open requests; without effect on those that somebody else closed."""
        self._write_all([self._end_request(request) for request in requests])

    def cancel(self, request: RequestRow) -> RequestRow | None:
        """Have nothing more claimed for an open request; return it as it is if it is open no more."""
        item = request_item(request)
        update = UpdateExpression(item["pk"])
        update.set("cancelled_at", item["cancelled_at"])
        update.require("state", item["state"])
        update.require("nonce", item["nonce"])
        found = self._table.write({"Update": update.build()})
        return request_row(found) if found else None

    def note(self, before: RequestRow, after: RequestRow) -> RequestRow | None:
        """Write what lookup and guard made of an open request's ids; return the request if others were quicker.

        An id is ended only while its message is not claimed for this request; and a claim that has not seen what is
        written here does not pass, since it counts the notes.
        """
        known, wanted = checks_item(before), checks_item(after)
        new = [(name, value) for name, value in wanted.items() if name not in known]
        nonce: Attribute = {"S": after.nonce}
        for start in range(0, len(new), _NOTES_AT_ONCE):
            some = new[start : start + _NOTES_AT_ONCE]
            update = UpdateExpression({"S": request_key(after.request_id)})
            for name, value in some:
                update.set(name, value)
                # What an id means and that it has ended are one finding: no two writers may each have half of it.
                for each in {name, other_check(name)} - (wanted.keys() - {name}):
                    update.require_absent(each)
            if start == 0:
                update.add("notes", {"N": "1"})
            update.require("state", {"S": RequestState.OPEN})
            update.require("nonce", nonce)
            update.require_absent("cancelled_at")
            unclaimed = [self._check_not_owner(after, part) for part in ended_parts(after, dict(some))]
            reasons = self._table.transact([{"Update": update.build()}, *unclaimed])
            if reasons is None:
                continue
            found: Item = reasons[0].get("Item", {})
            is_written = found.get("nonce") == nonce and all(found.get(name) == value for name, value in some)
            if not is_written:  # else it was, by this call, whose answer was lost
                return request_row(found) if found else self.requests([after.request_id]).get(after.request_id, before)
        return None

    def note_unclaimed(
        self, account_id: AccountId, parts: Sequence[PostfixPart], request_id: RequestId, until: datetime
    ) -> None:
        """Have the trace of messages know who asked for them without a claim."""
        updates = []
        for part in dict.fromkeys(parts):
            update = UpdateExpression({"S": unclaimed_key(account_id, part)})
            update.add("asks", {"SS": [request_id]})
            update.set("expires_at", {"N": str(int(until.timestamp()))})
            update.require_fewer("asks", _UNCLAIMED_KEPT)
            updates.append({"Update": update.build()})
        self._write_all(updates)

    def unclaimed(self, account_id: AccountId, part: PostfixPart) -> frozenset[RequestId]:
        """Read who asked for a message without a claim."""
        item = next(iter(self._table.read([unclaimed_key(account_id, part)])), None)
        return frozenset(map(RequestId, item["asks"]["SS"])) if item else frozenset()

    def known(
        self,
        account_id: AccountId,
        request_id: RequestId | None,
        parts: Sequence[PostfixPart],
        questions: Sequence[str],
    ) -> Known:
        """Read what is known of a request, its messages and its questions, in one round trip for up to 100 of them."""
        aliases = {alias_key(account_id, question): question for question in questions}
        keys = [*(message_key(account_id, part) for part in parts), *aliases]
        keys += [request_key(request_id)] if request_id is not None else []
        request, messages, answers = None, {}, {}
        for item in self._table.read(keys):
            key = item["pk"]["S"]
            if key in aliases:
                answers[aliases[key]] = (MessageId(item["message_id"]["S"]), int(item["expires_at"]["N"]))
            elif key.startswith("R#"):
                request = request_row(item)
            else:
                row = message_row(item)
                messages[row.part] = row
        return Known(request, messages, answers)

    def keep_aliases(self, account_id: AccountId, answers: Mapping[str, MessageId], until: datetime) -> None:
        """Keep what questions were answered, so that a repeat needs no search."""
        updates = []
        for question, message_id in answers.items():
            update = UpdateExpression({"S": alias_key(account_id, question)})
            update.set("message_id", {"S": message_id})
            update.set("expires_at", {"N": str(int(until.timestamp()))})
            updates.append({"Update": update.build()})
        self._write_all(updates)

    def look_again(self, rows: Sequence[AttemptRow | RequestRow], at: datetime) -> None:
        """Put open rows off until then; without effect on those that are open no more."""
        self._write_all([self._put_off(row, at) for row in rows])

    def messages(self, account_id: AccountId, parts: Sequence[PostfixPart]) -> dict[PostfixPart, MessageRow]:
        """Read messages by their postfix parts, 100 a round trip; absent ones are left out."""
        # A Message-ID stands in the place of the part of a message that is not found yet.
        keys = [message_key(account_id, part) for part in parts if not is_header(MessageId(part))]
        rows = map(message_row, self._table.read(keys))
        return {row.part: row for row in rows}

    def attempts(self, account_id: AccountId, attempts: Sequence[AttemptId]) -> list[AttemptRow]:
        """Read attempts, oldest first; absent ones are left out."""
        rows = map(attempt_row, self._table.read([attempt_key(account_id, attempt) for attempt in attempts]))
        return sorted(rows, key=lambda row: row.attempt)

    def requests(self, request_ids: Sequence[RequestId]) -> dict[RequestId, RequestRow]:
        """Read requests, 100 a round trip; absent ones are left out."""
        rows = map(request_row, self._table.read([request_key(request_id) for request_id in request_ids]))
        return {row.request_id: row for row in rows}

    def operations(self, account_id: AccountId, operations: Sequence[OperationId]) -> list[OperationRow]:
        """Read operations, oldest first."""
        rows = map(operation_row, self._table.read([operation_key(account_id, each) for each in operations]))
        return sorted(rows, key=lambda row: row.operation)

    def account(self, account_id: AccountId) -> AccountRow:
        """Read an account."""
        item = next(self._table.read([account_key(account_id)]), None)
        return account_row(item) if item else AccountRow()

    def under_review(self, until: datetime, limit: int) -> list[MessageRow]:
        """Read the messages that need review since then or longer, at most so many of each shard, oldest first."""
        rows = map(message_row, self._table.read(self._table.due("M", until, limit)))
        return sorted((row for row in rows if row.state is State.NEEDS_REVIEW), key=lambda row: row.updated_at)

    def open_attempts(self, until: datetime, limit: int) -> list[AttemptRow]:
        """Read the open attempts that are due by then, at most so many of each shard of the index, oldest first."""
        rows = map(attempt_row, self._table.read(self._table.due("T", until, limit)))
        return sorted(rows, key=lambda row: row.attempt)

    def open_requests(self, until: datetime, limit: int) -> list[RequestRow]:
        """Read the open requests that are due by then, at most so many of each shard of the index, oldest first."""
        rows = map(request_row, self._table.read(self._table.due("R", until, limit)))
        return sorted((row for row in rows if row.state is RequestState.OPEN), key=lambda row: row.created_at)

    def _write_all(self, updates: Sequence[dict[str, Any]]) -> None:
        """Make updates that have nothing to do with one another, each if it may, in as few round trips as possible."""
        for start in range(0, len(updates), _TRANSACTION_LIMIT):
            some = updates[start : start + _TRANSACTION_LIMIT]
            with suppress(LedgerContended):
                if len(some) > 1 and self._table.transact(some) is None:
                    continue
            for update in some:
                self._table.write(update)

    def _put_off(self, row: AttemptRow | RequestRow, at: datetime) -> dict[str, Any]:
        item = attempt_item(row) if isinstance(row, AttemptRow) else request_item(row)
        update = UpdateExpression(item["pk"])
        update.set("open_at", open_at(at))
        update.require("state", item["state"])
        update.require("open_kind", open_kind(item["pk"]))
        return {"Update": update.build()}

    def _reopen(self, asks: Sequence[Move]) -> None:
        """Have a message under review looked at again when a fuller id of it has become known."""
        for ask in asks:
            is_fuller = ask.before is not None and ask.before.message_id != ask.after.message_id
            if ask.after.state is State.NEEDS_REVIEW and is_fuller:
                key: Attribute = {"S": attempt_key(ask.after.account_id, ask.after.attempt)}
                update = UpdateExpression(key)
                update.set("open_kind", open_kind(key))
                update.set("open_at", open_at(ask.after.updated_at))
                update.require_present()
                self._table.write({"Update": update.build()})

    def _check_not_owner(self, request: RequestRow, part: PostfixPart) -> dict[str, Any]:
        return {
            "ConditionCheck": {
                "Key": {"pk": {"S": message_key(request.account_id, part)}},
                "ConditionExpression": "attribute_not_exists(#owner) OR #owner <> :this OR #state = :free",
                "ExpressionAttributeNames": {"#owner": "owner", "#state": "state"},
                "ExpressionAttributeValues": {":this": {"S": request.request_id}, ":free": {"S": State.RETRYABLE}},
            }
        }

    def _check_open(self, request_id: RequestId, notes: int = 0) -> dict[str, Any]:
        seen = "notes = :notes" if notes else "attribute_not_exists(notes)"
        return {
            "ConditionCheck": {
                "Key": {"pk": {"S": request_key(request_id)}},
                "ConditionExpression": f"#state = :open AND attribute_not_exists(cancelled_at) AND {seen}",
                "ExpressionAttributeNames": {"#state": "state"},
                "ExpressionAttributeValues": {
                    ":open": {"S": RequestState.OPEN},
                    **({":notes": {"N": str(notes)}} if notes else {}),
                },
                "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
            }
        }

    def _move(self, move: Move) -> dict[str, Any]:
        """Build the write from one version of a message to the next, refused unless it is as it was seen."""
        after: Item = message_item(move.after)
        if move.before is None:
            return {"Put": self._put(after, "attribute_not_exists(pk)")}
        before: Item = message_item(move.before)
        update = UpdateExpression(after["pk"])
        for name in sorted(before.keys() | after.keys()):
            old, new = before.get(name), after.get(name)
            if old == new:
                continue
            if name in _SETS:
                _change_set(update, name, old, new)
            elif name in _COUNTERS:
                update.add(name, {"N": str(_number(new) - _number(old))})
            elif new is None:
                update.remove(name)
            else:
                update.set(name, new)
        update.require("state", before["state"])
        update.require("attempt", before["attempt"])
        return {"Update": update.build()}

    def _set_switch(self, change: Switch) -> dict[str, Any]:
        before, after = switch(change.before), switch(change.after)
        assert after is not None  # noqa: S101  it names at least the operation that changes it
        update = UpdateExpression({"S": account_key(change.account_id)})
        update.set("switch", after)
        if before is None:
            update.require_absent("switch")
        else:
            update.require("switch", before)
        return {"Update": update.build()}

    def _write_each(self, moves: Sequence[Move]) -> dict[PostfixPart, MessageRow]:
        others = {}
        for move in moves:
            item = self._table.write(self._move(move))
            if (
                item
                and (row := message_row(item))
                and (row.state, row.attempt) != (move.after.state, move.after.attempt)
            ):
                others[move.after.part] = row
        return others

    def _end_attempt(self, attempt: AttemptRow, was: AttemptState, *, stays_open: bool = False) -> dict[str, Any]:
        names = ("state", "ended_at", "evidence", "verdicts", "expires_at", "open_at")
        return self._end(attempt_item(attempt, stays_open=stays_open), was, names)

    def _end_request(self, request: RequestRow) -> dict[str, Any]:
        """End this acceptance of a request: a late repeat must not end the next one under the same key."""
        names = ("state", "letters", "closed_at", "expires_at")
        return self._end(request_item(request), RequestState.OPEN, names, ("nonce",))

    def _end(self, item: Item, expected: str, names: Sequence[str], same: Sequence[str] = ()) -> dict[str, Any]:
        update = UpdateExpression(item["pk"])
        for name in names:
            if name in item:
                update.set(name, item[name])
        for name in ("open_kind", "open_at"):
            if name not in item:
                update.remove(name)
        update.require("state", {"S": expected})
        for name in same:
            update.require(name, item[name])
        return {"Update": update.build()}

    def _put_request(self, request: RequestRow) -> dict[str, Any]:
        condition = "attribute_not_exists(pk) OR expires_at <= :now OR (#state = :refused AND fingerprint = :this)"
        return {
            "Put": {
                **self._put(request_item(request), condition),
                "ExpressionAttributeNames": {"#state": "state"},
                "ExpressionAttributeValues": {
                    ":now": {"N": str(int(request.created_at.timestamp()))},
                    ":refused": {"S": RequestState.REFUSED},
                    ":this": {"S": request.fingerprint},
                },
            }
        }

    def _put(self, item: Item, condition: str) -> dict[str, Any]:
        return {
            "Item": item,
            "ConditionExpression": condition,
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }


def _change_set(update: UpdateExpression, name: str, old: Attribute | None, new: Attribute | None) -> None:
    had, has = set((old or {"SS": []})["SS"]), set((new or {"SS": []})["SS"])
    if has - had:
        update.add(name, {"SS": sorted(has - had)})
    if had - has:
        update.delete(name, {"SS": sorted(had - has)})


def _number(attribute: Attribute | None) -> int:
    return int(attribute["N"]) if attribute else 0
