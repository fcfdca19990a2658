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
from quarantine_release.lookup import Question, details_of, fits
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
from quarantine_release.reading import Window, dicts, is_partial, time_of, windows_of

# So few are cheaper read one by one than listed with whatever else arrived around them.
_FEW: Final = 2
_PAGES: Final = 12
_SINGLES: Final = 100
_SEARCH_PAGES: Final = 3
_HELD: Final = {"delivery_status": "quarantined"}
# What of the mail may ever have been held, wherever it is now: all mail would be too much to list.
_DETECTED: Final = {"detections_only": "true"}
_AROUND: Final = timedelta(hours=1)
# What is in quarantine is little enough that a day of it costs less than one more list.
_NEAR: Final = timedelta(hours=24)
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
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._secret = secret
        self._session = session
        self._clock = clock
        self._monotonic = monotonic
        self._holds = holds
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
        look = _Look(self._calls(account_id, seconds, budget, mark), self._clock())
        if len(ids) > _FEW:
            held = self._held(account_id, ids)
            look.list_around([each for each in ids if each not in held])
            self._hold(account_id, look)
            look.found |= held | look.seen(ids)
        look.read([each for each in ids if each not in look.found][:_SINGLES])
        return look.found

    def _calls(self, account_id: AccountId, seconds: float, budget: Budget, mark: Mark) -> Calls:
        ends_at, session, secret = self._monotonic() + seconds, self._session, self._secret
        return Calls(session, self._base_url, account_id, secret, ends_at, budget, self._clock, mark, self._monotonic)

    def _find(self, calls: Calls, question: Question) -> Sequence[Details] | NotRead:
        found: dict[MessageId, Details] = {}
        for number, page in enumerate(calls.pages(question.query), start=1):
            if page.why is not None:
                return page.why if page.why in (NotRead.NOT_NOW, NotRead.REFUSED) else NotRead.FAILED
            for entry in page.entries:
                details = details_of(entry, self._clock())
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
            if self._holds and len(entries) == 1 and entries[0].is_quarantined:
                self._listed[account_id, part] = (look.now, entries[0], not look.unsure)


