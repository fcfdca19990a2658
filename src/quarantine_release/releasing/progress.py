"""Requests on their way through claim, call and record, and what they come to. Pure but for its ports."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import Final

from quarantine_release.domain.details import Details
from quarantine_release.domain.facts import NO_FACTS, Facts, combined
from quarantine_release.domain.ids import AccountId, MessageId, PostfixPart, RequestId
from quarantine_release.domain.ledger_errors import LedgerUnavailable, RowUnreadable
from quarantine_release.domain.packing import PlannedCall
from quarantine_release.domain.results import Result, derive_results
from quarantine_release.domain.reuse import is_to_be_compared
from quarantine_release.domain.rows import MessageRow, RequestRow, RequestState, Target, targets_by_part
from quarantine_release.domain.states import FINAL, Code, Outcome
from quarantine_release.domain.transitions import closed
from quarantine_release.domain.verdicts import Stop
from quarantine_release.releasing.ports import Conflict, LedgerSnapshot, Ports

# A worker that has not looked at a message by then leaves it at the ledger's answer.
_COMPARED_WITHIN: Final = timedelta(seconds=120)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request has come to. `settled` are the messages that reached their end by this very run.

    Of a dry run, `plan` holds the calls that a release would take, and `details` what was read.
    """

    request: RequestRow
    results: tuple[Result, ...]
    replayed: bool = False
    settled: tuple[MessageRow, ...] = ()
    plan: tuple[PlannedCall, ...] = ()
    details: Mapping[PostfixPart, Details] = field(default_factory=dict)

    @property
    def unreadable_ids(self) -> tuple[MessageId, ...]:
        """Return the ids, as given, of which nothing can be told, since the message's row cannot be read."""
        return tuple(each.id for each in self.results if each.row is not None and not each.row.is_readable)


class Acceptance(Enum):
    """How far the acceptance of requests has come. It decides whether a caller may still be told no."""

    # The ledger does not have the request yet: its first claim accepts it. Until then a refusal needs no write.
    NOT_YET = auto()
    # This run accepted it, and made no call for it that may have had an effect. So it can still be refused.
    BY_THIS_RUN = auto()
    # This run accepted it and made a call, which may have released something. So it cannot be refused any more.
    CALLED = auto()
    # An earlier run accepted it, and its caller has an answer: what cannot be done now waits or ends, id by id.
    EARLIER = auto()


