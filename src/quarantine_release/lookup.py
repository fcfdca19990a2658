"""Which message an id means that only a search can tell, and what an entry of the search says of it. Pure.

A Message-ID is chosen by the sender: it may be missing, used again, or forged. So several matches are never guessed at.
Source of the fields: Cloudflare's API reference, "Search email messages".
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from quarantine_release.guard import Candidate, Details, Ended, NotRead, Several, Unclear
from quarantine_release.outcome import Code, MessageId, Outcome
from quarantine_release.reading import RELEASE, id_of, time_of, timestamp_of
from quarantine_release.release_traces import hints_at_release
from quarantine_release.search_rows import merged
from quarantine_release.trace import Narrowing

CANDIDATES_SHOWN: Final = 10
# An answer this old may save a search: within a minute a second mail under the same id is unlikely.
FRESH: Final = timedelta(seconds=60)
# Rows and answers have limits, and what senders write has none: so much of it is kept (RFC 5322, section 2.1.1).
_TEXT_KEPT: Final = 998
_NAME_KEPT: Final = 40


@dataclass(frozen=True, slots=True)
class Kept:
    """What a question was answered, and when. `at` None: version 4c3b95d has kept it, which did not write down when."""

    message_id: MessageId
    until: datetime
    at: datetime | None = None

    def is_fresh(self, now: datetime) -> bool:
        return self.at is not None and now - self.at <= FRESH


@dataclass(frozen=True, slots=True)
class Question:
    """A search for the message that a Message-ID means, from `start` on."""

    header: MessageId
    narrowing: Narrowing = field(repr=False)
    start: datetime

    @property
    def text(self) -> str:
        """Return the question as the ledger keeps its answer by: whatever may change the answer, but the window."""
        since = self.narrowing.since.isoformat() if self.narrowing.since else None
        return json.dumps([self.header, self.narrowing.recipient, self.narrowing.sender, since])

    @property
    def query(self) -> dict[str, str]:
        """Return the parameters of the search."""
        start = self.narrowing.since or self.start
        query = {"message_id": self.header, "start": start.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
        for name, value in (("recipient", self.narrowing.recipient), ("sender", self.narrowing.sender)):
            if value is not None:
                query[name] = value
        return query

    @property
    def is_narrowed(self) -> bool:
        """Whether the search may leave out rows of the very message that it finds."""
        return (self.narrowing.recipient, self.narrowing.sender, self.narrowing.since) != (None, None, None)


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
) -> list[Details] | NotRead | Unclear:
    """Return the messages that all entries of a search show for a question, or which one does not tell what it is.

    Cloudflare may match more loosely than it says, so each message must show that it is one. Entries that do not fit
    count too if they are about a message that does.
    """
    wanted = question.header.strip("<>")
    unreadable: set[MessageId] = set()
    unread: dict[MessageId, NotRead] = {}
    told: dict[MessageId, list[tuple[Details, Mapping[str, Any]]]] = {}
    for entry in entries:
        details, message_id = details_of(entry, now), id_of(entry)
        if details is not None:
            told.setdefault(details.message_id, []).append((details, entry))
        elif (_text(entry, "message_id") or "").strip("<> ") == wanted:
            if message_id is None:
                return NotRead.FAILED  # it may be a second match, and nobody knows which
            unread[message_id] = NotRead.FAILED
        elif message_id is not None:
            unreadable.add(message_id)
    found = []
    for message_id, rows in told.items():
        if message_id not in unread and all(details.header != wanted for details, _ in rows):
            continue
        message = merged([details for details, _ in rows])
        if message_id in unread or message_id in unreadable:
            unread[message_id] = NotRead.FAILED
        elif message is None:
            unread[message_id] = NotRead.CONTRADICTED
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


def choose(found: Sequence[Details], expected: int | None) -> Details | Ended:
    """Return the one message that a search found, or why there is not one. `expected` is a check, never a choice."""
    if expected is not None and len(found) != expected:
        said = f"expect_count is {expected}, but {len(found)} messages were found."
        return Ended(Outcome.AMBIGUOUS, Code.COUNT_DIFFERS, said, _candidates(found))
    if not found:
        return Ended(Outcome.NOT_FOUND, None, "No message with this Message-ID was found in the time looked through.")
    if len(found) > 1:
        return _ambiguous(found, "have this Message-ID")
    return found[0]


def undecided(several: Several) -> Ended:
    """Return how an id ends that several messages go by."""
    return _ambiguous(several.messages, "go by this id")


def _ambiguous(found: Sequence[Details], how: str) -> Ended:
    said = f"{len(found)} messages {how}: send the id of the one that is meant."
    return Ended(Outcome.AMBIGUOUS, Code.SEVERAL_MATCHES, said, _candidates(found))


def _candidates(found: Sequence[Details]) -> tuple[Candidate, ...]:
    return tuple(
        Candidate(each.message_id, each.at, each.disposition_name, each.is_quarantined)
        for each in found[:CANDIDATES_SHOWN]
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