@dataclass(slots=True)
class _Look:
    """One run of reading. `entries` are those of the lists, by message.

    `unsure` is why the list in which a message was looked for was not read to its end: beside what it showed, a second
    message may go by the same postfix id. `unread` is why bare ids could not be read by path.
    """

    calls: Calls
    now: datetime
    pages: int = 0
    is_offered: bool = False
    sought: set[MessageId] = field(default_factory=set)
    unsure: dict[MessageId, NotRead] = field(default_factory=dict)
    unread: dict[MessageId, NotRead] = field(default_factory=dict)
    entries: dict[PostfixPart, list[Details]] = field(default_factory=dict)
    found: dict[MessageId, Details | NotRead] = field(default_factory=dict)

    def list_around(self, ids: Sequence[MessageId], kind: Mapping[str, str] = _HELD) -> None:
        """List this kind of mail around the times of the ids, until all are found or the pages are used up."""
        self.sought.update(ids)
        wanted = [Wanted(postfix_part(each), each) for each in ids]
        for window in windows_of(wanted, self.now, *([_NEAR] if kind is _HELD else [])):
            why = self._list(window, kind)
            if why is not None:
                self.unsure |= {one.message_id: why for one in window.wanted}

    def _list(self, window: Window, kind: Mapping[str, str]) -> NotRead | None:
        """List one stretch of time; return why that was not done to its end, if it was not."""
        if self.pages >= _PAGES:
            return NotRead.NOT_NOW
        query = {"start": _rfc3339(window.start), "end": _rfc3339(window.end), **kind}
        for page in self.calls.pages(query):
            self.pages += 1
            self.is_offered |= page.why is None
            self._take_in(page.entries)
            are_found = all(one.part in self.entries and not is_partial(one.message_id) for one in window.wanted)
            if page.why is NotRead.ABSENT:  # a list that is not there tells of no message
                return NotRead.NOT_OFFERED
            if page.is_last or page.why is not None:
                return page.why
            if are_found or self.pages >= _PAGES:
                return NotRead.TOO_MANY
        return NotRead.FAILED

    def seen(self, ids: Iterable[MessageId]) -> dict[MessageId, Details | NotRead]:
        """Return what the lists showed of ids, where it can be no other message's."""
        shown: dict[MessageId, Details | NotRead] = {}
        for each in ids:
            own = [one for one in self.entries.get(postfix_part(each), ()) if not contradict(one.message_id, each)]
            if len(own) == 1 and (self.unsure.get(each) in (None, NotRead.TOO_MANY) or not is_partial(each)):
                shown[each] = own[0]
        return shown

    def read(self, ids: Sequence[MessageId]) -> None:
        """Read messages singly: by alert id through the search, else by path; what is bare, at last in the lists."""
        for each in ids:
            if ALERT_ID.match(each):
                self.found[each] = self._search(each)
                continue
            got = self.calls.get(f"/{quote(each, safe='')}")
            result, why = got.content.get("result"), got.why
            if why is None and is_bare(each) and result in (None, []):
                why = NotRead.ABSENT
            if why is None:
                self.found[each] = self._only(dicts(result), each) or NotRead.FAILED
            elif why in (NotRead.ABSENT, NotRead.NOT_OFFERED) and is_bare(each):
                self.unread[each] = why
            else:
                self.found[each] = why
        self._find_unread([each for each in self.unread if each not in self.sought], _HELD)
        self.pages = 0  # else who has filled the first lists would keep everything from being looked for in the others
        open_ids = [each for each in self.unread if not (each in self.unsure or postfix_part(each) in self.entries)]
        self._find_unread(open_ids, _DETECTED)
        self.found |= {each: self._why(each, why) for each, why in self.unread.items()}

    def _find_unread(self, ids: Sequence[MessageId], kind: Mapping[str, str]) -> None:
        self.list_around(ids, kind)
        shown = self.seen(ids)
        self.found |= shown
        for each in shown:
            del self.unread[each]

    def _why(self, message_id: MessageId, why: NotRead) -> NotRead:
        """Say why a bare id is not read that neither its path nor a list has shown."""
        why = self.unsure.get(message_id, why)
        if why not in (NotRead.ABSENT, NotRead.NOT_OFFERED):
            return why
        # What goes by this id may be several messages; and who offers lists offers to read what they hold.
        is_doubtful = postfix_part(message_id) in self.entries or (self.is_offered and why is NotRead.NOT_OFFERED)
        return NotRead.FAILED if is_doubtful else why

    def _search(self, alert_id: MessageId) -> Details | NotRead:
        at = time_of(alert_id, self.now)
        start = {"start": _rfc3339(at - _AROUND)} if at is not None else {}
        page = next(self.calls.pages({"alert_id": alert_id, **start}))
        if page.why is not None or not page.is_last:
            return NotRead.NOT_OFFERED if page.why is NotRead.ABSENT else page.why or NotRead.FAILED
        return self._only(page.entries, alert_id) or (NotRead.FAILED if page.entries else NotRead.ABSENT)

    def _only(self, entries: Sequence[Mapping[str, object]], message_id: MessageId) -> Details | None:
        """Return the one message that answers to an id; of two nobody knows which is meant."""
        part, found = postfix_part(message_id), [details_of(entry, self.now) for entry in entries]
        own = [
            one
            for one in found
            if one and postfix_part(one.message_id) == part and not contradict(one.message_id, message_id)
        ]
        return own[0] if len(own) == 1 else None

    def _take_in(self, entries: Iterable[Mapping[str, object]]) -> None:
        for entry in entries:
            details = details_of(entry, self.now)
            if details is not None:
                known = self.entries.setdefault(postfix_part(details.message_id), [])
                if details not in known:
                    known.append(details)


def _rfc3339(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")
