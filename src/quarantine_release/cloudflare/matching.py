"""How the search for a Message-ID is asked for, and which messages its entries show. Pure.

Source: Cloudflare's API reference, "Search email messages". Cloudflare may match more loosely than it says, so each
message must show that it is a match.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from quarantine_release.cloudflare.entries import header_in, id_of, parse_details, text_in, time_in
from quarantine_release.cloudflare.windows import wire_time
from quarantine_release.domain.details import Details, Unclear, Unreadable
from quarantine_release.domain.ids import MessageId
from quarantine_release.domain.lookup import Question
from quarantine_release.domain.request_options import Narrowing
from quarantine_release.domain.search_rows import merged

_Row = tuple[Details, Mapping[str, Any]]


@dataclass(slots=True)
class _Message:
    """The rows about one message that can be read, and whether there are others: by Message-ID a match, or any."""

    rows: list[_Row] = field(default_factory=list)
    has_unreadable_match: bool = False
    has_unreadable_row: bool = False

    def is_match(self, header: str) -> bool:
        return self.has_unreadable_match or any(details.header == header for details, _ in self.rows)

    def read(self) -> Details | Unreadable:
        """Return what all rows tell together, or why they do not tell it."""
        if self.has_unreadable_match or self.has_unreadable_row:
            return Unreadable.FAILED
        return merged([details for details, _ in self.rows]) or Unreadable.CONTRADICTED

    def fits(self, narrowing: Narrowing) -> bool:
        """Return whether the rows fit the recipient, sender and time that the question asks for."""
        is_recent = narrowing.since is None or self._is_since(narrowing.since)
        is_addressed = narrowing.recipient is None or self._is_to(narrowing.recipient)
        return is_recent and is_addressed and (narrowing.sender is None or self._is_from(narrowing.sender))

    def _is_since(self, since: datetime) -> bool:
        times = [time_in(entry, "scanned_at") or time_in(entry, "ts") or details.at for details, entry in self.rows]
        return any(at is None or at >= since for at in times)

    def _is_to(self, recipient: str) -> bool:
        return any(_is_of(each, recipient) for details, _ in self.rows for each in details.recipients)

    def _is_from(self, sender: str) -> bool:
        addresses = [text_in(entry, name) for _, entry in self.rows for name in ("from", "envelope_from")]
        return any(_is_of(address, sender) for address in addresses if address)


def query_of(question: Question) -> dict[str, str]:
    """Return the parameters of the search for what a Message-ID means."""
    narrowing = question.narrowing
    query = {"message_id": question.header, "start": wire_time(narrowing.since or question.start)}
    for name, value in (("recipient", narrowing.recipient), ("sender", narrowing.sender)):
        if value is not None:
            query[name] = value
    return query


def matches(
    entries: Iterable[Mapping[str, Any]], question: Question, now: datetime
) -> list[Details] | Unreadable | Unclear:
    """Return the messages that all entries of a search show for a question, or which one does not tell what it is.

    Entries that do not fit count too if they are about a message that does.
    """
    header = question.header.strip("<>")
    messages = _by_message(entries, header, now)
    if messages is None:
        return Unreadable.FAILED
    read = {message_id: message.read() for message_id, message in messages.items() if message.is_match(header)}
    clear = [
        details
        for message_id, details in read.items()
        if isinstance(details, Details) and messages[message_id].fits(question.narrowing)
    ]
    unread = {message_id: why for message_id, why in read.items() if isinstance(why, Unreadable)}
    if not unread:
        return clear
    # Those that are matches by an entry that cannot be read come first: the first one says why the search is unclear.
    ids = sorted(unread, key=lambda message_id: not messages[message_id].has_unreadable_match)
    fit = all(messages[message_id].fits(question.narrowing) for message_id in ids)
    return Unclear(tuple(ids), unread[ids[0]], tuple(clear), fit)


def _by_message(entries: Iterable[Mapping[str, Any]], header: str, now: datetime) -> dict[MessageId, _Message] | None:
    """Return the rows by message; None if one may be a second match, and nobody knows which message it is about."""
    messages: dict[MessageId, _Message] = {}
    for entry in entries:
        details, message_id = parse_details(entry, now), id_of(entry)
        is_match = header_in(entry) == header
        if message_id is None:
            if is_match:
                return None
            continue
        message = messages.setdefault(message_id, _Message())
        if details is not None:
            if not message.rows:  # messages come in the order of the first rows that can be read
                messages[message_id] = messages.pop(message_id)
            message.rows.append((details, entry))
        elif is_match:
            message.has_unreadable_match = True
        else:
            message.has_unreadable_row = True
    return messages


def _is_of(address: str, wanted: str) -> bool:
    """Return whether an address, maybe with a name before it, is the one wanted or of the domain wanted."""
    address, wanted = address.rpartition("<")[2].strip("> ").lower(), wanted.lower()
    return wanted in (address, address.rpartition("@")[2])
