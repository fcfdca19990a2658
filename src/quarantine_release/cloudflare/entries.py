"""What Cloudflare's search tells of messages: which windows of time to list, and what an entry shows. Pure.

Sources: Cloudflare's API reference, "Search email messages" and "Get message details". The meaning of the fields in
`judge` is documented; that `is_quarantined` turns false after a release is likely, not certain.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from quarantine_release.cloudflare.release_traces import hints_at_release
from quarantine_release.domain.details import Details, Unclear, Unreadable
from quarantine_release.domain.ids import (
    ANY_ID,
    ID_CHARACTERS,
    MessageId,
    PostfixPart,
    contradict,
    postfix_part,
    time_of,
    timestamp_of,
)
from quarantine_release.domain.lookup import Question
from quarantine_release.domain.rows import Narrowing
from quarantine_release.domain.search_rows import merged
from quarantine_release.domain.verdicts import Evidence, Reading, Seen, Wanted

RELEASE: Final = "QUARANTINE_RELEASE"


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


def names_two(entry: Mapping[str, Any]) -> bool:
    """Whether the `id` and the `postfix_id` of an entry cannot be of one message, so that nobody knows which it means.

    A `postfix_id` that has the form of no id says nothing.
    """
    told, other = id_of(entry), id_of({"id": entry.get("postfix_id")})
    return (
        told is not None
        and other is not None
        and (postfix_part(told) != postfix_part(other) or contradict(told, other))
    )


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


# Rows and answers have limits, and what senders write has none: so much of it is kept (RFC 5322, section 2.1.1).
_TEXT_KEPT: Final = 998

_NAME_KEPT: Final = 40


def details_of(entry: Mapping[str, Any], now: datetime) -> Details | None:
    """Read an entry of the search, or a message's details; None for what tells no id, or not whether it is held."""
    message_id, held = id_of(entry), entry.get("is_quarantined")
    if message_id is None or not isinstance(held, bool):
        return None
    operations = entry.get("post_delivery_operations")
    return Details(
        message_id,
        is_quarantined=held,
        disposition=_text(entry, "final_disposition", _NAME_KEPT),
        delivery_mode=_text(entry, "delivery_mode"),
        at=min(_times(entry, message_id), default=None) or time_of(message_id, now),
        recipients=_recipients(entry),
        sender=_text(entry, "from") or _text(entry, "envelope_from"),
        subject=_text(entry, "subject"),
        is_released=not held and isinstance(operations, list) and RELEASE in operations,
        is_doubtful=held and hints_at_release(entry),
        header=(_text(entry, "message_id") or "").strip("<> ") or None,
    )


def matches(
    entries: Iterable[Mapping[str, Any]], question: Question, now: datetime
) -> list[Details] | Unreadable | Unclear:
    """Return the messages that all entries of a search show for a question, or which one does not tell what it is.

    Cloudflare may match more loosely than it says, so each message must show that it is one. Entries that do not fit
    count too if they are about a message that does.
    """
    wanted = question.header.strip("<>")
    unreadable: set[MessageId] = set()
    unread: dict[MessageId, Unreadable] = {}
    told: dict[MessageId, list[tuple[Details, Mapping[str, Any]]]] = {}
    for entry in entries:
        details, message_id = details_of(entry, now), id_of(entry)
        if details is not None:
            told.setdefault(details.message_id, []).append((details, entry))
        elif (_text(entry, "message_id") or "").strip("<> ") == wanted:
            if message_id is None:
                return Unreadable.FAILED  # it may be a second match, and nobody knows which
            unread[message_id] = Unreadable.FAILED
        elif message_id is not None:
            unreadable.add(message_id)
    found = []
    for message_id, rows in told.items():
        if message_id not in unread and all(details.header != wanted for details, _ in rows):
            continue
        message = merged([details for details, _ in rows])
        if message_id in unread or message_id in unreadable:
            unread[message_id] = Unreadable.FAILED
        elif message is None:
            unread[message_id] = Unreadable.CONTRADICTED
        elif _fits(rows, question.narrowing):
            found.append(message)
    if not unread:
        return found
    fit = all(_fits(told.get(each, ()), question.narrowing) for each in unread)
    return Unclear(tuple(unread), next(iter(unread.values())), tuple(found), fit)


def _fits(rows: Sequence[tuple[Details, Mapping[str, Any]]], narrowing: Narrowing) -> bool:
    recipients = {each for details, _ in rows for each in details.recipients}
    senders = [each for _, entry in rows for name in ("from", "envelope_from") if (each := _text(entry, name))]
    times = [_time(entry, "scanned_at") or _time(entry, "ts") or details.at for details, entry in rows]
    return (
        (narrowing.since is None or any(at is None or at >= narrowing.since for at in times))
        and (narrowing.recipient is None or any(_is_of(each, narrowing.recipient) for each in recipients))
        and (narrowing.sender is None or any(_is_of(each, narrowing.sender) for each in senders))
    )


def _is_of(address: str, wanted: str) -> bool:
    address, wanted = address.rpartition("<")[2].strip("> ").lower(), wanted.lower()
    return address == wanted or address.rpartition("@")[2] == wanted


def _text(entry: Mapping[str, Any], name: str, kept: int = _TEXT_KEPT) -> str | None:
    value = entry.get(name)
    return value[:kept] if isinstance(value, str) and value else None


def _texts(value: Any) -> tuple[str, ...]:
    """Read a list of texts; of one that holds anything else nobody knows what it lacks."""
    return tuple(value) if isinstance(value, list) and all(isinstance(each, str) for each in value) else ()


def _recipients(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Read whom a message is for by either member; nobody is known of, if one of them cannot be read."""
    told = [_texts(value) for name in ("client_recipients", "envelope_to") if (value := entry.get(name))]
    return tuple(dict.fromkeys(each for one in told for each in one)) if all(told) else ()


def _times(entry: Mapping[str, Any], message_id: MessageId) -> list[datetime]:
    """Return when a message was scanned, and the time in its full id: a mail that is scanned again is not a new one."""
    told = (_time(entry, "scanned_at"), _time(entry, "ts"), timestamp_of(message_id))
    return [at for at in told if at is not None]


def _time(entry: Mapping[str, Any], name: str) -> datetime | None:
    try:
        at = datetime.fromisoformat(_text(entry, name) or "")
    except ValueError:
        return None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
