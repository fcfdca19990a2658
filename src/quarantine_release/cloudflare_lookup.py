"""Finds messages at Cloudflare and reads what they are, before a release: in packs first, singly for the rest."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import quote

from quarantine_release.cloudflare import Secret
from quarantine_release.cloudflare_calls import Calls
from quarantine_release.deadline import DeadlineSession
from quarantine_release.guard import Details, NotRead
from quarantine_release.lookup import Question, bears, details_of, fits
from quarantine_release.outcome import (
    ALERT_ID,
    AccountId,
    MessageId,
    PostfixPart,
    Wanted,
    contradict,
    is_bare,
    postfix_part,
)
from quarantine_release.ports import Budget, Mark
from quarantine_release.reading import NEAR, Window, dicts, id_of, is_partial, time_of, windows_of

# So few are cheaper read one by one than listed with whatever else arrived around them.
_FEW: Final = 2
_PAGES: Final = 12
_SINGLES: Final = 100
_SEARCH_PAGES: Final = 3
_AROUND: Final = timedelta(hours=1)
# A look of at least so many seconds has time for all that may be listed; a shorter one is for the worker to do again.
_LONG_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True)
class _Kind:
    """Which mail is listed, and how near to one another two stretches of time are looked through as one."""

    query: Mapping[str, str]
    near: timedelta


# What is in quarantine is little enough that a day of it costs less than one more list.
_HELD: Final = _Kind({"delivery_status": "quarantined"}, timedelta(hours=24))
# What of the mail may ever have been held, wherever it is now: all mail would be too much to list.
_DETECTED: Final = _Kind({"detections_only": "true"}, NEAR)
# When a list was begun, what it showed, and whether no other message may go by the same postfix id.
_Listed = tuple[datetime, Details, bool]


class CloudflareLookup:
    """Cloudflare's Email Security search, for the accounts of one secret.

    What a list has shown serves later looks too for as long as `holds`: a burst would else have the worker list the
    same quarantine for each of its packs.
    """

    def __init__(
        self,
        base_url: str,
        secret: Secret,
        session: DeadlineSession,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float] = time.monotonic,
        *,
        holds: timedelta = timedelta(0),
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._secret = secret
        self._session = session
        self._clock = clock
        self._monotonic = monotonic
        self._holds = holds
        self._pause = pause
        self._listed: dict[tuple[AccountId, PostfixPart], _Listed] = {}

    def find(
        self, account_id: AccountId, questions: Sequence[Question], seconds: float, budget: Budget, mark: Mark
    ) -> Mapping[Question, Sequence[Details] | NotRead]:
        """Search for what each question may mean; what is left out is NOT_NOW. Raises LedgerUnavailable."""
        calls = self._calls(account_id, seconds, budget, mark)
        return {question: self._find(calls, question) for question in questions[:_SINGLES]}

    def look(
        self, account_id: AccountId, ids: Sequence[MessageId], seconds: float, budget: Budget, mark: Mark
    ) -> Mapping[MessageId, Details | NotRead]:
        """Read messages; what is left out is NOT_NOW. Raises LedgerUnavailable."""
        look = _Look(self._calls(account_id, seconds, budget, mark), self._clock(), seconds)
        if len(ids) > _FEW:
            held = self._held(account_id, ids)
            look.list_around([each for each in ids if each not in held])
            self._hold(account_id, look)
            look.found |= held | look.seen(ids)
        look.read([each for each in ids if each not in look.found][:_SINGLES])
        return look.found

    def _calls(self, account_id: AccountId, seconds: float, budget: Budget, mark: Mark) -> Calls:
        ends_at, session, secret = self._monotonic() + seconds, self._session, self._secret
        common = (session, self._base_url, account_id, secret, ends_at, budget, self._clock)
        return Calls(*common, mark, self._monotonic, self._pause)

    def _find(self, calls: Calls, question: Question) -> Sequence[Details] | NotRead:
        found: dict[MessageId, Details] = {}
        for number, page in enumerate(calls.pages(question.query), start=1):
            if page.why is not None:
                return page.why if page.why in (NotRead.NOT_NOW, NotRead.REFUSED) else NotRead.FAILED
            for entry in page.entries:
                details = details_of(entry, self._clock())
                if details is None and bears(entry, question.header):
                    return NotRead.FAILED  # it may be a second match, and nobody knows what it is
                if details is not None and fits(details, question, entry):
                    found[details.message_id] = details
            if page.is_last:
                return list(found.values())
            if number == _SEARCH_PAGES:
                break
        return NotRead.FAILED  # of a search that has no end nobody knows what else it holds

    def _held(self, account_id: AccountId, ids: Iterable[MessageId]) -> dict[MessageId, Details]:
        held, since = {}, self._clock() - self._holds
        for each in ids:
            at, details, is_alone = self._listed.get((account_id, postfix_part(each)), (since, None, False))
            if details is None or at <= since or contradict(details.message_id, each):
                continue
            if is_alone or not is_partial(each):
                held[each] = details
        return held

    def _hold(self, account_id: AccountId, look: "_Look") -> None:
        """Keep what was in quarantine when the look began; what was not may be there any moment."""
        self._listed = {key: held for key, held in self._listed.items() if held[0] > look.now - self._holds}
        for part, entries in look.entries.items():
            if self._holds and part not in look.unclear and len(entries) == 1 and entries[0].is_quarantined:
                self._listed[account_id, part] = (look.now, entries[0], not look.unsure)


@dataclass(slots=True)
class _Look:
    """One run of reading, of so many seconds. `entries` are those of the lists, by message.

    `unsure` is why the list in which a message was looked for was not read to its end: beside what it showed, a second
    message may go by the same postfix id. `unclear` are messages of which an entry does not tell what the guard needs.
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
    entries: dict[PostfixPart, list[Details]] = field(default_factory=dict)
    found: dict[MessageId, Details | NotRead] = field(default_factory=dict)

    def list_around(self, ids: Sequence[MessageId], kind: _Kind = _HELD) -> None:
        """List mail around the times of the ids, until all are found, or pages or time are used up."""
        self.sought.update(ids)
        for window in windows_of([Wanted(postfix_part(each), each) for each in ids], self.now, kind.near):
            why = self._list(window, kind)
            if why is not None:
                self.unsure |= {one.message_id: why for one in window.wanted}

    def _list(self, window: Window, kind: _Kind) -> NotRead | None:
        """List one stretch of time; return why that was not done to its end, if it was not."""
        if self.pages >= _PAGES:
            return NotRead.NOT_NOW
        is_first, is_long = self.pages == 0, self.seconds >= _LONG_SECONDS
        query = {"start": _rfc3339(window.start), "end": _rfc3339(window.end), **kind.query}
        for page in self.calls.pages(query):
            self.pages += 1
            self.is_offered |= page.why is None
            self._take_in(page.entries)
            are_found = all(one.part in self.entries and not is_partial(one.message_id) for one in window.wanted)
            if page.is_last or page.why is not None:
                return page.why
            # A third of the time is for what the lists do not show: else there would never be any for it.
            is_late = self.calls.seconds_left < self.seconds / 3
            if are_found or is_late or self.pages >= _PAGES:
                is_all = is_first and (is_long or not is_late)
                return NotRead.TOO_MANY if are_found or is_all else NotRead.NOT_NOW
        return NotRead.FAILED

    def seen(self, ids: Iterable[MessageId]) -> dict[MessageId, Details | NotRead]:
        """Return what the lists showed of ids, where it can be no other message's."""
        shown: dict[MessageId, Details | NotRead] = {}
        for each in ids:
            part, why = postfix_part(each), self.unsure.get(each)
            own = [one for one in self.entries.get(part, ()) if not contradict(one.message_id, each)]
            # Of alert ids a search tells more than a list that was cut.
            is_sure = why is None or not is_partial(each) or (why is NotRead.TOO_MANY and is_bare(each))
            if is_sure and len(own) == 1 and part not in self.unclear:
                shown[each] = own[0]
        return shown

    def read(self, ids: Sequence[MessageId]) -> None:
        """Read messages singly: by alert id through the search, else by path, and bare ids in the lists too."""
        bare = [each for each in ids if is_bare(each)]
        for each in ids:
            if each in self.found:
                continue
            if ALERT_ID.match(each):
                self.found[each] = self._search(each)
            else:
                self._read_by_path(each, bare)

    def _read_by_path(self, message_id: MessageId, bare: Sequence[MessageId]) -> None:
        got = self.calls.get(f"/{quote(message_id, safe='')}")
        result, why = got.content.get("result"), got.why
        if why is None and is_bare(message_id) and result in (None, []):
            why = NotRead.ABSENT
        if why is None:
            self.found[message_id] = self._only(dicts(result), message_id) or NotRead.FAILED
        elif why in (NotRead.ABSENT, NotRead.NOT_OFFERED) and is_bare(message_id):
            self._list_bare(bare)
            self.found.setdefault(message_id, self._why(message_id, why))
        elif why is NotRead.ABSENT and postfix_part(message_id) in self.unclear:
            self.found[message_id] = NotRead.FAILED
        else:
            self.found[message_id] = why

    def _list_bare(self, ids: Sequence[MessageId]) -> None:
        """Look for bare ids in both kinds of lists: once for all, before more of them are read by path."""
        if self.are_bare_listed:
            return
        self.are_bare_listed = True
        self.list_around([each for each in ids if each not in self.sought])
        self.pages = 0  # else who has filled the first lists would keep everything from being looked for in the others
        known = self.entries.keys() | self.unclear
        self.list_around([each for each in ids if not (each in self.unsure or postfix_part(each) in known)], _DETECTED)
        self.found = self.seen(ids) | self.found

    def _why(self, message_id: MessageId, by_path: NotRead) -> NotRead:
        """Say why a bare id is not read that neither its path nor a list has shown."""
        why = self.unsure.get(message_id, by_path)
        if why not in (NotRead.ABSENT, NotRead.NOT_OFFERED):
            return why
        is_known = postfix_part(message_id) in self.entries.keys() | self.unclear
        # Who offers one reading of a bare id, and not the other, may be about to offer both again.
        is_offered = self.is_offered and (message_id in self.unsure or by_path is NotRead.NOT_OFFERED)
        return NotRead.FAILED if is_known or is_offered or why is not by_path else why

    def _search(self, alert_id: MessageId) -> Details | NotRead:
        at = time_of(alert_id, self.now)
        start = {"start": _rfc3339(at - _AROUND)} if at is not None else {}
        page = next(self.calls.pages({"alert_id": alert_id, **start}))
        if page.why is not None or not page.is_last:
            return NotRead.NOT_OFFERED if page.why is NotRead.ABSENT else page.why or NotRead.FAILED
        return self._only(page.entries, alert_id) or (NotRead.FAILED if page.entries else NotRead.ABSENT)

    def _only(self, entries: Sequence[Mapping[str, object]], message_id: MessageId) -> Details | None:
        """Return the one message that answers to an id; of two nobody knows which is meant."""
        part = postfix_part(message_id)
        own = [
            details_of(entry, self.now)
            for entry in entries
            if (told := id_of(entry)) and postfix_part(told) == part and not contradict(told, message_id)
        ]
        return own[0] if len(own) == 1 else None

    def _take_in(self, entries: Iterable[Mapping[str, object]]) -> None:
        for entry in entries:
            details, told = details_of(entry, self.now), id_of(entry)
            if details is None and told is not None:
                self.unclear.add(postfix_part(told))
            other = entry.get("postfix_id")
            if details is not None and isinstance(other, str) and other != postfix_part(details.message_id):
                self.unclear.add(PostfixPart(other))
            if details is not None:
                known = self.entries.setdefault(postfix_part(details.message_id), [])
                if details not in known:
                    known.append(details)


def _rfc3339(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")
