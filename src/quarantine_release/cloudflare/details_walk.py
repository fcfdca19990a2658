"""The walk before a release: which lists and single reads it takes, and what they show of messages together.

Every row about a message counts, wherever it was shown.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, ClassVar, Final

from quarantine_release.cloudflare.entries import dicts, id_of, parse_details, parts_named
from quarantine_release.cloudflare.search import Page
from quarantine_release.cloudflare.walk import Kind, Walk, path_of
from quarantine_release.cloudflare.windows import wire_time
from quarantine_release.domain.details import Details, NotRead, Several, Unreadable
from quarantine_release.domain.ids import (
    ALERT_ID,
    MessageId,
    PostfixPart,
    decode_time,
    is_bare,
    is_undated,
    postfix_part,
)
from quarantine_release.domain.search_rows import meant_by
from quarantine_release.domain.verdicts import ReadBackTarget

_AROUND: Final = timedelta(hours=1)

# All rows of mail that may have been held, wherever it is now. A list of the quarantine alone would leave out the very
# rows that contradict it, and all mail would be too much to list. What arrived in half a day costs about one more list.
_DETECTED: Final = Kind({"detections_only": "true"}, timedelta(hours=12))
# A quarantine is so small that listing a day of it costs less than one more list.
_HELD: Final = Kind({"delivery_status": "quarantined"}, timedelta(hours=24))

# The server has no message, or no such reading, under this path. The lists may still show the message.
_NO_PATH: Final = (Unreadable.ABSENT, Unreadable.NOT_OFFERED)


@dataclass(slots=True)
class DetailsWalk(Walk):
    """One walk. `rows` are all that were shown, by message; `found` is what is known of each id.

    `unclear` are messages of which a row does not tell what the guard needs.
    """

    # A list may be all that shows a bare id.
    begins_late: ClassVar[bool] = True

    are_bare_listed: bool = False
    unclear: set[PostfixPart] = field(default_factory=set)
    rows: dict[PostfixPart, list[Details]] = field(default_factory=dict)
    found: dict[MessageId, Details | Several | NotRead] = field(default_factory=dict)

    def take_in(self, page: Page, wanted: Sequence[ReadBackTarget]) -> None:  # noqa: ARG002  (every row counts)
        self._take_in(page.entries)

    def list_mail(self, ids: Sequence[MessageId]) -> None:
        """List mail around the times of the ids that may have been held."""
        self.list_around(_wanted(ids), _DETECTED)

    def seen(self, ids: Iterable[MessageId]) -> dict[MessageId, Details | Several | NotRead]:
        """Return what the lists showed of ids, where no other row can change it."""
        seen: dict[MessageId, Details | Several | NotRead] = {}
        for message_id in ids:
            shown = self._shown(message_id)
            if shown is not None and not (isinstance(shown, Details) and message_id in self.unsure):
                seen[message_id] = shown
        return seen

    def read(self, ids: Sequence[MessageId]) -> None:
        """Read messages singly: by alert id through the search, else by path, and bare ids in the lists too."""
        bare = [message_id for message_id in ids if is_bare(message_id)]
        for message_id in ids:
            if message_id in self.found:
                continue
            if ALERT_ID.match(message_id):
                self.found[message_id] = self._search(message_id)
            elif is_bare(message_id):
                self._read_bare(message_id, bare)
            else:
                self.found[message_id] = self._read_by_path(message_id, message_id)

    def completed(self, details: Details) -> Details | Several | NotRead:
        """Read by its full id what a list or search has shown that may have left out rows about it."""
        self.rows.setdefault(postfix_part(details.message_id), []).append(details)
        return self._read_by_path(details.message_id, details.message_id)

    def _read_by_path(self, path_id: MessageId, message_id: MessageId) -> Details | Several | NotRead:
        """Read the message that `message_id` means under an id that may be fuller."""
        got = self.calls.get(path_of(path_id))
        result = got.content.get("result")
        is_empty = is_bare(path_id) and result in (None, [])
        if got.why is None and not is_empty:
            return self._taken_from_path(message_id, dicts(result))
        why = got.why or Unreadable.ABSENT
        # Of a message that was shown, its absence is a contradiction; bare ids alone are known not to be read.
        is_doubtful = self._shown(message_id) is not None and not is_bare(path_id)
        return Unreadable.FAILED if is_doubtful and why in _NO_PATH else why

    def _taken_from_path(
        self, message_id: MessageId, entries: Sequence[Mapping[str, Any]]
    ) -> Details | Several | NotRead:
        """Return what an id means by all rows; a failure, if the entries read by path are not of it."""
        self._take_in(entries)
        shown = self._shown(message_id)
        rows = [details for entry in entries if (details := parse_details(entry, self.now))]
        is_of_it = meant_by(message_id, rows) is not None and all(id_of(entry) for entry in entries)
        if shown is None or not (is_of_it or shown is Unreadable.UNCLEAR):
            return Unreadable.FAILED
        return shown

    def _read_bare(self, message_id: MessageId, bare: Sequence[MessageId]) -> None:
        """Read a bare id by path; else look for it in the lists, once for all, before more of them are read by path."""
        if self._is_shown_in_part(message_id):
            self.found[message_id] = self._listed(message_id, Unreadable.TOO_MANY)
            return
        by_path = self._read_by_path(message_id, message_id)
        if not isinstance(by_path, Unreadable) or by_path not in _NO_PATH:
            self.found[message_id] = by_path
            return
        self._list_bare(bare)
        if message_id not in self.found:
            self.found[message_id] = self._listed(message_id, by_path)

    def _list_bare(self, ids: Sequence[MessageId]) -> None:
        if self.are_bare_listed:
            return
        self.are_bare_listed = True
        self.list_mail([message_id for message_id in ids if message_id not in self.sought])
        self.pages = 0  # else mail that fills the first lists would leave no page for the others
        self.list_around(_wanted(self._missing(ids)), _HELD)
        self.found = self.seen(ids) | self.found

    def _missing(self, ids: Sequence[MessageId]) -> list[MessageId]:
        """Return those of which the lists have shown nothing, although they were read to their end or hold too much."""
        may_be_held = (Unreadable.TOO_MANY, None)
        return [each for each in ids if self._shown(each) is None and self.unsure.get(each) in may_be_held]

    def _is_shown_in_part(self, message_id: MessageId) -> bool:
        return self.unsure.get(message_id) is Unreadable.TOO_MANY and isinstance(self._shown(message_id), Details)

    def _listed(self, message_id: MessageId, by_path: Unreadable) -> Details | Several | NotRead:
        """Return what the lists come to for a bare id that could not be read by path, for this reason."""
        shown = self._shown(message_id)
        if isinstance(shown, Details) and self._is_shown_in_part(message_id) and not is_bare(shown.message_id):
            return self._read_by_path(shown.message_id, message_id)
        why = self.unsure.get(message_id, by_path)
        if why not in _NO_PATH:
            return why
        if shown is not None or why is not by_path:
            return Unreadable.UNCLEAR if shown is Unreadable.UNCLEAR else Unreadable.FAILED
        return self._not_listed(message_id, by_path)

    def _not_listed(self, message_id: MessageId, by_path: Unreadable) -> Unreadable:
        """Return why nothing is known of a bare id that neither its path nor a list has shown."""
        if is_undated(message_id, self.now):
            return Unreadable.UNDATED
        # A server that offers one reading of a bare id and not the other may soon offer both again.
        if self.is_offered and message_id in self.unsure:
            return Unreadable.FAILED
        return Unreadable.NOT_LISTED if self.is_offered and by_path is Unreadable.NOT_OFFERED else by_path

    def _search(self, alert_id: MessageId) -> Details | Several | NotRead:
        at = decode_time(alert_id, self.now)
        start = {"start": wire_time(at - _AROUND)} if at is not None else {}
        entries = self.calls.whole({"alert_id": alert_id, **start})
        if not isinstance(entries, list):
            return Unreadable.NOT_OFFERED if entries is Unreadable.ABSENT else entries
        self._take_in(entries)
        if any(id_of(entry) is None and entry.get("alert_id", alert_id) == alert_id for entry in entries):
            return Unreadable.FAILED  # it may be about the message, and nobody knows what it is
        return self._shown(alert_id) or (Unreadable.FAILED if entries else Unreadable.ABSENT)

    def _shown(self, message_id: MessageId) -> Details | Several | Unreadable | None:
        """Return what all rows so far say about an id; None if there are none."""
        part = postfix_part(message_id)
        return Unreadable.UNCLEAR if part in self.unclear else meant_by(message_id, self.rows.get(part, ()))

    def _take_in(self, entries: Iterable[Mapping[str, Any]]) -> None:
        for entry in entries:
            details = parse_details(entry, self.now)
            part = postfix_part(details.message_id) if details is not None else None
            self.unclear |= parts_named(entry) - {part}
            if details is None or part is None:
                continue
            rows = self.rows.setdefault(part, [])
            if details not in rows:
                rows.append(details)


def _wanted(ids: Iterable[MessageId]) -> list[ReadBackTarget]:
    return [ReadBackTarget(postfix_part(message_id), message_id) for message_id in ids]
