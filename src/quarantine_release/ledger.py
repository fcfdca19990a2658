"""The only DynamoDB user: one table, the trace and the lock in one.

=========  ==============================  =============================================================
item       `pk`                            holds
=========  ==============================  =============================================================
message    `M#<account>#<postfix part>`    state, last attempt, owner, fullest id, recipients, evidence
attempt    `T#<account>#<ulid>`            the write-ahead intent of one Cloudflare call, then its outcome
request    `R#<request_id>`                who, why, which ids; at the end one outcome letter per id
=========  ==============================  =============================================================

Open attempts and requests carry `open_kind` and `open_at`, the keys of the sparse index `open-index`. Every write to a
message is conditional on the state and the attempt that its writer saw, so that a stale writer changes nothing.
Limits: a transaction takes 100 actions and 4 MB, an item 400 KB (DynamoDB developer guide, "Quotas").
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from botocore.exceptions import BotoCoreError, ClientError

from quarantine_release.ledger_items import (
    Attribute,
    Item,
    attempt_item,
    attempt_key,
    attempt_row,
    message_item,
    message_key,
    message_row,
    request_item,
    request_key,
    request_row,
)
from quarantine_release.outcome import AccountId, AttemptId, PostfixPart, RequestId
from quarantine_release.ports import Conflict, LedgerUnavailable, Move
from quarantine_release.trace import AttemptRow, AttemptState, MessageRow, RequestRow, RequestState
from quarantine_release.update_expression import UpdateExpression

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

_BATCH_GET_LIMIT: Final = 100
_TRIES: Final = 8
_CONDITION_FAILED: Final = "ConditionalCheckFailed"
# Reasons for which a transaction was cancelled without telling anything about the rows: the same again may pass.
_PASSING: Final = frozenset(
    {
        "TransactionConflict",
        "TransactionConflictException",
        "TransactionInProgressException",
        "ProvisionedThroughputExceeded",
        "ThrottlingError",
    }
)
# Sets and counters are changed by what is added or taken away, so that writers who saw another version lose nothing.
_SETS: Final = ("attempts", "asks")
_COUNTERS: Final = ("refusals", "asks_uncounted")


class DynamoLedger:
    """The ledger in one DynamoDB table."""

    def __init__(self, client: "DynamoDBClient", table: str, pause: Callable[[int], None]) -> None:
        self._client = client
        self._table = table
        self._pause = pause

    def claim(
        self, request: RequestRow | None, attempt: AttemptRow | None, moves: Sequence[Move], asks: Sequence[Move]
    ) -> Conflict | None:
        """Write request, attempt, claims and asks in one transaction, or nothing and tell why.

        One round trip. A claim whose answer was lost is recognised by its own attempt or nonce and is a success.
        """
        updates = {move.after.part: self._move(move) for move in (*moves, *asks) if move.before != move.after}
        actions = list(updates.values())
        if attempt is not None:
            actions.append({"Put": self._put(attempt_item(attempt), "attribute_not_exists(pk)")})
        if request is not None:
            actions.append(self._put_request(request))
        reasons = self._transact(actions) if actions else None
        if reasons is None:
            return None
        failed = [reason["Code"] == _CONDITION_FAILED for reason in reasons]
        found: list[Item | None] = [reason.get("Item") for reason in reasons]
        earlier = found[-1] if request is not None and failed[-1] else None
        if attempt is not None:
            was_lost = failed[len(updates)]
        else:
            was_lost = request is not None and earlier is not None and request_row(earlier).nonce == request.nonce
        if was_lost:
            return None
        messages = zip(updates, failed, found, strict=False)
        return Conflict(
            request_row(earlier) if earlier else None,
            {part: message_row(item) if item else None for part, has_failed, item in messages if has_failed},
        )

    def record(
        self, attempt: AttemptRow, moves: Sequence[Move], request: RequestRow | None
    ) -> dict[PostfixPart, MessageRow]:
        """Write a call's outcome; return the messages that are no longer this attempt's, as they are.

        In one transaction, one round trip, where nothing has moved meanwhile. Else first and durably on the attempt,
        then on each message that is still this attempt's, and on the request if they all were.
        """
        end, closing = self._end_attempt(attempt), [self._end_request(request)] if request is not None else []
        if self._transact([end, *map(self._move, moves), *closing]) is None:
            return {}
        self._write(end)
        others = {}
        for move in moves:
            item = self._write(self._move(move))
            if (
                item
                and (row := message_row(item))
                and (row.state, row.attempt) != (move.after.state, move.after.attempt)
            ):
                others[move.after.part] = row
        if not others:
            for action in closing:
                self._write(action)
        return others

    def close(self, request: RequestRow) -> None:
        """Close an open request; without effect if somebody else did."""
        self._write(self._end_request(request))

    def messages(self, account_id: AccountId, parts: Sequence[PostfixPart]) -> dict[PostfixPart, MessageRow]:
        """Read messages by their postfix parts, 100 a round trip; absent ones are left out."""
        rows = map(message_row, self._batch_get([message_key(account_id, part) for part in parts]))
        return {row.part: row for row in rows}

    def attempts(self, account_id: AccountId, attempts: Sequence[AttemptId]) -> list[AttemptRow]:
        """Read attempts, oldest first; absent ones are left out."""
        rows = map(attempt_row, self._batch_get([attempt_key(account_id, attempt) for attempt in attempts]))
        return sorted(rows, key=lambda row: row.attempt)

    def requests(self, request_ids: Sequence[RequestId]) -> dict[RequestId, RequestRow]:
        """Read requests, 100 a round trip; absent ones are left out."""
        rows = map(request_row, self._batch_get([request_key(request_id) for request_id in request_ids]))
        return {row.request_id: row for row in rows}

    def _move(self, move: Move) -> dict[str, Any]:
        """Build the update from one version of a message to the next, refused unless it is as it was seen."""
        after: Item = message_item(move.after)
        before: Item = message_item(move.before) if move.before else {"pk": after["pk"]}
        update = UpdateExpression(self._table, after["pk"])
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
        if move.before is None:
            update.require_absent()
        else:
            update.require("state", before["state"])
            update.require("attempt", before["attempt"])
        return {"Update": update.build()}

    def _end_attempt(self, attempt: AttemptRow) -> dict[str, Any]:
        names = ("state", "ended_at", "evidence", "verdicts", "expires_at")
        return self._end(attempt_item(attempt), AttemptState.OPEN, names)

    def _end_request(self, request: RequestRow) -> dict[str, Any]:
        return self._end(request_item(request), RequestState.OPEN, ("state", "letters", "closed_at", "expires_at"))

    def _end(self, item: Item, expected: str, names: Sequence[str]) -> dict[str, Any]:
        update = UpdateExpression(self._table, item["pk"])
        for name in names:
            if name in item:
                update.set(name, item[name])
        for name in ("open_kind", "open_at"):
            if name not in item:
                update.remove(name)
        update.require("state", {"S": expected})
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
            "TableName": self._table,
            "Item": item,
            "ConditionExpression": condition,
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }

    def _transact(self, actions: Sequence[dict[str, Any]]) -> list[dict[str, Any]] | None:
        """Write all or nothing; return the reasons if a condition failed. Conflicts and throttling are waited out."""
        for round_ in range(_TRIES):
            try:
                self._client.transact_write_items(TransactItems=cast("Any", actions))
                return None
            except ClientError as error:
                code = error.response["Error"]["Code"]
                reasons: list[dict[str, Any]] = cast("Any", error.response).get("CancellationReasons", [])
                if any(reason["Code"] == _CONDITION_FAILED for reason in reasons):
                    return reasons
                codes = {reason["Code"] for reason in reasons} - {"None"} or {code}
                if not codes <= _PASSING:
                    raise LedgerUnavailable(code) from error
            except BotoCoreError as error:
                raise LedgerUnavailable(type(error).__name__) from error
            self._pause(round_)
        raise LedgerUnavailable("TransactionConflict")

    def _write(self, action: dict[str, Any]) -> Item | None:
        """Make one update alone; return the item as it is if it is not as its writer saw it ({} if it is gone)."""
        for round_ in range(_TRIES):
            try:
                self._client.update_item(**action["Update"])
                return None
            except ClientError as error:
                code = error.response["Error"]["Code"]
                if code == "ConditionalCheckFailedException":
                    found: Item = cast("Any", error.response).get("Item", {})
                    return found
                if code not in _PASSING:
                    raise LedgerUnavailable(code) from error
            except BotoCoreError as error:
                raise LedgerUnavailable(type(error).__name__) from error
            self._pause(round_)
        raise LedgerUnavailable("TransactionConflict")

    def _batch_get(self, keys: Sequence[str]) -> Iterator[Item]:
        pending = [{"pk": {"S": key}} for key in dict.fromkeys(keys)]
        for round_ in range(_TRIES + len(pending) // _BATCH_GET_LIMIT):
            if not pending:
                return
            now, pending = pending[:_BATCH_GET_LIMIT], pending[_BATCH_GET_LIMIT:]
            wanted: Any = {self._table: {"Keys": now, "ConsistentRead": True}}
            try:
                answer: Any = self._client.batch_get_item(RequestItems=wanted)
            except (ClientError, BotoCoreError) as error:
                raise LedgerUnavailable(type(error).__name__) from error
            yield from answer["Responses"].get(self._table, [])
            unprocessed = answer.get("UnprocessedKeys", {}).get(self._table, {}).get("Keys", [])
            if unprocessed:
                pending += unprocessed
                self._pause(round_)
        raise LedgerUnavailable("UnprocessedKeys")


def _change_set(update: UpdateExpression, name: str, old: Attribute | None, new: Attribute | None) -> None:
    had, has = set((old or {"SS": []})["SS"]), set((new or {"SS": []})["SS"])
    if has - had:
        update.add(name, {"SS": sorted(has - had)})
    if had - has:
        update.delete(name, {"SS": sorted(had - has)})


def _number(attribute: Attribute | None) -> int:
    return int(attribute["N"]) if attribute else 0
