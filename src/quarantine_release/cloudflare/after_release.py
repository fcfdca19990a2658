"""Looks up at Cloudflare what became of messages: in packs by listing, singly only what the lists did not settle."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from urllib.parse import quote

from quarantine_release.cloudflare.action_log import ActionLog, clarify, unnamed
from quarantine_release.cloudflare.client import Secret
from quarantine_release.cloudflare.connection import DeadlineSession
from quarantine_release.cloudflare.entries import agree, dicts, match
from quarantine_release.cloudflare.log_pages import read_log
from quarantine_release.cloudflare.search import Calls, Got
from quarantine_release.cloudflare.windows import Window, windows_of
from quarantine_release.domain.details import NotYetRead, Unreadable
from quarantine_release.domain.ids import AccountId, PostfixPart, fullest, is_partial
from quarantine_release.domain.verdicts import Evidence, Reading, Seen, Wanted
from quarantine_release.releasing.ports import Budget

_PAGES_AT_ONCE: Final = 12

# The single reads that one run makes for an account; the reconciler runs once a minute.
_SINGLES_AT_ONCE: Final = 100

# So few are cheaper read one by one than listed with whatever else arrived around them.
_FEW: Final = 2

_NOT_CALLED: Final = Got({}, Evidence(failure="not_called"), NotYetRead.NOT_NOW)


class CloudflareReader:
    """Reads Cloudflare's Email Security search, for the accounts of one secret."""

    def __init__(
        self,
        base_url: str,
        secret: Secret,
        session: DeadlineSession,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float] = time.monotonic,
        *,
        pause: Callable[[float], None] = time.sleep,
        keeps_recipients: bool = True,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._secret = secret
        self._session = session
        self._clock = clock
        self._monotonic = monotonic
        self._pause = pause
        self._keeps_recipients = keeps_recipients

    def read(
        self, account_id: AccountId, wanted: Sequence[Wanted], seconds: float, budget: Budget
    ) -> Mapping[PostfixPart, Reading]:
        """Read messages within so many seconds and the budget; what is left out is UNREAD. Raises LedgerUnavailable."""
        ends_at = self._monotonic() + seconds
        common = (self._session, self._base_url, account_id, self._secret, ends_at, budget, self._clock)
        calls = Calls(*common, monotonic=self._monotonic, pause=self._pause)
        search = _Search(calls, self._clock(), seconds)
        # A list shows that a message was released, not when: of one that was released before, it can tell only the id.
        listable = [one for one in wanted if one.since is None or is_partial(one.message_id)]
        if len(listable) > _FEW:
            search.list_around(listable)
            search.believe_lists(listable)
        for one in wanted:
            if one.part not in search.readings:
                search.read_one(one)
        if self._keeps_recipients:
            return search.readings
        return {part: unnamed(reading) for part, reading in search.readings.items()}


@dataclass(slots=True)
class _Search:
    """One run, of so many seconds. `listed` is what the lists showed, `readings` what is to be believed.

    `unsure` are messages around which not everything was listed: another row may contradict what was listed.
    """

    calls: Calls
    now: datetime
    seconds: float
    pages: int = 0
    singles: int = 0
    sought: set[PostfixPart] = field(default_factory=set)
    unsure: set[PostfixPart] = field(default_factory=set)
    listed: dict[PostfixPart, Reading] = field(default_factory=dict)
    readings: dict[PostfixPart, Reading] = field(default_factory=dict)

    def list_around(self, wanted: Sequence[Wanted]) -> None:
        """List everything around the times of the messages, until pages or time are used up."""
        self.sought.update(one.part for one in wanted)
        for window in windows_of(wanted, self.now):
            if not self._list(window, wanted):
                self.unsure.update(one.part for one in window.wanted)

    def _list(self, window: Window, wanted: Sequence[Wanted]) -> bool:
        """List one stretch of time; return whether that was done to its end, which only the list itself can say."""
        if not self._may_list:
            return False
        for page in self.calls.pages(window.query):
            self.pages += 1
            for part, reading in match(page.entries, wanted, page.evidence).items():
                self.listed[part] = agree(self.listed.get(part, reading), reading)
            if page.is_last:
                return True
            if not self._may_list:
                break
        return False

    @property
    def _may_list(self) -> bool:
        # A third of the time is for single reads: without them, nothing that is still quarantined would ever be freed.
        return self.pages < _PAGES_AT_ONCE and self.calls.seconds_left >= self.seconds / 3

    def believe_lists(self, wanted: Sequence[Wanted]) -> None:
        """Take over the releases that the lists prove."""
        for one in wanted:
            reading = self.listed.get(one.part)
            is_proved = reading is not None and reading.seen is Seen.RELEASED and one.part not in self.unsure
            if reading is not None and is_proved and one.since is None:
                self.readings[one.part] = reading

    def read_one(self, one: Wanted) -> None:
        """Read one message: only its action log where the lists have shown the message itself."""
        listed = self.listed.get(one.part)
        if listed is None or listed.message_id is None or one.since is not None or one.part in self.unsure:
            self._read_by_path(one)
        elif listed.seen is not Seen.QUARANTINED or one.may_free:
            log = read_log(self._get, self._path(one))
            if log.why is Unreadable.ABSENT:  # a message without actions, or one that is not found by this id
                self._read_by_path(one, log)
            else:
                self._believe(one, clarify(listed, log, None))

    def _read_by_path(self, one: Wanted, log: ActionLog | None = None) -> None:
        """Read one message by its fullest id, and its action log unless the message itself proves its release."""
        path = self._path(one)
        got = self._get(path)
        if got.evidence.status == 404:
            self._read_missing(one, got.evidence)
            return
        reading = match(dicts(got.content.get("result")), [one], got.evidence).get(one.part)
        if reading is None:
            return
        if reading.message_id is not None and (one.since is not None or reading.seen is not Seen.RELEASED):
            reading = clarify(reading, log or read_log(self._get, path), one.since)
        self._believe(one, reading)

    def _believe(self, one: Wanted, reading: Reading | None) -> None:
        """Take a reading over; but "still quarantined" of a partial id only if no other message may go by it."""
        if reading is None:
            return
        if reading.seen is not Seen.QUARANTINED or not (is_partial(one.message_id) and one.part in self.unsure):
            self.readings[one.part] = reading

    def _read_missing(self, one: Wanted, evidence: Evidence) -> None:
        """Look in the lists for what cannot be read by its partial id; absent is what they do not show either."""
        if is_partial(one.message_id) and one.part not in self.sought:
            self.list_around([one])
            self.believe_lists([one])
            if one.part in self.listed and one.part not in self.readings:
                self.read_one(one)
            if one.part in self.listed:
                return
        if one.part in self.listed:
            self.readings[one.part] = Reading(Seen.UNCLEAR, evidence)
        elif not (is_partial(one.message_id) and one.part in self.unsure):
            self.readings[one.part] = Reading(Seen.ABSENT, evidence)

    def _path(self, one: Wanted) -> str:
        """Return the path of a message by the fullest id that is known; a list may have told a fuller one."""
        told = self.listed.get(one.part)
        known = (
            one.message_id if told is None or told.message_id is None else fullest((one.message_id, told.message_id))
        )
        return f"/{quote(known, safe='')}"

    def _get(self, path: str) -> Got:
        if self.singles >= _SINGLES_AT_ONCE:
            return _NOT_CALLED
        self.singles += 1
        return self.calls.get(path)