class Progress:
    """Requests of one account on their way through claim, call and record, and what is known of their messages.

    It owns what it knows: others read it, and change it through its methods alone.
    """

    def __init__(self, requests: Sequence[RequestRow], ports: Ports, acceptance: Acceptance) -> None:
        """Begin. Only a single request may be one that is not accepted yet."""
        self.account_id: AccountId = requests[0].account_id
        self.ports = ports
        self._acceptance = acceptance
        self._requests = {request.request_id: request for request in requests}
        self._rows: dict[PostfixPart, MessageRow] = {}
        # What was read of messages before, where it is not in their rows.
        self._facts: Mapping[PostfixPart, Facts] = NO_FACTS
        self._settled: list[MessageRow] = []
        self._calls = 0
        # Messages that ended before, of which it was found out, or could not be, whether their ids still mean the same.
        self._compared: set[PostfixPart] = set()
        self._ended: dict[tuple[RequestId, PostfixPart], tuple[Outcome, Code | None]] = {}

    @property
    def requests(self) -> Mapping[RequestId, RequestRow]:
        """Return the requests as they are known by now. One that is gone from the ledger is left out."""
        return self._requests

    @property
    def request(self) -> RequestRow:
        """Return the only request."""
        (request,) = self._requests.values()
        return request

    @property
    def rows(self) -> Mapping[PostfixPart, MessageRow]:
        """Return the messages as they are known by now."""
        return self._rows

    @property
    def settled(self) -> Sequence[MessageRow]:
        """Return the messages that reached their end by this run."""
        return self._settled

    @property
    def calls(self) -> int:
        """Return the number of calls that were claimed."""
        return self._calls

    @property
    def is_accepted(self) -> bool:
        return self._acceptance is not Acceptance.NOT_YET

    @property
    def was_accepted_before(self) -> bool:
        return self._acceptance is Acceptance.EARLIER

    @property
    def has_waiting_caller(self) -> bool:
        """Whether somebody waits for what this run has come to so far."""
        return self._acceptance in (Acceptance.BY_THIS_RUN, Acceptance.CALLED)

    @property
    def may_be_refused(self) -> bool:
        """Whether the caller of an accepted request can still be told that nothing was released."""
        return self._acceptance is Acceptance.BY_THIS_RUN

    def start_from(self, known: LedgerSnapshot) -> None:
        """Know of messages what the ledger knows, and nothing else."""
        self._rows, self._facts = dict(known.messages), known.facts

    def learn(self, rows: Mapping[PostfixPart, MessageRow | None]) -> None:
        """Know messages as they are by now. One that is absent (None) stays as it was known."""
        self._rows |= {part: row for part, row in rows.items() if row is not None}

    def learn_facts(self, facts: Mapping[PostfixPart, Facts]) -> None:
        """Know what was read of messages by now."""
        self._facts = {**self._facts, **facts}

    def learn_from(self, conflict: Conflict) -> None:
        """Know rows as they were when they refused a claim. Nothing may leave for an accepted request that is gone.

        Raises RowUnreadable if that is the request of a waiting caller, who is still told what came of earlier calls.
        """
        for name, request in conflict.requests.items():
            if request is not None:
                self.replace(request)
            elif self._acceptance is Acceptance.EARLIER:
                del self._requests[name]
            else:
                raise RowUnreadable(f"R#{name}", "gone since it was accepted")
        self.learn(conflict.messages)

    def settle(self, rows: Mapping[PostfixPart, MessageRow]) -> None:
        """Know messages as this run wrote them, and which of them reached their end by that."""
        self.learn(rows)
        self._settled += [row for row in rows.values() if row.state in FINAL]

    def compare(self, parts: Iterable[PostfixPart]) -> None:
        """Note of which messages it was found out, or cannot be, whether their ids still mean the same."""
        self._compared |= set(parts)

    def replace(self, request: RequestRow) -> None:
        """Know a request as it is by now."""
        self._requests[request.request_id] = request

    def accept(self, request: RequestRow) -> None:
        """Note that the only request was accepted as this."""
        self.replace(request)
        self._acceptance = Acceptance.BY_THIS_RUN

    def count_call(self) -> None:
        """Count a call that was claimed."""
        self._calls += 1

    def note_call(self) -> None:
        """Note that a call was answered or lost, so that it may have had an effect."""
        if self.may_be_refused:
            self._acceptance = Acceptance.CALLED

    def facts_of(self, part: PostfixPart) -> Facts | None:
        """Return what the ledger knows to have been read about a message last."""
        row = self._rows.get(part)
        return combined((self._facts.get(part), row.facts if row is not None else None))

    def end_without_call(self, request: RequestRow, targets: Iterable[Target]) -> None:
        """Take messages for ended that nothing will be sent for any more: for want of time, or of somebody waiting."""
        how = (Outcome.FAILED, Code.NOT_ATTEMPTED) if request.force else (Outcome.EXPIRED, None)
        self._ended |= dict.fromkeys(((request.request_id, target.part) for target in targets), how)

    def finish(self) -> list[Answer]:
        """Tell what each request has come to, and close those that this is the end of."""
        now, now_closed = self.ports.clock(), []
        for request in list(self._requests.values()):
            results = self._results(request, self._rows, now) if request.state is RequestState.OPEN else ()
            ended = closed(request, results, now, self.ports.terms) if results else None
            if ended is not None:
                now_closed.append(ended)
                self.replace(ended)
        if now_closed:
            with suppress(LedgerUnavailable):  # the rows say it all; whoever looks next closes the request
                self.ports.ledger.close(now_closed)
        settled, requests = tuple(self._settled), self._requests.values()
        return [Answer(each, self._results(each, self._rows, now), settled=settled) for each in requests]

    def results(self, request: RequestRow) -> tuple[Result, ...]:
        """Tell what is known of each id of a request."""
        return self._results(request, self._rows, self.ports.clock())

    def active_pause(self, request: RequestRow) -> Stop | None:
        """Return why a person has paused the releases of a request's client, if one has. Raises LedgerUnavailable."""
        return self.ports.budget.active_pause(self.account_id, request.client)

    def waits(self, request: RequestRow) -> bool:
        """Nothing is claimed for it now: its client may no longer do this, or a person has paused it.

        Raises LedgerUnavailable.
        """
        return self.ports.permit(request).withheld is not None or self.active_pause(request) is not None

    def closed_by(self, request: RequestRow, changes: Mapping[PostfixPart, MessageRow]) -> RequestRow | None:
        """Return the request closed, if all of it has ended once its messages have changed to these rows."""
        now = self.ports.clock()
        results = self._results(request, {**self._rows, **changes}, now)
        return closed(request, results, now, self.ports.terms)

    def _results(
        self, request: RequestRow, rows: Mapping[PostfixPart, MessageRow], now: datetime
    ) -> tuple[Result, ...]:
        results = derive_results(request, rows, now)
        return tuple(self._as_of_this_run(request, result, rows, now) for result in results)

    def _as_of_this_run(
        self, request: RequestRow, result: Result, rows: Mapping[PostfixPart, MessageRow], now: datetime
    ) -> Result:
        part, is_end = result.part, result.is_end
        ended = self._ended.get((request.request_id, part))
        if ended is not None and (request.force or not is_end):
            return Result(result.id, *ended, None, result.resolved)
        if is_end and result.ended is None and self._is_yet_to_be_compared(request, rows.get(part), now):
            return Result(result.id, Outcome.IN_PROGRESS, None, None, result.resolved)
        return result

    def _is_yet_to_be_compared(self, request: RequestRow, row: MessageRow | None, now: datetime) -> bool:
        """Whether the worker is about to find out if a bare id still means the message that has ended in the ledger."""
        if row is None or row.part in self._compared or now >= request.created_at + _COMPARED_WITHIN:
            return False
        target = targets_by_part(request.wanted_ids).get(row.part)
        if target is None or not self.ports.guard.holds(request.policy) or not request.may_claim:
            return False
        return is_to_be_compared(row, target, request.created_at)
