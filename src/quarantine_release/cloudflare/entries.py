"""What one entry of Cloudflare's search, or a message's details, say of a message. Pure.

Sources: Cloudflare's API reference, "Search email messages" and "Get message details". The meaning of the fields in
`shown_state` is documented; that `is_quarantined` turns false after a release is likely, not certain.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from quarantine_release.cloudflare.release_traces import as_list, hints_at_release
from quarantine_release.domain.details import Details
from quarantine_release.domain.ids import (
    ANY_ID,
    ID_CHARACTERS,
    MessageId,
    PostfixPart,
    contradict,
    decode_time,
    decode_timestamp,
    postfix_part,
)
from quarantine_release.domain.verdicts import Evidence, ReadBack, ReadBackTarget, Seen

RELEASE: Final = "QUARANTINE_RELEASE"


def match(
    entries: Iterable[Mapping[str, Any]], wanted: Iterable[ReadBackTarget], evidence: Evidence
) -> dict[PostfixPart, ReadBack]:
    """Return what the entries show of wanted messages: by `id`, then by `postfix_id`, never by another's id."""
    by_part: dict[PostfixPart, list[ReadBack]] = {}
    for entry in entries:
        entry_id = id_of(entry)
        if entry_id is not None:
            by_part.setdefault(postfix_part(entry_id), []).append(ReadBack(shown_state(entry), evidence, entry_id))
    found: dict[PostfixPart, ReadBack] = {}
    for one in wanted:
        for reading in by_part.get(one.part, ()):
            if reading.message_id is not None and not contradict(reading.message_id, one.message_id):
                found[one.part] = agree(found.get(one.part, reading), reading)
    return found


def agree(one: ReadBack, other: ReadBack) -> ReadBack:
    """Return what two entries show together: nothing clear, unless they are alike.

    Two entries with different ids do not show which message is meant. Such a reading has no id.
    """
    if one.message_id != other.message_id:
        return ReadBack(Seen.UNCLEAR, other.evidence)
    return one if one.seen is other.seen else replace(other, seen=Seen.UNCLEAR)


def id_of(entry: Mapping[str, Any]) -> MessageId | None:
    """Return the id of an entry: its `id`, else its `postfix_id`; None for one that may have two keys."""
    for value in (entry.get("id"), entry.get("postfix_id")):
        if isinstance(value, str) and ID_CHARACTERS.match(value):
            return MessageId(value) if ANY_ID.match(value) else None
    return None


def names_two(entry: Mapping[str, Any]) -> bool:
    """Return whether the `id` and the `postfix_id` of an entry cannot be of one message.

    Then nothing tells which message it is about. A `postfix_id` that has the form of no id says nothing.
    """
    entry_id, postfix_id = id_of(entry), id_of({"id": entry.get("postfix_id")})
    return (
        entry_id is not None
        and postfix_id is not None
        and (postfix_part(entry_id) != postfix_part(postfix_id) or contradict(entry_id, postfix_id))
    )


def parts_named(entry: Mapping[str, Any]) -> set[PostfixPart]:
    """Return the messages that an entry may be about, by any of its ids."""
    names = [entry.get(name) for name in ("id", "postfix_id", "alert_id")]
    return {postfix_part(MessageId(name)) for name in names if isinstance(name, str) and ID_CHARACTERS.match(name)}


def shown_state(entry: Mapping[str, Any]) -> Seen:
    """Return what an entry of the search, or a message's details, show.

    A listed operation proves a release only of a message that is no longer held, because the operation may have failed.
    A held message is QUARANTINED only if no field speaks against it. A contradiction is UNCLEAR.
    """
    held = entry.get("is_quarantined")
    if held is False and _lists_release(entry):
        return Seen.RELEASED
    return Seen.QUARANTINED if held is True and not hints_at_release(entry) else Seen.UNCLEAR


def _lists_release(entry: Mapping[str, Any]) -> bool:
    operations = entry.get("post_delivery_operations")
    return isinstance(operations, list) and RELEASE in operations


def dicts(value: Any) -> list[dict[str, Any]]:
    """Return the objects in a list, or the one object that is there instead of a list."""
    return [entry for entry in as_list(value) if isinstance(entry, dict)]


# Rows and answers have limits, but the texts of senders have none: this much is kept (RFC 5322, section 2.1.1).
_TEXT_KEPT: Final = 998
_NAME_KEPT: Final = 40


def parse_details(entry: Mapping[str, Any], now: datetime) -> Details | None:
    """Read an entry of the search, or a message's details; None for what tells no id, or not whether it is held."""
    message_id, held = id_of(entry), entry.get("is_quarantined")
    if message_id is None or not isinstance(held, bool):
        return None
    return Details(
        message_id,
        is_quarantined=held,
        disposition=text_in(entry, "final_disposition", _NAME_KEPT),
        delivery_mode=text_in(entry, "delivery_mode"),
        at=min(_times(entry, message_id), default=None) or decode_time(message_id, now),
        recipients=_recipients(entry),
        sender=text_in(entry, "from") or text_in(entry, "envelope_from"),
        subject=text_in(entry, "subject"),
        is_released=not held and _lists_release(entry),
        is_doubtful=held and hints_at_release(entry),
        header=header_in(entry),
    )


def header_in(entry: Mapping[str, Any]) -> str | None:
    """Return the Message-ID of an entry without its brackets."""
    return (text_in(entry, "message_id") or "").strip("<> ") or None


def text_in(entry: Mapping[str, Any], name: str, kept: int = _TEXT_KEPT) -> str | None:
    """Return the beginning of a text in an entry; None for an empty one and for any other value."""
    value = entry.get(name)
    return value[:kept] if isinstance(value, str) and value else None


def _texts(value: Any) -> tuple[str, ...]:
    """Return a list of texts; nothing for a list that holds anything else, because it may lack a text."""
    return tuple(value) if isinstance(value, list) and all(isinstance(each, str) for each in value) else ()


def _recipients(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the recipients that either field names; none if one of the fields cannot be read."""
    lists = [_texts(value) for name in ("client_recipients", "envelope_to") if (value := entry.get(name))]
    return tuple(dict.fromkeys(recipient for some in lists for recipient in some)) if all(lists) else ()


def _times(entry: Mapping[str, Any], message_id: MessageId) -> list[datetime]:
    """Return when a message was scanned, and the time in its full id: a mail that is scanned again is not a new one."""
    times = (time_in(entry, "scanned_at"), time_in(entry, "ts"), decode_timestamp(message_id))
    return [at for at in times if at is not None]


def time_in(entry: Mapping[str, Any], name: str) -> datetime | None:
    """Return a time in an entry. One without an offset is in UTC."""
    try:
        at = datetime.fromisoformat(text_in(entry, name) or "")
    except ValueError:
        return None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
