"""What Cloudflare's search tells of messages: which windows of time to list, and what an entry shows. Pure.

Sources: Cloudflare's API reference, "Search email messages" and "Get message details". The meaning of the fields in
`judge` is documented; that `is_quarantined` turns false after a release is likely, not certain.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from quarantine_release.outcome import (
    ALERT_ID,
    ANY_ID,
    ID_CHARACTERS,
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
from quarantine_release.release_traces import hints_at_release

RELEASE: Final = "QUARANTINE_RELEASE"
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
_AROUND_TIMESTAMP: Final = timedelta(hours=1)
# The published examples show the two up to a day apart.
_AROUND_QUEUE_ID: Final = timedelta(hours=36)
# A page holds 1,000 messages: what little arrived in between costs less than one more page.
NEAR: Final = timedelta(hours=6)


@dataclass(slots=True)
class Window:
    """A stretch of time to list, and the messages that should be in it."""

    start: datetime
    end: datetime
    wanted: list[Wanted]


def time_of(message_id: MessageId, now: datetime) -> datetime | None:
    """Return when the message arrived, as far as its id tells; nothing if that is no time a search could reach."""
    at = _queued_at(message_id) if is_bare(message_id) else timestamp_of(message_id)
    return at if at is not None and now - _OLDEST < at < now + _NEWEST else None


def timestamp_of(message_id: MessageId) -> datetime | None:
    """Return the time that an alert or investigate id names, whenever that is."""
    timed = _TIMED_ID.match(message_id)
    try:
        return datetime.fromisoformat(timed.group(1)).replace(tzinfo=UTC) if timed else None
    except ValueError:
        return None


def is_undated(message_id: MessageId, now: datetime) -> bool:
    """Whether a bare id encodes no time at which it can have been made, so that nobody knows where to look for it."""
    at = _queued_at(message_id)
    return is_bare(message_id) and (at is None or not _FIRST <= at < now + _NEWEST)


def _queued_at(message_id: MessageId) -> datetime | None:
    if _SHORT_ID.match(message_id) or not set(message_id[:6]) <= set(_BASE_52):
        return None
    seconds = 0
    for character in message_id[:6]:
        seconds = seconds * len(_BASE_52) + _BASE_52.index(character)
    return datetime.fromtimestamp(seconds, UTC)


def windows_of(wanted: Iterable[Wanted], now: datetime, near: timedelta = NEAR) -> list[Window]:
    """Return the stretches of time in which to look for messages, latest first; those that are so near are one."""
    windows = []
    for one in wanted:
        at = time_of(one.message_id, now)
        around = _AROUND_QUEUE_ID if is_bare(one.message_id) else _AROUND_TIMESTAMP
        if at is not None and at - around < now:  # a search that begins in the future is refused
            windows.append(Window(at - around, min(at + around, now), [one]))
    merged: list[Window] = []
    for window in sorted(windows, key=lambda window: window.start):
        if merged and window.start <= merged[-1].end + near:
            merged[-1].end = max(window.end, merged[-1].end)
            merged[-1].wanted += window.wanted
        else:
            merged.append(window)
    return merged[::-1]


def is_partial(message_id: MessageId) -> bool:
    """Say whether an id leaves open which message it is: a postfix or an alert id, likely not one to read by path."""
    return is_bare(message_id) or ALERT_ID.match(message_id) is not None


def match(
    entries: Iterable[Mapping[str, Any]], wanted: Iterable[Wanted], evidence: Evidence
) -> dict[PostfixPart, Reading]:
    """Say what the entries show of wanted messages: by `id`, then by `postfix_id`; never one that tells another."""
    by_part: dict[PostfixPart, list[Reading]] = {}
    for entry in entries:
        told = id_of(entry)
        if told is not None:
            by_part.setdefault(postfix_part(told), []).append(Reading(judge(entry), evidence, told))
    found: dict[PostfixPart, Reading] = {}
    for one in wanted:
        for reading in by_part.get(one.part, ()):
            if reading.message_id is not None and not contradict(reading.message_id, one.message_id):
                found[one.part] = agree(found.get(one.part, reading), reading)
    return found


def agree(one: Reading, other: Reading) -> Reading:
    """Return what two entries show together: nothing clear, unless they are alike.

    Two entries with different ids do not show which message is meant. Such a reading has no id.
    """
    if one.message_id != other.message_id:
        return Reading(Seen.UNCLEAR, other.evidence)
    return one if one.seen is other.seen else replace(other, seen=Seen.UNCLEAR)


def id_of(entry: Mapping[str, Any]) -> MessageId | None:
    """Return the id of an entry: its `id`, else its `postfix_id`; None for one that may have two keys."""
    for value in (entry.get("id"), entry.get("postfix_id")):
        if isinstance(value, str) and ID_CHARACTERS.match(value):
            return MessageId(value) if ANY_ID.match(value) else None
    return None


def parts_named(entry: Mapping[str, Any]) -> set[PostfixPart]:
    """Return the messages that an entry may be about, by any of its ids."""
    names = [entry.get(name) for name in ("id", "postfix_id", "alert_id")]
    return {postfix_part(MessageId(name)) for name in names if isinstance(name, str) and ID_CHARACTERS.match(name)}


def judge(entry: Mapping[str, Any]) -> Seen:
    """Return what an entry of the search, or a message's details, show.

    A listed operation proves a release only of a message that is no longer held, because the operation may have failed.
    A held message is QUARANTINED only if no field speaks against it. A contradiction is UNCLEAR.
    """
    held, operations = entry.get("is_quarantined"), entry.get("post_delivery_operations")
    if held is False and isinstance(operations, list) and RELEASE in operations:
        return Seen.RELEASED
    return Seen.QUARANTINED if held is True and not hints_at_release(entry) else Seen.UNCLEAR


def dicts(value: Any) -> list[dict[str, Any]]:
    """Return the objects in a list, or the one object that stands in its place."""
    return [entry for entry in _list(value) if isinstance(entry, dict)]


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
