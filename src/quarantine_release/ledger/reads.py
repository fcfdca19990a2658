"""What is read of the ledger: rows by their keys, consistently, and what the open index says is due. Writes nothing.

A row that cannot be read is reported and left out; but a message stands there as UNREADABLE, because a message that is
left out would count as absent. A single row that everything depends on raises RowUnreadable.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TypeVar

from quarantine_release.domain.call_limit import AccountRow
from quarantine_release.domain.facts import Facts, unclear
from quarantine_release.domain.ids import (
    AccountId,
    AttemptId,
    MessageId,
    OperationId,
    PostfixPart,
    RequestId,
    is_header,
    message_key,
)
from quarantine_release.domain.ledger_errors import RowUnreadable
from quarantine_release.domain.lookup import Kept
from quarantine_release.domain.operation_rows import OperationRow, list_operations, select_orders
from quarantine_release.domain.rows import AttemptRow, MessageRow, RequestRow, RequestState
from quarantine_release.domain.states import State
from quarantine_release.domain.unreadable import UnreadableRequest, unreadable
from quarantine_release.ledger.account_row import account_row
from quarantine_release.ledger.codecs import Item
from quarantine_release.ledger.items import (
    attempt_row,
    facts_apart,
    kept,
    message_row,
    operation_row,
    request_row,
    unclaimed,
)
from quarantine_release.ledger.keys import (
    account_key,
    alias_key,
    attempt_key,
    operation_key,
    request_key,
    unclaimed_key,
)
from quarantine_release.ledger.table import Table
from quarantine_release.releasing.ports import LedgerSnapshot

Row = TypeVar("Row")

Label = TypeVar("Label", bound=str)


class LedgerReads:
    """The ledger to those who only look. `report` is called for every row that is met and cannot be read."""

    def __init__(self, table: Table, report: Callable[[RowUnreadable], None] = lambda _: None) -> None:
        self._table = table
        self._report = report

    def messages(self, account_id: AccountId, parts: Sequence[PostfixPart]) -> dict[PostfixPart, MessageRow]:
        """Read messages by their postfix parts, 100 a round trip; absent ones alone are left out."""
        # A Message-ID stands in the place of the part of a message that is not found yet.
        keys = [message_key(account_id, part) for part in parts if not is_header(MessageId(part))]
        rows = map(self._message, self._table.read(keys))
        return {row.part: row for row in rows}

    def attempts(self, account_id: AccountId, attempts: Sequence[AttemptId]) -> list[AttemptRow]:
        """Read attempts, oldest first; those that are absent or cannot be read are left out."""
        items = self._table.read([attempt_key(account_id, attempt) for attempt in attempts])
        return sorted(self._readable(items, attempt_row), key=lambda row: row.attempt)

    def requests(self, request_ids: Sequence[RequestId]) -> dict[RequestId, RequestRow]:
        """Read requests, 100 a round trip; those that are absent or cannot be read are left out."""
        rows = self.find_requests(request_ids)
        return {request_id: row for request_id, row in rows.items() if isinstance(row, RequestRow)}

    def find_requests(self, request_ids: Sequence[RequestId]) -> dict[RequestId, RequestRow | UnreadableRequest]:
        """Read requests, 100 a round trip; absent ones alone are left out."""
        rows: dict[RequestId, RequestRow | UnreadableRequest] = {}
        for item in self._table.read([request_key(request_id) for request_id in request_ids]):
            row = next(self._readable([item], request_row), None) or _unreadable_request(item)
            rows[row.request_id] = row
        return rows

    def operations(self, account_id: AccountId, operations: Sequence[OperationId]) -> list[OperationRow]:
        """Read operations, oldest first; those that are absent or cannot be read are left out."""
        items = self._table.read([operation_key(account_id, operation) for operation in operations])
        return sorted(self._readable(items, operation_row), key=lambda row: row.operation)

    def operations_met(
        self, account_id: AccountId, row: MessageRow | None, requests: Collection[RequestRow]
    ) -> list[OperationRow]:
        """Read what people have changed about a message, and the pauses that its requests may have met, oldest first.

        Of the pauses as many as the account's row names. Two round trips at most.
        """
        changes = list_operations(row, requests)
        orders: tuple[OperationId, ...] = ()
        with suppress(RowUnreadable):  # what was changed about the message itself is shown all the same
            orders = self.account(account_id).operations
        operations = self.operations(account_id, [*changes, *orders])
        pauses = select_orders(requests, [operation for operation in operations if operation.operation not in changes])
        return [operation for operation in operations if operation.operation in changes or operation in pauses]

    def account(self, account_id: AccountId) -> AccountRow:
        """Read an account. Raises RowUnreadable."""
        item = next(self._table.read([account_key(account_id)]), None)
        return self._reported(item, account_row) if item else AccountRow()

    def under_review(self, until: datetime, limit: int) -> list[MessageRow]:
        """Read the messages that need review since then or longer, at most so many of each shard, oldest first."""
        rows = self._open("M", until, limit, message_row)
        return sorted((row for row in rows if row.state is State.NEEDS_REVIEW), key=lambda row: row.updated_at)

    def open_attempts(self, until: datetime, limit: int) -> list[AttemptRow]:
        """Read the open attempts that are due by then, at most so many of each shard of the index, oldest first."""
        return sorted(self._open("T", until, limit, attempt_row), key=lambda row: row.attempt)

    def open_requests(self, until: datetime, limit: int) -> list[RequestRow]:
        """Read the open requests that are due by then, at most so many of each shard of the index, oldest first."""
        rows = self._open("R", until, limit, request_row)
        return sorted((row for row in rows if row.state is RequestState.OPEN), key=lambda row: row.created_at)

    def unclaimed(self, account_id: AccountId, part: PostfixPart) -> frozenset[RequestId]:
        """Read who asked for a message without a claim; nobody, if that cannot be read."""
        items = self._table.read([unclaimed_key(account_id, part)])
        return next(self._readable(items, unclaimed), frozenset())

    def known(
        self,
        account_id: AccountId,
        request_id: RequestId | None,
        parts: Sequence[PostfixPart],
        questions: Sequence[str],
        read_before: Sequence[PostfixPart] = (),
    ) -> LedgerSnapshot:
        """Read what is known of a request, its messages and its questions, in one round trip for up to 100 rows.

        Answers that cannot be read are left out, but facts stand there as unclear: what is left out would count as
        never read. Raises RowUnreadable if it is the request.
        """
        requests = {request_key(request_id): request_id} if request_id is not None else {}
        messages = {message_key(account_id, part): part for part in parts if not is_header(MessageId(part))}
        aliases = {alias_key(account_id, question): question for question in questions}
        apart = {unclaimed_key(account_id, part): part for part in read_before}
        items = {item["pk"]["S"]: item for item in self._table.read([*messages, *aliases, *requests, *apart])}
        return LedgerSnapshot(
            next(iter(_decoded(items, requests, self._request).values()), None),
            _decoded(items, messages, self._message),
            _decoded(items, aliases, self._answer),
            _decoded(items, apart, self._facts),
        )

    def _message(self, item: Item) -> MessageRow:
        try:
            return message_row(item)
        except RowUnreadable as error:
            self._report(error)
            _, account_id, part = error.key.split("#")
            return unreadable(AccountId(account_id), PostfixPart(part))

    def _request(self, item: Item) -> RequestRow:
        return self._reported(item, request_row)

    def _answer(self, item: Item) -> Kept | None:
        return next(self._readable([item], kept), None)

    def _facts(self, item: Item) -> Facts | None:
        try:
            return self._reported(item, facts_apart)
        except RowUnreadable as error:
            _, _, part = error.key.split("#")
            return unclear(MessageId(part), datetime.max.replace(tzinfo=UTC))  # no other reading is later

    def _reported(self, item: Item, decode: Callable[[Item], Row]) -> Row:
        try:
            return decode(item)
        except RowUnreadable as error:
            self._report(error)
            raise

    def _readable(self, items: Iterable[Item], decode: Callable[[Item], Row]) -> Iterator[Row]:
        for item in items:
            with suppress(RowUnreadable):
                yield self._reported(item, decode)

    def _open(self, kind: str, until: datetime, limit: int, decode: Callable[[Item], Row]) -> list[Row]:
        """Read open rows, one page of each shard of the index, and more behind what cannot be read.

        Nobody moves a row that cannot be read, so it keeps its place at the head of the index: it must not hide others.
        """
        rows: list[Row] = []
        shards = self._table.due(kind, until, limit)
        while shards:
            pages = [(shard, keys) for shard in shards if (keys := next(shard, []))]
            hidden = set()
            for item in self._table.read([key for _, keys in pages for key in keys]):
                try:
                    rows.append(self._reported(item, decode))
                except RowUnreadable as error:
                    hidden.add(error.key)
            shards = [shard for shard, keys in pages if not hidden.isdisjoint(keys)]
        return rows


def _unreadable_request(item: Item) -> UnreadableRequest:
    client, account_id = (item.get(name, {}).get("S") for name in ("client", "account_id"))
    request_id = RequestId(item["pk"]["S"].split("#")[1])
    return UnreadableRequest(request_id=request_id, client=client, account_id=account_id)


def _decoded(
    items: Mapping[str, Item], labels: Mapping[str, Label], decode: Callable[[Item], Row | None]
) -> dict[Label, Row]:
    """Return what is there and can be read, by the label of its key."""
    rows = {label: decode(items[key]) for key, label in labels.items() if key in items}
    return {label: row for label, row in rows.items() if row is not None}
