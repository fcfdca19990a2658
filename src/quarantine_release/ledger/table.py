"""One DynamoDB table: transactions, single writes, reads and the open index, and what may be waited out.

The only caller of DynamoDB's API; what the rows mean is the ledger's. A condition that does not hold is a value here;
every other failure is LedgerUnavailable, which tells DynamoDB's error code and no more.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from botocore.exceptions import BotoCoreError, ClientError

from quarantine_release.domain.ledger_errors import LedgerContended, LedgerUnavailable
from quarantine_release.ledger.codecs import Item
from quarantine_release.ledger.keys import OPEN_SHARDS, open_at

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

Label = TypeVar("Label", bound=Hashable)

# Actions in one transaction.
TRANSACTION_LIMIT: Final = 100

_BATCH_GET_LIMIT: Final = 100
_TRIES: Final = 8
# Tries of a write that others delay and never refuse: about two seconds.
_PATIENT_TRIES: Final = 20
# Tries of a transaction that can be done without: each holds rows that others need.
FEW_TRIES: Final = 2

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


class Table:
    """One table, which puts its name to every write. `pause` waits before another try, given how many there were."""

    def __init__(self, client: "DynamoDBClient", name: str, pause: Callable[[int], None]) -> None:
        self._client = client
        self._name = name
        self._pause = pause

    def transact(self, actions: Mapping[Label, dict[str, Any]], tries: int = _TRIES) -> dict[Label, Item] | None:
        """Write all or nothing. Return the items whose conditions failed, by the label of the action ({}: absent).

        None if all was written. Conflicts and throttling are waited out. Raises LedgerContended if they outlast the
        tries.
        """
        named = [
            {kind: {"TableName": self._name, **members} for kind, members in action.items()}
            for action in actions.values()
        ]
        for round_ in range(tries):
            try:
                self._client.transact_write_items(TransactItems=cast("Any", named))
                return None
            except ClientError as error:
                code = error.response["Error"]["Code"]
                reasons: list[dict[str, Any]] = cast("Any", error.response).get("CancellationReasons", [])
                refused = _refused(actions, reasons)
                if refused:
                    return refused
                codes = {reason["Code"] for reason in reasons} - {"None"} or {code}
                if not codes <= _PASSING:
                    raise LedgerContended(code) from error
            except BotoCoreError as error:
                raise LedgerUnavailable(type(error).__name__) from error
            self._pause(round_)
        raise LedgerContended("TransactionConflict")

    def write(self, action: dict[str, Any]) -> Item | None:
        """Make one update alone; return the item as it is if it is not as its writer saw it ({} if it is gone)."""
        for round_ in range(_TRIES):
            try:
                self._client.update_item(TableName=self._name, **action["Update"])
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

    def write_all(self, updates: Sequence[dict[str, Any]]) -> set[int]:
        """Make updates that have nothing to do with one another, each if it may, in as few round trips as possible.

        Return the positions of those that were refused.
        """
        refused = set()
        for start in range(0, len(updates), TRANSACTION_LIMIT):
            batch = dict(enumerate(updates[start : start + TRANSACTION_LIMIT], start))
            with suppress(LedgerContended):
                if len(batch) > 1 and self.transact(batch) is None:
                    continue
            refused |= {position for position, update in batch.items() if self.write(update) is not None}
        return refused

    def change(self, update: dict[str, Any]) -> Item:
        """Make one update that has no condition but the version, and return what the item is then.

        Repeated, it counts twice, so only conflicts are waited out, which change nothing. An item of a newer version
        is returned as it is.
        """
        for round_ in range(_PATIENT_TRIES):
            try:
                answer: Any = self._client.update_item(TableName=self._name, **update, ReturnValues="ALL_NEW")
            except ClientError as error:
                if "Item" in error.response:
                    found: Item = cast("Any", error.response)["Item"]
                    return found
                if error.response["Error"]["Code"] not in _PASSING:
                    raise LedgerUnavailable(type(error).__name__) from error
            except BotoCoreError as error:
                raise LedgerUnavailable(type(error).__name__) from error
            else:
                item: Item = answer["Attributes"]
                return item
            self._pause(round_)
        raise LedgerUnavailable("TransactionConflict")

    def read(self, keys: Sequence[str]) -> Iterator[Item]:
        pending = [{"pk": {"S": key}} for key in dict.fromkeys(keys)]
        for round_ in range(_TRIES + len(pending) // _BATCH_GET_LIMIT):
            if not pending:
                return
            now, pending = pending[:_BATCH_GET_LIMIT], pending[_BATCH_GET_LIMIT:]
            wanted: Any = {self._name: {"Keys": now, "ConsistentRead": True}}
            try:
                answer: Any = self._client.batch_get_item(RequestItems=wanted)
            except (ClientError, BotoCoreError) as error:
                raise LedgerUnavailable(type(error).__name__) from error
            yield from answer["Responses"].get(self._name, [])
            unprocessed = answer.get("UnprocessedKeys", {}).get(self._name, {}).get("Keys", [])
            if unprocessed:
                pending += unprocessed
                self._pause(round_)
        raise LedgerUnavailable("UnprocessedKeys")

    def due(self, kind: str, until: datetime, limit: int) -> list[Iterator[list[str]]]:
        """Return the pages of each shard of the open index: keys, oldest first, so many a page, read when asked for.

        The index lags: only the rows themselves tell what is so.
        """
        return [self._pages(f"{kind}#{shard}", until, limit) for shard in range(OPEN_SHARDS)]

    def _pages(self, open_kind: str, until: datetime, limit: int) -> Iterator[list[str]]:
        following: Any = {}
        while True:
            try:
                answer: Any = self._client.query(
                    TableName=self._name,
                    IndexName="open-index",
                    KeyConditionExpression="open_kind = :kind AND open_at <= :until",
                    ExpressionAttributeValues={":kind": {"S": open_kind}, ":until": open_at(until)},
                    Limit=limit,
                    **following,
                )
            except (ClientError, BotoCoreError) as error:
                raise LedgerUnavailable(type(error).__name__) from error
            yield [item["pk"]["S"] for item in answer["Items"]]
            if "LastEvaluatedKey" not in answer:
                return
            following = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}


def _refused(labels: Iterable[Label], reasons: Iterable[Mapping[str, Any]]) -> dict[Label, Item]:
    """Return the items whose conditions failed, by the label of the action."""
    named = zip(labels, reasons, strict=False)
    return {label: reason.get("Item", {}) for label, reason in named if reason["Code"] == _CONDITION_FAILED}
