"""What is read of the ledger: rows by their keys, consistently, and what the open index says is due. Writes nothing."""

from collections.abc import Collection, Sequence
from datetime import datetime

from quarantine_release.allowance import AccountRow
from quarantine_release.ledger_account import account_row
from quarantine_release.ledger_items import attempt_row, kept, message_row, operation_row, request_row
from quarantine_release.ledger_keys import (
    account_key,
    alias_key,
    attempt_key,
    message_key,
    operation_key,
    request_key,
    unclaimed_key,
)
from quarantine_release.outcome import (
    AccountId,
    AttemptId,
    MessageId,
    OperationId,
    PostfixPart,
    RequestId,
    State,
    is_header,
)
from quarantine_release.ports import Known
from quarantine_release.table import Table
from quarantine_release.trace import (
    AttemptRow,
    MessageRow,
    OperationRow,
    RequestRow,
    RequestState,
    met_by,
    operations_of,
)


class LedgerReads:
    """The ledger to those who only look."""

    def __init__(self, table: Table) -> None:
        self._table = table

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

    def operations_met(
        self, account_id: AccountId, row: MessageRow | None, requests: Collection[RequestRow]
    ) -> list[OperationRow]:
        """Read what people have changed about a message, and the pauses that its requests may have met, oldest first.

        Of the pauses as many as the account's row names. Two round trips at most.
        """
        own = operations_of(row, requests)
        found = self.operations(account_id, [*own, *self.account(account_id).operations])
        met = met_by(requests, [each for each in found if each.operation not in own])
        return [each for each in found if each.operation in own or each in met]

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
                answers[aliases[key]] = kept(item)
            elif key.startswith("R#"):
                request = request_row(item)
            else:
                row = message_row(item)
                messages[row.part] = row
        return Known(request, messages, answers)
