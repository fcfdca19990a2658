"""Looks up at Cloudflare what became of messages: in packs by listing, singly only what the lists did not show."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

from quarantine_release.cloudflare import Secret
from quarantine_release.cloudflare_calls import Calls
from quarantine_release.deadline import DeadlineSession
from quarantine_release.outcome import AccountId, Evidence, MessageId, PostfixPart, Reading, Seen, Wanted, fullest
from quarantine_release.ports import Budget
from quarantine_release.reading import agree, clarify, dicts, is_partial, match, windows_of

_PAGES_AT_ONCE: Final = 12
# Of the 100 single reads a minute and account that we allow ourselves, each message may take two.
_SINGLES_AT_ONCE: Final = 40
# So few are cheaper read one by one than listed with whatever else arrived around them.
_FEW: Final = 2


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
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._secret = secret
        self._session = session
        self._clock = clock
        self._monotonic = monotonic
        self._pause = pause

    def read(
        self, account_id: AccountId, wanted: Sequence[Wanted], seconds: float, budget: Budget
    ) -> Mapping[PostfixPart, Reading]:
        """Read messages within so many seconds and the budget; what is left out is UNREAD. Raises LedgerUnavailable."""
        ends_at = self._monotonic() + seconds
        common = (self._session, self._base_url, account_id, self._secret, ends_at, budget, self._clock)
        calls = Calls(*common, monotonic=self._monotonic, pause=self._pause)
        search = _Search(calls, self._clock())
        # A list shows that a message was released, not when: of one that was released before, it can tell only the id.
        listable = [one for one in wanted if one.since is None or is_partial(one.message_id)]
        if len(listable) > _FEW:
            search.list_around(listable)
            search.believe_lists(listable)
        for one in [one for one in wanted if one.part not in search.readings][:_SINGLES_AT_ONCE]:
            search.read_one(one)
        return search.readings


@dataclass(slots=True)
class _Search:
    """One run. `listed` is what the lists showed, `readings` what is to be believed."""

    calls: Calls
    now: datetime
    pages: int = 0
    is_incomplete: bool = False
    sought: set[PostfixPart] = field(default_factory=set)
    listed: dict[PostfixPart, Reading] = field(default_factory=dict)
    readings: dict[PostfixPart, Reading] = field(default_factory=dict)

    def list_around(self, wanted: Sequence[Wanted]) -> None:
        """List page by page until everything is found or the pages of one run are used up."""
        self.sought.update(one.part for one in wanted)
        for window in windows_of(wanted, self.now):
            if all(self._is_found(one) for one in window.wanted):
                continue
            if self.pages >= _PAGES_AT_ONCE:
                self.is_incomplete = True
                return
            for page in self.calls.pages({"start": _rfc3339(window.start), "end": _rfc3339(window.end)}):
                self.pages += 1
                for part, reading in match(page.entries, wanted, page.evidence).items():
                    self.listed[part] = agree(self.listed.get(part, reading), reading)
                if page.is_last or all(self._is_found(one) for one in window.wanted):
                    break
                if self.pages >= _PAGES_AT_ONCE:
                    self.is_incomplete = True
                    return
            else:
                self.is_incomplete = True  # a list is at its end only if it says so

    def _is_found(self, one: Wanted) -> bool:
        """Say whether no other page can matter: for "still quarantined", no second message may go by the same id."""
        reading = self.listed.get(one.part)
        return reading is not None and (reading.seen is Seen.RELEASED or not is_partial(one.message_id))

    def believe_lists(self, wanted: Sequence[Wanted]) -> None:
        """Take over what the lists showed, but what was unclear: the single read may clarify it."""
        for one in wanted:
            reading = self.listed.get(one.part)
            if reading is not None and reading.seen is not Seen.UNCLEAR and one.since is None:
                self._believe(one, reading)

    def _believe(self, one: Wanted, reading: Reading) -> None:
        """Take a reading over; but "still quarantined" of a partial id only if no other message may go by it."""
        if reading.seen is not Seen.QUARANTINED or not (is_partial(one.message_id) and self.is_incomplete):
            self.readings[one.part] = reading

    def read_one(self, one: Wanted) -> None:
        """Read one message by its fullest id, and its action log unless the message itself shows its release."""
        path = f"/{quote(self._fullest_id(one), safe='')}"
        content, evidence = self._get(path)
        if evidence.status == 404:
            self._read_missing(one, evidence)
            return
        reading = match(dicts(content.get("result")), [one], evidence).get(one.part)
        if reading is None:
            return
        if one.since is not None or reading.seen is not Seen.RELEASED:
            log, evidence = self._get(f"{path}/action_log")
            if not log and evidence.status != 404:
                return
            reading = clarify(reading, dicts(log.get("result")), one.since, evidence)
        self._believe(one, reading)

    def _read_missing(self, one: Wanted, evidence: Evidence) -> None:
        """Look in the lists for what cannot be read by its partial id; absent is what they do not show either."""
        if is_partial(one.message_id) and one.part not in self.sought:
            self.list_around([one])
            if one.part in self.listed:
                self.read_one(one)
                return
        if one.part in self.listed:
            self.readings[one.part] = Reading(Seen.UNCLEAR, evidence)
        elif not (is_partial(one.message_id) and self.is_incomplete):
            self.readings[one.part] = Reading(Seen.ABSENT, evidence)

    def _fullest_id(self, one: Wanted) -> MessageId:
        """Return the id to read a message by, which a list may have told."""
        told = self.listed.get(one.part)
        return one.message_id if told is None or told.message_id is None else fullest((one.message_id, told.message_id))

    def _get(self, path: str) -> tuple[dict[str, Any], Evidence]:
        got = self.calls.get(path)
        return got.content, got.evidence


def _rfc3339(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")
