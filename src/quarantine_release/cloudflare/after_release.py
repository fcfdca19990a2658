"""Reads at Cloudflare whether messages were released: by lists first, singly if the lists do not settle it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final

from quarantine_release.cloudflare.action_log import ActionLog, clarify, unnamed
from quarantine_release.cloudflare.entries import agree, dicts, match
from quarantine_release.cloudflare.log_pages import read_log
from quarantine_release.cloudflare.search import NOT_CALLED, Got, Page, SearchApi
from quarantine_release.cloudflare.walk import FEW, SINGLES, Kind, Walk, path_of
from quarantine_release.cloudflare.windows import NEAR
from quarantine_release.domain.details import NotYetRead, Unreadable
from quarantine_release.domain.ids import AccountId, PostfixPart, fullest, is_partial
from quarantine_release.domain.verdicts import Evidence, ReadBack, ReadBackTarget, Seen
from quarantine_release.releasing.ports import Budget

# All mail, because a released message may no longer count as detected.
_ALL: Final = Kind({}, NEAR)

_NOT_CALLED: Final = Got({}, NOT_CALLED, NotYetRead.NOT_NOW)


class CloudflareReader:
    """Reads Cloudflare's Email Security search, for the accounts of one secret."""

    def __init__(self, search: SearchApi, *, keeps_recipients: bool = True) -> None:
        self._search = search
        self._keeps_recipients = keeps_recipients

    def read(
        self, account_id: AccountId, wanted: Sequence[ReadBackTarget], seconds: float, budget: Budget
    ) -> Mapping[PostfixPart, ReadBack]:
        """Read messages within so many seconds and the budget; what is left out is UNREAD. Raises LedgerUnavailable."""
        calls = self._search.begin(account_id, seconds, budget)
        walk = OutcomeWalk(calls, self._search.clock(), seconds)
        # A list shows that a message was released, not when: of one that was released before, it can tell only the id.
        listable = [one for one in wanted if one.since is None or is_partial(one.message_id)]
        if len(listable) > FEW:
            walk.list_around(listable, _ALL)
            walk.believe_lists(listable)
        for one in wanted:
            if one.part not in walk.readings:
                walk.read_one(one)
        if self._keeps_recipients:
            return walk.readings
        return {part: unnamed(reading) for part, reading in walk.readings.items()}


@dataclass(slots=True)
class OutcomeWalk(Walk):
    """One walk. `listed` is what the lists showed, `readings` what is to be believed."""

    # Without single reads, nothing that is still quarantined would ever be freed.
    begins_late: ClassVar[bool] = False

    singles: int = 0
    listed: dict[PostfixPart, ReadBack] = field(default_factory=dict)
    readings: dict[PostfixPart, ReadBack] = field(default_factory=dict)

    def take_in(self, page: Page, wanted: Sequence[ReadBackTarget]) -> None:
        for part, reading in match(page.entries, wanted, page.evidence).items():
            self.listed[part] = agree(self.listed.get(part, reading), reading)

    def believe_lists(self, wanted: Sequence[ReadBackTarget]) -> None:
        """Take over the releases that the lists prove."""
        for one in wanted:
            reading = self.listed.get(one.part)
            is_proved = reading is not None and reading.seen is Seen.RELEASED and one.message_id not in self.unsure
            if reading is not None and is_proved and one.since is None:
                self.readings[one.part] = reading

    def read_one(self, one: ReadBackTarget) -> None:
        """Read one message: only its action log where the lists have shown the message itself."""
        listed = self.listed.get(one.part)
        if listed is None or listed.message_id is None or one.since is not None or one.message_id in self.unsure:
            self._read_by_path(one)
        elif listed.seen is not Seen.QUARANTINED or one.may_free:
            log = read_log(self._get, self._path(one))
            if log.why is Unreadable.ABSENT:  # a message without actions, or one that is not found by this id
                self._read_by_path(one, log)
            else:
                self._believe(one, clarify(listed, log, None))

    def _read_by_path(self, one: ReadBackTarget, log: ActionLog | None = None) -> None:
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

    def _believe(self, one: ReadBackTarget, reading: ReadBack | None) -> None:
        """Accept a reading; "still quarantined" of a partial id only if no other message can have that id."""
        if reading is None:
            return
        if reading.seen is not Seen.QUARANTINED or not (is_partial(one.message_id) and one.message_id in self.unsure):
            self.readings[one.part] = reading

    def _read_missing(self, one: ReadBackTarget, evidence: Evidence) -> None:
        """Look in the lists for what cannot be read by its partial id; absent is what they do not show either."""
        if is_partial(one.message_id) and one.message_id not in self.sought:
            self.list_around([one], _ALL)
            self.believe_lists([one])
            if one.part in self.listed and one.part not in self.readings:
                self.read_one(one)
            if one.part in self.listed:
                return
        if one.part in self.listed:
            self.readings[one.part] = ReadBack(Seen.UNCLEAR, evidence)
        elif not (is_partial(one.message_id) and one.message_id in self.unsure):
            self.readings[one.part] = ReadBack(Seen.ABSENT, evidence)

    def _path(self, one: ReadBackTarget) -> str:
        """Return the path of a message by the fullest id that is known; a list may have shown a fuller one."""
        listed = self.listed.get(one.part)
        if listed is None or listed.message_id is None:
            return path_of(one.message_id)
        return path_of(fullest((one.message_id, listed.message_id)))

    def _get(self, path: str) -> Got:
        if self.singles >= SINGLES:
            return _NOT_CALLED
        self.singles += 1
        return self.calls.get(path)
