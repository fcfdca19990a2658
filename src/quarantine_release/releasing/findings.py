"""What lookup and guard found out about the ids of one run, before a claim: which end, which wait, who is to know.

Pure but for its ports. The ledger is read again before an end that a release through it could explain.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from quarantine_release.domain.details import Details, NotRead, NotYetRead, Several
from quarantine_release.domain.facts import Facts, add_reading
from quarantine_release.domain.guard import Ended
from quarantine_release.domain.ids import MessageId, PostfixPart, RequestId, is_header, postfix_part
from quarantine_release.domain.ledger_errors import LedgerUnavailable
from quarantine_release.domain.packing import WantedRelease
from quarantine_release.domain.rows import RequestRow, Target
from quarantine_release.domain.search_lag import PATIENCE, TOO_NEW, retry_seconds
from quarantine_release.domain.states import Code, may_claim
from quarantine_release.releasing.asking import ask_for
from quarantine_release.releasing.ports import Ports
from quarantine_release.releasing.progress import Progress

Told = Details | Several | NotRead
# A rule forbids the mail, whether or not another request has released it meanwhile.
_OF_RULES: Final = frozenset({Code.DISPOSITION_NOT_ALLOWED, Code.MESSAGE_TOO_OLD, Code.RECIPIENT_NOT_ALLOWED})


@dataclass(frozen=True, slots=True)
class _End:
    """How ids of a request end. `part` None: it is not known which message they mean."""

    name: RequestId
    given: tuple[MessageId, ...]
    ended: Ended
    part: PostfixPart | None = None

    @property
    def is_doubtful(self) -> bool:
        """Whether a concurrent release through this ledger could explain the end."""
        return self.part is not None and self.ended.code not in _OF_RULES


class Findings:
    """The ends of one run's ids. `moved` are the messages that another process took on while they were read."""

    def __init__(self, progress: Progress, ports: Ports) -> None:
        self._progress = progress
        self._ports = ports
        self._before = dict(progress.requests)
        self._proposed: list[_End] = []
        self._waiting: list[_End] = []
        self._searchable_at: dict[PostfixPart, datetime] = {}
        self.moved: set[PostfixPart] = set()
        # What was read of messages, for the ledger to keep.
        self.facts: dict[PostfixPart, Facts] = {}
        self.is_refused = False

    @property
    def is_waiting(self) -> bool:
        """Say whether anything could not be read for now."""
        return bool(self._waiting)

    def keep(self, part: PostfixPart, facts: Facts) -> Facts:
        """Have the ledger keep what was read of a message; return it with what this run read of it before."""
        return add_reading(self.facts, part, facts)

    def end(self, name: RequestId, given: Iterable[MessageId], ended: Ended) -> None:
        """End ids of a request at once."""
        request = self._progress.requests[name]
        self._progress.replace(replace(request, ended={**request.ended, **dict.fromkeys(given, ended)}))

    def propose(
        self, name: RequestId, part: PostfixPart, ended: Ended, given: Iterable[MessageId] | None = None
    ) -> None:
        """End a message for a request with `conclude`, unless its row has moved by then; or only some of its ids.

        What is proposed first for an id counts.
        """
        self._proposed.append(_End(name, self._given(name, part) if given is None else tuple(given), ended, part))

    def wait(self, name: RequestId, part: PostfixPart, why: NotYetRead, ended: Ended) -> None:
        """Let a message wait that cannot be read for now; `ended` applies if nobody continues with it."""
        self._wait(_End(name, self._given(name, part), ended, part), why)

    def wait_for_search(self, name: RequestId, part: PostfixPart, searchable_at: datetime) -> None:
        """Let a message wait that is too new for Cloudflare's search."""
        self._waiting.append(_End(name, self._given(name, part), TOO_NEW, part))
        self._searchable_at[part] = searchable_at

    @property
    def are_all_new(self) -> bool:
        """Whether all that waits is too new for Cloudflare's search."""
        return bool(self._waiting) and all(end.part in self._searchable_at for end in self._waiting)

    def searchable_in(self, now: datetime) -> float:
        """Return in how many seconds all that waits should be searchable: one at least, ten minutes at most.

        An id may be dated up to a day ahead, and nothing waits longer than that for its mail.
        """
        wait = max(1.0, *((at - now).total_seconds() for at in self._searchable_at.values()))
        return min(wait, PATIENCE.total_seconds())

    def retries(self, now: datetime, otherwise: float, longest: float = 0.0) -> dict[RequestId, float]:
        """Return after how many seconds to look again for each request that waits.

        If not all that it waits for is new, it is `otherwise`, and doubles up to `longest` while nothing is found out.
        """
        others = {end.name for end in self._waiting if end.part not in self._searchable_at}
        waited = {end.name: now - self._progress.requests[end.name].created_at for end in self._waiting}
        lag, retries = self._ports.guard.search_lag, dict[RequestId, float]()
        for name, each in waited.items():
            if name not in others:
                retries[name] = retry_seconds(lag, each)
            elif self._progress.requests[name] is self._before[name]:  # the time waited so far doubles with each wait
                retries[name] = max(otherwise, min(longest, each.total_seconds()))
            else:
                retries[name] = otherwise
        return retries

    def wait_for_meaning(self, name: RequestId, given: Iterable[MessageId], why: NotYetRead, ended: Ended) -> None:
        """Let Message-IDs wait that cannot be looked up for now."""
        self._wait(_End(name, tuple(given), ended), why)

    def end_waiting(self) -> None:
        """End what could not be read for now, because nobody will continue with it. Raises LedgerUnavailable."""
        self._proposed += self._waiting
        self._waiting.clear()
        self.conclude()

    def conclude(self) -> None:
        """Apply the proposed ends, except for messages whose rows moved since they were read.

        A claim is written before its call goes out. So if Cloudflare showed the effect of a call, a read of the ledger
        after that shows the claim. One round trip for 100 messages, and only if an end is in doubt. Raises
        LedgerUnavailable.
        """
        proposed, self._proposed = self._proposed, []
        moved = self._moved({end.part for end in proposed if end.is_doubtful and end.part is not None})
        for end in proposed:
            if end.part not in moved or not end.is_doubtful:
                known = self._progress.requests[end.name].ended
                self.end(end.name, [given for given in end.given if given not in known], end.ended)
        self.moved |= moved

    def save(self, wants: Sequence[WantedRelease]) -> list[WantedRelease]:
        """Write down what was found out of accepted requests; return what may still be claimed."""
        others = set()
        for name, before in self._before.items():
            after = self._progress.requests[name]
            if after is before:
                continue
            self.tell_trace(after, before)  # first: with an end that is written nobody would come back for this
            actual = self._ports.ledger.note(before, after)
            if actual is not None:  # somebody else was first, and what he found out is what counts
                self._progress.replace(actual)
                others.add(name)
            else:
                self._progress.replace(replace(after, notes=before.notes + 1))
        kept = (replace(want, requests=tuple(name for name in want.requests if name not in others)) for want in wants)
        return [want for want in kept if want.requests]

    def tell_trace(self, request: RequestRow, before: RequestRow | None = None) -> None:
        """Have the trace of each message know of a request that ended before it was claimed, and keep what was read.

        Raises LedgerUnavailable if what was read cannot be kept: another id of the message could else pass unread. That
        the trace lacks a request alone hides no answer, since the request itself tells of it.
        """
        ended = request.ended_parts - (before.ended_parts if before is not None else frozenset())
        parts = sorted(part for part in ended if not is_header(MessageId(part)))
        try:
            self._tell_trace(request, parts)
        except LedgerUnavailable:
            if not self.facts.keys().isdisjoint(parts):
                raise

    def _tell_trace(self, request: RequestRow, parts: Sequence[PostfixPart]) -> None:
        unknown = [part for part in parts if part not in self._progress.rows]
        until = self._ports.terms.expiry(self._ports.clock())
        self._ports.ledger.note_unclaimed(self._progress.account_id, unknown, request.request_id, until, self.facts)
        known = [self._progress.rows[part] for part in parts if part in self._progress.rows]
        names = (request.request_id,)
        wants = [
            WantedRelease(Target(row.part, row.message_id), names, facts=self.facts.get(row.part)) for row in known
        ]
        ask_for(self._progress, wants)

    def _given(self, name: RequestId, part: PostfixPart) -> tuple[MessageId, ...]:
        request = self._progress.requests[name]
        left = (each for each in request.ids if each not in request.ended)
        return tuple(each for each in left if postfix_part(request.resolved.get(each, each)) == part)

    def _wait(self, end: _End, why: NotYetRead) -> None:
        self.is_refused |= why is NotYetRead.REFUSED
        self._waiting.append(end)

    def _moved(self, parts: set[PostfixPart]) -> set[PostfixPart]:
        """Read rows again; return which another process has taken on since, and not given back.

        A row that may be claimed says nothing of the message: what was read at Cloudflare counts.
        """
        if not parts:
            return set()
        before = {part: self._progress.rows.get(part) for part in parts}
        rows = self._ports.ledger.messages(self._progress.account_id, sorted(parts))
        self._progress.learn(rows)
        return {
            part
            for part, row in rows.items()
            if not may_claim(row.state, row.code, force=False)
            and ((known := before[part]) is None or (known.state, known.attempt) != (row.state, row.attempt))
        }
