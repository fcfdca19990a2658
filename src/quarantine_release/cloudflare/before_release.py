"""Finds messages at Cloudflare and reads what they are, before a release: in packs first, singly for the rest."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from quarantine_release.cloudflare.details_walk import DetailsWalk
from quarantine_release.cloudflare.log_pages import without_doubt
from quarantine_release.cloudflare.matching import matches, query_of
from quarantine_release.cloudflare.search import SearchApi, SearchSession
from quarantine_release.cloudflare.walk import FEW, SINGLES
from quarantine_release.domain.call_limit import Mark
from quarantine_release.domain.details import Details, NotRead, NotYetRead, Several, Unclear, Unreadable
from quarantine_release.domain.ids import AccountId, MessageId, PostfixPart, contradict, postfix_part
from quarantine_release.domain.lookup import Question
from quarantine_release.domain.search_rows import meant_by
from quarantine_release.releasing.ports import Budget

# When a list was begun, and what it showed.
_Listed = tuple[datetime, Details]


class CloudflareLookup:
    """Cloudflare's Email Security search, for the accounts of one secret.

    What a list has shown serves later looks too for as long as `holds`: a burst would else have the worker list the
    same quarantine for each of its packs.
    """

    def __init__(self, search: SearchApi, *, holds: timedelta = timedelta(0)) -> None:
        self._search = search
        self._holds = holds
        self._listed: dict[tuple[AccountId, PostfixPart], _Listed] = {}

    def find(
        self, account_id: AccountId, questions: Sequence[Question], seconds: float, budget: Budget, mark: Mark
    ) -> Mapping[Question, Sequence[Details] | NotRead | Unclear]:
        """Search for what each question may mean; what is left out is NOT_NOW. Raises LedgerUnavailable."""
        calls = self._search.begin(account_id, seconds, budget, mark)
        return {question: self._find(calls, question) for question in questions[:SINGLES]}

    def look(
        self, account_id: AccountId, ids: Sequence[MessageId], seconds: float, budget: Budget, mark: Mark
    ) -> Mapping[MessageId, Details | Several | NotRead]:
        """Read messages; what is left out is NOT_NOW. Raises LedgerUnavailable."""
        calls = self._search.begin(account_id, seconds, budget, mark)
        walk = DetailsWalk(calls, self._search.clock(), seconds)
        if len(ids) > FEW:
            held = self._held(account_id, ids)
            walk.list_mail([each for each in ids if each not in held])
            self._hold(account_id, walk)
            walk.found |= held | walk.seen(ids)
        singly = [each for each in ids if each not in walk.found][:SINGLES]
        walk.read(singly)
        return self._without_doubts(calls, walk.found, SINGLES - len(singly))

    def _without_doubts(
        self, calls: SearchSession, found: Mapping[MessageId, Details | Several | NotRead], logs: int
    ) -> Mapping[MessageId, Details | Several | NotRead]:
        """Read the action log of at most so many messages that are shown as held and as released."""
        doubtful = {key: each for key, each in found.items() if isinstance(each, Details) and each.is_doubtful}
        read = {each: without_doubt(calls.get, details) for each, details in islice(doubtful.items(), logs)}
        return {**found, **dict.fromkeys(doubtful, NotYetRead.NOT_NOW), **read}

    def _find(self, calls: SearchSession, question: Question) -> Sequence[Details] | NotRead | Unclear:
        entries = calls.whole(query_of(question))
        if isinstance(entries, list):
            return self._matches(calls, question, entries)
        return entries if isinstance(entries, NotYetRead) else Unreadable.FAILED

    def _matches(
        self, calls: SearchSession, question: Question, entries: Sequence[Mapping[str, Any]]
    ) -> Sequence[Details] | NotRead | Unclear:
        matching = matches(entries, question, self._search.clock())
        if isinstance(matching, Unreadable | Unclear) or len(matching) != 1:
            return matching
        shown: Details | Several | NotRead = matching[0]
        if question.is_narrowed:
            # Cloudflare leaves out the rows for other recipients, senders and times, which the guard must know too.
            shown = DetailsWalk(calls, self._search.clock(), calls.seconds_left).completed(matching[0])
        if isinstance(shown, Details) and shown.is_doubtful:
            shown = without_doubt(calls.get, shown)
        if isinstance(shown, Details):
            return [shown]
        if isinstance(shown, NotYetRead):
            return shown
        why = shown if shown is Unreadable.CONTRADICTED else Unreadable.FAILED
        return Unclear((matching[0].message_id,), why)

    def _held(self, account_id: AccountId, ids: Iterable[MessageId]) -> dict[MessageId, Details]:
        listed = [(message_id, self._listed.get((account_id, postfix_part(message_id)))) for message_id in ids]
        since = self._search.clock() - self._holds
        return {
            message_id: one[1]
            for message_id, one in listed
            if one is not None and one[0] > since and not contradict(one[1].message_id, message_id)
        }

    def _hold(self, account_id: AccountId, walk: DetailsWalk) -> None:
        """Keep what was in quarantine when the look began; what was not may be there any moment.

        A list that was not read to its end proves nothing, so nothing of it is kept.
        """
        self._listed = {key: held for key, held in self._listed.items() if held[0] > walk.now - self._holds}
        if not self._holds or walk.unsure:
            return
        for part, rows in walk.rows.items():
            details = None if part in walk.unclear else meant_by(MessageId(part), rows)
            if isinstance(details, Details) and details.is_quarantined and not details.is_doubtful:
                self._listed[account_id, part] = (walk.now, details)
