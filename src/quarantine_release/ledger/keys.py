"""Under which key each row of the ledger lies, and where an open one stands in the index of what is open. Pure."""

import zlib
from datetime import datetime
from hashlib import sha256
from typing import Final

from quarantine_release.domain.ids import AccountId, AttemptId, OperationId, PostfixPart, RequestId
from quarantine_release.ledger.codecs import MILLISECONDS, Attribute, Item

OPEN_SHARDS: Final = 4


def attempt_key(account_id: AccountId, attempt: AttemptId) -> str:
    """Return the partition key of an attempt."""
    return f"T#{account_id}#{attempt}"


def request_key(request_id: RequestId) -> str:
    """Return the partition key of a request."""
    return f"R#{request_id}"


def alias_key(account_id: AccountId, question: str) -> str:
    """Return the partition key of what a question for a message was answered; the question itself is not kept."""
    return f"I#{account_id}#{sha256(question.encode()).hexdigest()}"


def unclaimed_key(account_id: AccountId, part: PostfixPart) -> str:
    """Return the partition key of who asked for a message without a claim."""
    return f"N#{account_id}#{part}"


def account_key(account_id: AccountId) -> str:
    """Return the partition key of an account."""
    return f"A#{account_id}"


def operation_key(account_id: AccountId, operation: OperationId) -> str:
    """Return the partition key of an operation."""
    return f"O#{account_id}#{operation}"


def open_kind(key: Attribute) -> Attribute:
    """Return the partition of the open index in which a row stands: by the kind of its key, over a few shards."""
    kind, _, name = key["S"].partition("#")
    return {"S": f"{kind}#{zlib.crc32(name.encode()) % OPEN_SHARDS}"}


def open_at(at: datetime) -> Attribute:
    """Return from when on an open row is due."""
    return MILLISECONDS.encode(at)


def open_index(key: Attribute, at: datetime) -> Item:
    """Return the attributes of the open index, for a row that is due from then on."""
    return {"open_kind": open_kind(key), "open_at": open_at(at)}
