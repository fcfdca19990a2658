"""Which message an id means that only a search can tell, and what an entry of the search says of it. Pure.

A Message-ID is chosen by the sender: it may be missing, used again, or forged. So several matches are never guessed at.
Source of the fields: Cloudflare's API reference, "Search email messages".
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from quarantine_release.guard import Candidate, Details, Ended
from quarantine_release.outcome import Code, MessageId, Outcome
from quarantine_release.reading import RELEASE, id_of, time_of
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
        at=_time(entry, "scanned_at") or _time(entry, "ts") or time_of(message_id, now),
        recipients=_recipients(entry),
        sender=_text(entry, "from") or _text(entry, "envelope_from"),
        subject=_text(entry, "subject"),
        is_released=isinstance(operations, list) and RELEASE in operations,
    )


def bears(entry: Mapping[str, Any], header: MessageId) -> bool:
    """Say whether an entry tells that it is of this Message-ID."""
    told = _text(entry, "message_id")
    return told is not None and told.strip("<> ") == header.strip("<>")


def fits(details: Details, question: Question, entry: Mapping[str, Any]) -> bool:
    """Say whether an entry tells that it is what was asked for: Cloudflare may match more loosely than it says."""
    narrowing = question.narrowing
    if not bears(entry, question.header):
        return False
    senders = [each for name in ("from", "envelope_from") if (each := _text(entry, name)) is not None]
    is_recent = narrowing.since is None or details.at is None or details.at >= narrowing.since
    return (
        is_recent
        and (narrowing.recipient is None or any(_is_of(each, narrowing.recipient) for each in details.recipients))
        and (narrowing.sender is None or any(_is_of(each, narrowing.sender) for each in senders))
    )


def choose(found: Sequence[Details], expected: int | None) -> Details | Ended:
    """Return the one message that a search found, or why there is not one."""
    candidates = tuple(
        Candidate(each.message_id, each.at, each.disposition_name, each.is_quarantined)
        for each in found[:CANDIDATES_SHOWN]
    )
    if expected is not None and len(found) != expected:
        said = f"expect_count is {expected}, and {len(found)} messages were found."
        return Ended(Outcome.AMBIGUOUS, Code.COUNT_DIFFERS, said, candidates)
    if not found:
        return Ended(Outcome.NOT_FOUND, None, "No message with this Message-ID was found in the time looked through.")
    if len(found) > 1:
        said = f"{len(found)} messages have this Message-ID: send the id of the one that is meant."
        return Ended(Outcome.AMBIGUOUS, Code.SEVERAL_MATCHES, said, candidates)
    return found[0]


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


def _time(entry: Mapping[str, Any], name: str) -> datetime | None:
    try:
        at = datetime.fromisoformat(_text(entry, name) or "")
    except ValueError:
        return None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
