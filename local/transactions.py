"""DynamoDB refuses a write to a row that a transaction under way names. moto does not know this, so it is added here.

Developer guide, "Amazon DynamoDB Transactions: How it works", "Transaction conflict handling". Reads are not refused.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

NAMESPACE = "com.amazonaws.dynamodb.v20120810"
SINGLE_WRITES = ("PutItem", "UpdateItem", "DeleteItem")
ONGOING = "Transaction is ongoing for the item"

Key = tuple[str, str]


class Transactions:
    """The rows that transactions under way name. `hash_keys` names the key attribute of each table."""

    def __init__(self, hash_keys: Mapping[str, str]) -> None:
        self._hash_keys = hash_keys
        self._lock = threading.Lock()
        self._rows: set[Key] = set()

    @contextmanager
    def while_executing(self, operation: str, body: Mapping[str, Any]) -> Iterator[bytes | None]:
        """Hold the rows that a transaction names; give the body of a 400 if a write must be refused instead."""
        is_transaction = operation == "TransactWriteItems"
        writes = (
            [write for action in body["TransactItems"] for write in action.values()]
            if is_transaction
            else [body] * (operation in SINGLE_WRITES)
        )
        keys = [self._key(write) for write in writes]
        with self._lock:
            taken = [key in self._rows for key in keys]
            held = set(keys) if is_transaction and not any(taken) else set()
            self._rows |= held
        try:
            yield _refusal(taken, is_transaction=is_transaction) if any(taken) else None
        finally:
            with self._lock:
                self._rows -= held

    def _key(self, write: Mapping[str, Any]) -> Key:
        key = (write.get("Item") or write["Key"])[self._hash_keys[write["TableName"]]]
        return write["TableName"], json.dumps(key)


def _refusal(taken: list[bool], *, is_transaction: bool) -> bytes:
    if not is_transaction:
        return json.dumps({"__type": f"{NAMESPACE}#TransactionConflictException", "message": ONGOING}).encode()
    conflict, none = {"Code": "TransactionConflict", "Message": ONGOING}, {"Code": "None"}
    reasons = [conflict if is_taken else none for is_taken in taken]
    codes = ", ".join(reason["Code"] for reason in reasons)
    return json.dumps(
        {
            "__type": f"{NAMESPACE}#TransactionCanceledException",
            "Message": f"Transaction cancelled, please refer cancellation reasons for specific reasons [{codes}]",
            "CancellationReasons": reasons,
        }
    ).encode()
