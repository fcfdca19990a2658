"""Requests on their way through claim, call and record, and what they come to. Pure but for its ports."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from quarantine_release.calls import Call
from quarantine_release.guard import Details
from quarantine_release.outcome import AccountId, Code, Outcome, PostfixPart, RequestId, Stop
from quarantine_release.ports import LedgerUnavailable, Ports
from quarantine_release.results import Result, results_of
from quarantine_release.trace import MessageRow, RequestRow, RequestState, Target
from quarantine_release.transitions import closed


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request has come to. `settled` are the messages that reached their end by this very run.

    Of a dry run, `plan` holds the calls that a release would take, and `details` what was read.
    """

    request: RequestRow
    results: tuple[Result, ...]
    replayed: bool = False
    settled: tuple[MessageRow, ...] = ()
    plan: tuple[Call, ...] = ()
    details: Mapping[PostfixPart, Details] = field(default_factory=dict)


class Run:
    """Requests of one account on their way through claim, call and record, and what is known of their messages."""

    def __init__(self, requests: Sequence[RequestRow], ports: Ports, *, is_accepted: bool) -> None:
        """Begin. Only a single request may be one that is not accepted yet: its first claim accepts it."""
        self.requests = {request.request_id: request for request in requests}
        self.account_id: AccountId = requests[0].account_id
        self.ports = ports
        self.rows: dict[PostfixPart, MessageRow] = {}
        self.settled: list[MessageRow] = []
        self.is_accepted = is_accepted
        self.was_accepted_before = is_accepted
        self.was_called = False
        self._ended: dict[tuple[RequestId, PostfixPart], tuple[Outcome, Code | None]] = {}

    @property
    def request(self) -> RequestRow:
        """Return the only request."""
        (request,) = self.requests.values()
        return request

    def end_without_call(self, request: RequestRow, targets: Iterable[Target]) -> None:
        """Take messages for ended that nothing will be sent for any more: for want of time, or of somebody waiting."""
        how = (Outcome.FAILED, Code.NOT_ATTEMPTED) if request.force else (Outcome.EXPIRED, None)
        self._ended |= dict.fromkeys(((request.request_id, target.part) for target in targets), how)

    def finish(self) -> list[Answer]:
        """Tell what each request has come to, and close those that this is the end of."""
        now_closed = []
        for request in list(self.requests.values()):
            ended = self.closed_by(request, self.rows) if request.state is RequestState.OPEN else None
            if ended is not None:
                now_closed.append(ended)
                self.requests[ended.request_id] = ended
        if now_closed:
            with suppress(LedgerUnavailable):  # the rows say it all; whoever looks next closes the request
                self.ports.ledger.close(now_closed)
        settled = tuple(self.settled)
        return [Answer(request, self.results(request), settled=settled) for request in self.requests.values()]

    def results(self, request: RequestRow) -> tuple[Result, ...]:
        """Tell what is known of each id of a request."""
        return self._results(request, self.rows)

    def stop_of(self, request: RequestRow) -> Stop | None:
        """Return why a person has paused the releases of a request's client, if one has. Raises LedgerUnavailable."""
        return self.ports.budget.stop_of(self.account_id, request.client)

    def waits(self, request: RequestRow) -> bool:
        """Nothing is claimed for it now: its client may no longer do this, or a person has paused it.

        Raises LedgerUnavailable.
        """
        return self.ports.permit(request).withheld is not None or self.stop_of(request) is not None

    def closed_by(self, request: RequestRow, rows: Mapping[PostfixPart, MessageRow]) -> RequestRow | None:
        """Return the request closed, if by these rows all of it has ended."""
        return closed(request, self._results(request, rows), self.ports.clock(), self.ports.terms)

    def _results(self, request: RequestRow, rows: Mapping[PostfixPart, MessageRow]) -> tuple[Result, ...]:
        results = results_of(request, rows, self.ports.clock())
        return tuple(
            Result(result.id, *ended, None, result.resolved)
            if (ended := self._ended.get((request.request_id, result.part))) and (request.force or not result.is_end)
            else result
            for result in results
        )
