"""What Cloudflare's search tells of messages: which windows of time to list, and what an entry shows. Pure.

Sources: Cloudflare's API reference, "Search email messages", "Get message details" and "Get email action log"; the
meaning of the fields in `judge` is documented, that `is_quarantined` turns false upon release is likely, not certain.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from quarantine_release.outcome import (
    ANY_ID,
    Evidence,
    MessageId,
    PostfixPart,
    Reading,
    Seen,
    Wanted,
    contradict,
    is_bare,
    postfix_part,
)

Window = tuple[datetime, datetime]

RELEASE: Final = "QUARANTINE_RELEASE"
_TIMED_ID: Final = re.compile(r"\A[A-Za-z0-9]{10,24}-(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:-|\Z)", re.ASCII)
# Long queue ids begin with the seconds since 1970 in base 52 (Postfix configuration parameters, enable_long_queue_ids).
_BASE_52: Final = "0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz"
_AROUND_TIMESTAMP: Final = timedelta(hours=1)
# The published examples show the two up to a day apart.
_AROUND_QUEUE_ID: Final = timedelta(hours=36)


def time_of(message_id: MessageId, now: datetime) -> datetime | None:
    """Return when the message arrived, as far as its id tells."""
    timed = _TIMED_ID.match(message_id)
    if timed:
        try:
            return datetime.fromisoformat(timed.group(1)).replace(tzinfo=UTC)
        except ValueError:
            return None
    if not is_bare(message_id) or not set(message_id[:6]) <= set(_BASE_52):
        return None
    seconds = 0
    for character in message_id[:6]:
        seconds = seconds * len(_BASE_52) + _BASE_52.index(character)
    at = datetime.fromtimestamp(seconds, UTC)
    return at if now - timedelta(days=366) < at < now + timedelta(days=1) else None


def windows_of(wanted: Iterable[Wanted], now: datetime) -> list[Window]:
    """Return the stretches of time in which to look for messages, merged where they meet, latest first."""
    windows: list[Window] = []
    for one in wanted:
        at = time_of(one.message_id, now)
        if at is not None:
            around = _AROUND_QUEUE_ID if is_bare(one.message_id) else _AROUND_TIMESTAMP
            windows.append((at - around, min(at + around, now)))
    merged: list[Window] = []
    for start, end in sorted(windows):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged[::-1]


def match(entries: Sequence[Mapping[str, Any]], wanted: Iterable[Wanted]) -> dict[PostfixPart, Mapping[str, Any]]:
    """Find the entries of wanted messages: by `id`, then by `postfix_id`; never one that tells another message.

    A message with several entries that contradict one another is not found at all.
    """
    by_part: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        told = id_of(entry)
        if told is not None:
            by_part.setdefault(postfix_part(told), []).append(entry)
    found = {}
    for one in wanted:
        own = [entry for entry in by_part.get(one.part, ()) if not _tells_another(entry, one.message_id)]
        ids = {id_of(entry) for entry in own}
        if len(ids) == 1:
            found[one.part] = max(own, key=lambda entry: judge(entry) is Seen.RELEASED)
    return found


def id_of(entry: Mapping[str, Any]) -> MessageId | None:
    """Return the id of an entry: its `id`, else its `postfix_id`."""
    for value in (entry.get("id"), entry.get("postfix_id")):
        if isinstance(value, str) and ANY_ID.match(value):
            return MessageId(value)
    return None


def judge(entry: Mapping[str, Any]) -> Seen:
    """Say what an entry of the search, or a message's details, show."""
    operations = entry.get("post_delivery_operations")
    if isinstance(operations, list) and RELEASE in operations:
        return Seen.RELEASED
    return Seen.QUARANTINED if entry.get("is_quarantined") is True else Seen.UNCLEAR


def was_released_since(log: Sequence[Mapping[str, Any]], since: datetime | None) -> bool:
    """Say whether an action log holds a release that worked and, with `since`, began after it."""
    for action in log:
        if action.get("operation") != RELEASE or action.get("success") is not True:
            continue
        if since is None:
            return True
        try:
            began = datetime.fromisoformat(str(action.get("started_at")))
        except ValueError:
            continue
        if began.tzinfo is not None and began >= since:
            return True
    return False


def reading_of(entry: Mapping[str, Any], evidence: Evidence) -> Reading:
    """Return what an entry shows as a reading."""
    return Reading(judge(entry), evidence, id_of(entry))


def _tells_another(entry: Mapping[str, Any], message_id: MessageId) -> bool:
    told = id_of(entry)
    return told is not None and contradict(told, message_id)
