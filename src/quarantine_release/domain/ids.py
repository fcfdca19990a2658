"""Ids of messages, requests and accounts: their shapes, the time in them, and the key of a message. Pure.

Imports nothing of ours.
"""

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final, NewType

AccountId = NewType("AccountId", str)
MessageId = NewType("MessageId", str)
PostfixPart = NewType("PostfixPart", str)
RequestId = NewType("RequestId", str)
AttemptId = NewType("AttemptId", str)
OperationId = NewType("OperationId", str)

# Read off Cloudflare's published examples (API reference, email-security/investigate): no pattern is specified.
POSTFIX_ID: Final = re.compile(r"\A[A-Za-z0-9]{10,24}\Z")
ALERT_ID: Final = re.compile(r"\A[A-Za-z0-9]{10,24}-\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\Z", re.ASCII)
ID_CHARACTERS: Final = re.compile(r"\A[A-Za-z0-9._:-]{8,128}\Z")
# The ledger could know a message by two keys if a Postfix id of another length counted: one key for the bare id, and
# one for each id that has a timestamp. So a leading run of 10 to 24 is the only one that may be alone or before one.
ANY_ID: Final = re.compile(
    r"\A(?!([A-Za-z0-9]{0,9}|[A-Za-z0-9]{25,})(\Z|-[0-9]{4}-[0-9]{2}-[0-9]{2}T))[A-Za-z0-9._:-]{8,128}\Z"
)
# A Message-ID as the sender wrote it, in its angle brackets (RFC 5322, section 3.6.4, and what senders make of it).
HEADER_ID: Final = re.compile(r"\A<[\x21-\x3b\x3d\x3f-\x7e]{1,250}>\Z")

ACCOUNT_ID: Final = re.compile(r"\A[0-9a-f]{32}\Z")

REQUEST_ID: Final = re.compile(r"\Arq_[a-z2-7]{26}\Z")
_LEADING_POSTFIX_ID: Final = re.compile(r"\A[A-Za-z0-9]{10,24}(?![A-Za-z0-9])")


@lru_cache(maxsize=4096)
def postfix_part(message_id: MessageId) -> PostfixPart:
    """Return the part of an id that names the message whatever shape the caller used: the ledger's key.

    It is the key of every shape only for ids that `has_one_key` accepts.
    """
    leading = None if is_header(message_id) else _LEADING_POSTFIX_ID.match(message_id)
    return PostfixPart(leading.group() if leading else message_id)


def is_header(message_id: MessageId) -> bool:
    """Return whether an id is a Message-ID. Only a search tells which message it means."""
    return message_id.startswith("<") or "@" in message_id


def is_bare(message_id: MessageId) -> bool:
    """Return whether an id is a bare Postfix id, without timestamp and digits."""
    return POSTFIX_ID.match(message_id) is not None


def contradict(one: MessageId, other: MessageId) -> bool:
    """Return whether two ids with one Postfix part name different messages: they differ in timestamp or digits."""
    if is_bare(one) or is_bare(other):
        return False
    shorter, longer = sorted((one, other))  # what an id begins with comes before it
    return longer != shorter and not longer.startswith(f"{shorter}-")


def fullest(ids: Iterable[MessageId]) -> MessageId:
    """Return the id that says most of its message: the longest."""
    return max(ids, key=len)


def message_key(account_id: AccountId, part: PostfixPart) -> str:
    """Return the partition key of a message."""
    return f"M#{account_id}#{part}"


_TIMED_ID: Final = re.compile(r"\A[A-Za-z0-9]{10,24}-(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:-|\Z)", re.ASCII)
# Long queue ids begin with the seconds since 1970 in base 52 (Postfix configuration parameters, enable_long_queue_ids).
_BASE_52: Final = "0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz"

# Short ones are upper-case hexadecimal: microseconds and inode. Long ones have a "z" after ten characters.
_SHORT_ID: Final = re.compile(r"\A[0-9A-F]+\Z")

# Cloudflare's search goes back 12 months at most; and clocks differ.
_OLDEST: Final = timedelta(days=366)
_NEWEST: Final = timedelta(days=1)
# Postfix 2.9, the first version with long queue ids. What looks like an earlier time is a short id, which tells none.
_FIRST: Final = datetime(2012, 1, 1, tzinfo=UTC)


def decode_time(message_id: MessageId, now: datetime) -> datetime | None:
    """Return when the message arrived, as far as its id tells; nothing if that is no time a search could reach."""
    at = _queued_at(message_id) if is_bare(message_id) else decode_timestamp(message_id)
    return at if at is not None and now - _OLDEST < at < now + _NEWEST else None


def decode_timestamp(message_id: MessageId) -> datetime | None:
    """Return the time that an alert or investigate id names, whenever that is."""
    timed = _TIMED_ID.match(message_id)
    try:
        return datetime.fromisoformat(timed.group(1)).replace(tzinfo=UTC) if timed else None
    except ValueError:
        return None


def is_undated(message_id: MessageId, now: datetime) -> bool:
    """Return whether a bare id encodes no time at which it can have been made, so no list can be searched for it."""
    at = _queued_at(message_id)
    return is_bare(message_id) and (at is None or not _FIRST <= at < now + _NEWEST)


def _queued_at(message_id: MessageId) -> datetime | None:
    if _SHORT_ID.match(message_id) or not set(message_id[:6]) <= set(_BASE_52):
        return None
    seconds = 0
    for character in message_id[:6]:
        seconds = seconds * len(_BASE_52) + _BASE_52.index(character)
    return datetime.fromtimestamp(seconds, UTC)


def is_partial(message_id: MessageId) -> bool:
    """Return whether an id leaves open which message it is: a Postfix or alert id, likely not one to read by path."""
    return is_bare(message_id) or ALERT_ID.match(message_id) is not None
