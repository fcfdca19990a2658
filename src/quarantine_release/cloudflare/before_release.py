"""Finds messages at Cloudflare and reads what they are, before a release: in packs first, singly for the rest."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from quarantine_release.cloudflare.client import Secret
from quarantine_release.cloudflare.connection import DeadlineSession
from quarantine_release.cloudflare.log_pages import without_doubt
from quarantine_release.cloudflare.matching import matches, query_of
from quarantine_release.cloudflare.search import Calls
from quarantine_release.cloudflare.walk import SEARCH_PAGES, Look
from quarantine_release.domain.call_limit import Mark
from quarantine_release.domain.details import Details, NotRead, NotYetRead, Several, Unclear, Unreadable
from quarantine_release.domain.ids import AccountId, MessageId, PostfixPart, contradict, postfix_part
from quarantine_release.domain.lookup import Question
from quarantine_release.domain.search_rows import meant_by
from quarantine_release.releasing.ports import Budget

# So few are cheaper read one by one than listed with whatever else arrived around them.
_FEW: Final = 2

_SINGLES: Final = 100

# When a list was begun, and what it showed.
_Listed = tuple[datetime, Details]


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
    ) -> Mapping[Question, Sequence[Details] | NotRead | Unclear]:
        """Search for what each question may mean; what is left out is NOT_NOW. Raises LedgerUnavailable."""
        calls = self._calls(account_id, seconds, budget, mark)
        return {question: self._find(calls, question) for question in questions[:_SINGLES]}

    def look(
        self, account_id: AccountId, ids: Sequence[MessageId], seconds: float, budget: Budget, mark: Mark
    ) -> Mapping[MessageId, Details | Several | NotRead]:
        """Read messages; what is left out is NOT_NOW. Raises LedgerUnavailable."""
        calls = self._calls(account_id, seconds, budget, mark)
        look = Look(calls, self._clock(), seconds)
        if len(ids) > _FEW:
            held = self._held(account_id, ids)
            look.list_around([each for each in ids if each not in held])
            self._hold(account_id, look)
            look.found |= held | look.seen(ids)
        singly = [each for each in ids if each not in look.found][:_SINGLES]
        look.read(singly)
        return self._without_doubts(calls, look.found, _SINGLES - len(singly))

    def _without_doubts(
        self, calls: Calls, found: Mapping[MessageId, Details | Several | NotRead], logs: int
    ) -> Mapping[MessageId, Details | Several | NotRead]:
        """Read the action log of at most so many messages that are shown as held and as released."""
        doubtful = {each: told for each, told in found.items() if isinstance(told, Details) and told.is_doubtful}
        read = {each: without_doubt(calls.get, told) for each, told in list(doubtful.items())[:logs]}
        return {**found, **dict.fromkeys(doubtful, NotYetRead.NOT_NOW), **read}

    def _calls(self, account_id: AccountId, seconds: float, budget: Budget, mark: Mark) -> Calls:
        ends_at, session, secret = self._monotonic() + seconds, self._session, self._secret
        return Calls(
            session,
            self._base_url,
            account_id,
            secret,
            ends_at,
            budget,
            self._clock,
            mark,
            self._monotonic,
            self._pause,
        )

    def _find(self, calls: Calls, question: Question) -> Sequence[Details] | NotRead | Unclear:
        entries: list[Mapping[str, Any]] = []
        for number, page in enumerate(calls.pages(query_of(question)), start=1):
            if page.why is not None:
                return page.why if isinstance(page.why, NotYetRead) else Unreadable.FAILED
            entries += page.entries
            if page.is_last:
                return self._matches(calls, question, entries)
            if number == SEARCH_PAGES:
                break
        return Unreadable.FAILED  # of a search that has no end nobody knows what else it holds

    def _matches(
        self, calls: Calls, question: Question, entries: Sequence[Mapping[str, Any]]
    ) -> Sequence[Details] | NotRead | Unclear:
        found = matches(entries, question, self._clock())
        if isinstance(found, Unreadable | Unclear) or len(found) != 1:
            return found
        told: Details | Several | NotRead = found[0]
        if question.is_narrowed:
            # Cloudflare leaves out the rows for other recipients, senders and times, which the guard must know too.
            told = Look(calls, self._clock(), calls.seconds_left).completed(found[0])
        if isinstance(told, Details) and told.is_doubtful:
            told = without_doubt(calls.get, told)
        if isinstance(told, Details):
            return [told]
        if isinstance(told, NotYetRead):
            return told
        return Unclear(
            (found[0].message_id,), Unreadable.CONTRADICTED if told is Unreadable.CONTRADICTED else Unreadable.FAILED
        )

    def _held(self, account_id: AccountId, ids: Iterable[MessageId]) -> dict[MessageId, Details]:
        listed = [(each, self._listed.get((account_id, postfix_part(each)))) for each in ids]
        since = self._clock() - self._holds
        return {
            each: one[1]
            for each, one in listed
            if one is not None and one[0] > since and not contradict(one[1].message_id, each)
        }

    def _hold(self, account_id: AccountId, look: Look) -> None:
        """Keep what was in quarantine when the look began; what was not may be there any moment.

        A list that was not read to its end proves nothing, so nothing of it is kept.
        """
        self._listed = {key: held for key, held in self._listed.items() if held[0] > look.now - self._holds}
        if not self._holds or look.unsure:
            return
        for part, rows in look.rows.items():
            told = None if part in look.unclear else meant_by(MessageId(part), rows)
            if isinstance(told, Details) and told.is_quarantined and not told.is_doubtful:
                self._listed[account_id, part] = (look.now, told)
