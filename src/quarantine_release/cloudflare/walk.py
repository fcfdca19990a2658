"""One run of reading messages before a release: which lists and single reads it takes, and what they show together.

Every row about a message counts, wherever it was shown. A list proves something only if it was read to its end.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import quote

from quarantine_release.cloudflare.entries import details_of, dicts, id_of, parts_named
from quarantine_release.cloudflare.search import Calls
from quarantine_release.cloudflare.windows import Window, windows_of, wire_time
from quarantine_release.domain.details import Details, NotRead, NotYetRead, Several, Unreadable
from quarantine_release.domain.ids import ALERT_ID, MessageId, PostfixPart, is_bare, is_undated, postfix_part, time_of
from quarantine_release.domain.search_rows import meant_by
from quarantine_release.domain.verdicts import Wanted

SEARCH_PAGES: Final = 3

_PAGES: Final = 12

_AROUND: Final = timedelta(hours=1)

# A look of at least so many seconds has time for all that may be listed; a shorter one is for the worker to do again.
_LONG_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True)
class _Kind:
    """Which mail is listed, and how near to one another two stretches of time are looked through as one."""

    query: Mapping[str, str]
    near: timedelta


# All rows of mail that may have been held, wherever it is now. A list of the quarantine alone would leave out the very
# rows that contradict it, and all mail would be too much to list. What arrived in half a day costs about one more list.
_DETECTED: Final = _Kind({"detections_only": "true"}, timedelta(hours=12))

# A quarantine is so small that listing a day of it costs less than one more list.
_HELD: Final = _Kind({"delivery_status": "quarantined"}, timedelta(hours=24))


@dataclass(slots=True)
class Look:
    """One run of reading, of so many seconds. `rows` are all that were shown, by message.

    `unsure` is why a list in which a message was looked for was not read to its end: there may be more rows about it.
    `unclear` are messages of which a row does not tell what the guard needs.
    """

    calls: Calls
    now: datetime
    seconds: float
    pages: int = 0
    is_offered: bool = False
    are_bare_listed: bool = False
    sought: set[MessageId] = field(default_factory=set)
    unsure: dict[MessageId, NotRead] = field(default_factory=dict)
    unclear: set[PostfixPart] = field(default_factory=set)
    rows: dict[PostfixPart, list[Details]] = field(default_factory=dict)
    found: dict[MessageId, Details | Several | NotRead] = field(default_factory=dict)

    def list_around(self, ids: Sequence[MessageId], kind: _Kind = _DETECTED) -> None:
        """List mail around the times of the ids to the end, or until pages or time are used up."""
        self.sought.update(ids)
        for window in windows_of([Wanted(postfix_part(each), each) for each in ids], self.now, kind.near):
            why = self._list(window, kind)
            if why is not None:
                self.unsure = {one.message_id: why for one in window.wanted} | self.unsure

    def _list(self, window: Window, kind: _Kind) -> NotRead | None:
        """List one stretch of time; return why that was not done to its end, if it was not."""
        if self.pages >= _PAGES:
            return NotYetRead.NOT_NOW
        is_first, is_long = self.pages == 0, self.seconds >= _LONG_SECONDS
        query = {**window.query, **kind.query}
        for page in self.calls.pages(query):
            self.pages += 1
            self.is_offered |= page.why is None
            self._take_in(page.entries)
            if page.is_last or page.why is not None:
                return page.why
            # A third of the time is for what the lists do not show: else there would never be any for it.
            is_late = self.calls.seconds_left < self.seconds / 3
            if is_late or self.pages >= _PAGES:
                return Unreadable.TOO_MANY if is_first and (is_long or not is_late) else NotYetRead.NOT_NOW
        return Unreadable.FAILED

    def seen(self, ids: Iterable[MessageId]) -> dict[MessageId, Details | Several | NotRead]:
        """Return what the lists showed of ids, where no other row can change it."""
        shown: dict[MessageId, Details | Several | NotRead] = {}
        for each in ids:
            told = self._told(each)
            if told is not None and not (isinstance(told, Details) and each in self.unsure):
                shown[each] = told
        return shown

    def read(self, ids: Sequence[MessageId]) -> None:
        """Read messages singly: by alert id through the search, else by path, and bare ids in the lists too."""
        bare = [each for each in ids if is_bare(each)]
        for each in ids:
            if each in self.found:
                continue
            if ALERT_ID.match(each):
                self.found[each] = self._search(each)
            elif is_bare(each):
                self._read_bare(each, bare)
            else:
                self.found[each] = self._read_by_path(each, each)

    def completed(self, details: Details) -> Details | Several | NotRead:
        """Read by its full id what a list or search has shown that may have left out rows about it."""
        self.rows.setdefault(postfix_part(details.message_id), []).append(details)
        return self._read_by_path(details.message_id, details.message_id)

    def _read_by_path(self, path_id: MessageId, message_id: MessageId) -> Details | Several | NotRead:
        """Read the message that `message_id` means under an id that may be fuller."""
        got = self.calls.get(f"/{quote(path_id, safe='')}")
        result = got.content.get("result")
        if got.why is not None or (is_bare(path_id) and result in (None, [])):
            why = got.why or Unreadable.ABSENT
            # Of a message that was shown, its absence is a contradiction; bare ids alone are known not to be read.
            is_doubtful = self._told(message_id) is not None and not is_bare(path_id)
            return Unreadable.FAILED if is_doubtful and why in (Unreadable.ABSENT, Unreadable.NOT_OFFERED) else why
        entries = dicts(result)
        self._take_in(entries)
        told = self._told(message_id)
        own = meant_by(message_id, [one for entry in entries if (one := details_of(entry, self.now))])
        is_of_it = own is not None and all(id_of(entry) for entry in entries)
        return told if told is not None and (is_of_it or told is Unreadable.UNCLEAR) else Unreadable.FAILED

    def _read_bare(self, message_id: MessageId, bare: Sequence[MessageId]) -> None:
        """Read a bare id by path; else look for it in the lists, once for all, before more of them are read by path."""
        if self._is_shown_in_part(message_id):
            self.found[message_id] = self._listed(message_id, Unreadable.TOO_MANY)
            return
        told = self._read_by_path(message_id, message_id)
        if told not in (Unreadable.ABSENT, Unreadable.NOT_OFFERED):
            self.found[message_id] = told
            return
        self._list_bare(bare)
        if message_id not in self.found:
            self.found[message_id] = self._listed(message_id, told)

    def _list_bare(self, ids: Sequence[MessageId]) -> None:
        if self.are_bare_listed:
            return
        self.are_bare_listed = True
        self.list_around([each for each in ids if each not in self.sought])
        self.pages = 0  # else who has filled the first lists would keep everything from being looked for in the others
        waiting = (Unreadable.TOO_MANY, None)
        self.list_around([each for each in ids if self._told(each) is None and self.unsure.get(each) in waiting], _HELD)
        self.found = self.seen(ids) | self.found

    def _is_shown_in_part(self, message_id: MessageId) -> bool:
        return self.unsure.get(message_id) is Unreadable.TOO_MANY and isinstance(self._told(message_id), Details)

    def _listed(self, message_id: MessageId, by_path: NotRead | Details | Several) -> Details | Several | NotRead:
        """Return what the lists come to for a bare id that could not be read by path, for this reason."""
        told = self._told(message_id)
        if isinstance(told, Details) and self._is_shown_in_part(message_id) and not is_bare(told.message_id):
            return self._read_by_path(told.message_id, message_id)
        why = self.unsure.get(message_id, by_path)
        if why not in (Unreadable.ABSENT, Unreadable.NOT_OFFERED):
            return why if isinstance(why, NotRead) else Unreadable.FAILED
        if told is not None or why is not by_path:
            return Unreadable.UNCLEAR if told is Unreadable.UNCLEAR else Unreadable.FAILED
        if is_undated(message_id, self.now):
            return Unreadable.UNDATED
        # A server that offers one reading of a bare id and not the other may soon offer both again.
        if self.is_offered and message_id in self.unsure:
            return Unreadable.FAILED
        return Unreadable.NOT_LISTED if self.is_offered and by_path is Unreadable.NOT_OFFERED else why

    def _search(self, alert_id: MessageId) -> Details | Several | NotRead:
        at = time_of(alert_id, self.now)
        start = {"start": wire_time(at - _AROUND)} if at is not None else {}
        entries: list[Mapping[str, Any]] = []
        for number, page in enumerate(self.calls.pages({"alert_id": alert_id, **start}), start=1):
            if page.why is not None:
                return Unreadable.NOT_OFFERED if page.why is Unreadable.ABSENT else page.why
            entries += page.entries
            if page.is_last:
                break
            if number == SEARCH_PAGES:
                return Unreadable.FAILED
        else:
            return Unreadable.FAILED
        self._take_in(entries)
        if any(id_of(entry) is None and entry.get("alert_id", alert_id) == alert_id for entry in entries):
            return Unreadable.FAILED  # it may be about the message, and nobody knows what it is
        return self._told(alert_id) or (Unreadable.FAILED if entries else Unreadable.ABSENT)

    def _told(self, message_id: MessageId) -> Details | Several | NotRead | None:
        """Return what all rows so far tell of an id; None if there are none."""
        part = postfix_part(message_id)
        return Unreadable.UNCLEAR if part in self.unclear else meant_by(message_id, self.rows.get(part, ()))

    def _take_in(self, entries: Iterable[Mapping[str, Any]]) -> None:
        for entry in entries:
            details = details_of(entry, self.now)
            part = postfix_part(details.message_id) if details is not None else None
            self.unclear |= parts_named(entry) - {part}
            if details is None or part is None:
                continue
            known = self.rows.setdefault(part, [])
            if details not in known:
                known.append(details)
