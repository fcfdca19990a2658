"""Claim, call, record: one attempt after another, for one request or for many of one account. Pure but for its ports.

The only way to Cloudflare's release call, whoever comes: the webhook with one request, the worker with many.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Final

from quarantine_release.calls import CLAIM_LIMIT, Call, Want
from quarantine_release.guard import Details
from quarantine_release.outcome import (
    FINAL,
    NO_RECIPIENTS,
    AccountId,
    Answered,
    Code,
    Evidence,
    Outcome,
    PostfixPart,
    RefusalReason,
    Refused,
    RequestId,
    State,
    Stop,
    Verdict,
)
from quarantine_release.ports import Conflict, LedgerUnavailable, Move, Ports
from quarantine_release.results import Result, claimable, results_of
from quarantine_release.trace import AttemptRow, AttemptState, MessageRow, RequestRow, RequestState, Target
from quarantine_release.transitions import answered, asked, claimed, closed, given_back, not_made, recorded, refused

# Seconds that must remain before a claim: Cloudflare's total deadline and the record after it (hazards: 10 + 4).
CALL_SECONDS: Final = 10.0
RECORD_SECONDS: Final = 4.0
# With less than this a call would mostly end without an answer, and nobody would know of its effect.
LEAST_CALL_SECONDS: Final = 4.0
_CLAIM_ROUNDS: Final = 8
# What passes by itself, or in smaller calls, so that the request can be gone on with later.
_PASSING: Final = frozenset(
    {RefusalReason.RATE_LIMITED, RefusalReason.UNREACHABLE, RefusalReason.NO_TIME, RefusalReason.CALL_REJECTED}
)
_MISSING: Final = Verdict(State.UNKNOWN, Code.MISSING_IN_ANSWER)


@dataclass(frozen=True, slots=True)
class Claims:
    """What was claimed: the attempt as written, and each message's move to it."""

    attempt: AttemptRow
    moves: tuple[Move, ...]


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
        self._was_accepted_before = is_accepted
        self._was_called = False
        self._ended: dict[tuple[RequestId, PostfixPart], tuple[Outcome, Code | None]] = {}

    @property
    def request(self) -> RequestRow:
        """Return the only request."""
        (request,) = self.requests.values()
        return request

    def claim(self, call: Call) -> Claims | Conflict | None:
        """Claim what may be claimed; None if nothing was. A Conflict tells of an earlier request under the same key.

        Messages that are not known are taken to be new, which most are: a refusal brings the rows as they are. The call
        taken for what is wanted is put back if nothing was claimed. Raises LedgerUnavailable.
        """
        claims: Claims | Conflict | None = None
        try:
            claims = self._claim(call)
        finally:
            if call.wants and not isinstance(claims, Claims):
                self.ports.budget.put_back(self.account_id)
        return claims

    def _claim(self, call: Call) -> Claims | Conflict | None:
        seen = {want.target.part: self.rows.get(want.target.part) for want in call.wants}
        attempt_id = self.ports.new_attempt_id(self.ports.clock())
        for _ in range(_CLAIM_ROUNDS):
            now = self.ports.clock()
            owners = self._owners(call, seen)
            moves, asks = [], []
            attempt = AttemptRow(
                account_id=self.account_id,
                attempt=attempt_id,
                wire_form=call.wire_form,
                targets=tuple(want.target for want in call.wants if owners[want.target.part]),
                owners={part: owner.request_id for part, owner in owners.items() if owner},
                sent_at=now,
                deadline=now + self.ports.terms.lease,
                state=AttemptState.OPEN,
            )
            for want in call.wants:
                row, owner = seen[want.target.part], owners[want.target.part]
                if owner is not None:
                    guard = want.guards[owner.request_id]
                    after = claimed(row, want.target, owner, attempt, guard=guard, disposition=want.disposition)
                    moves.append(Move(row, self._asked(after, want)))
                elif row is not None:
                    asks.append(Move(row, self._asked(row, want)))
            rows = self.rows | {move.after.part: move.after for move in (*moves, *asks)}
            opened = None if self.is_accepted else self._closed(self.request, rows) or self.request
            accepted = sorted(set(attempt.owners.values())) if self.is_accepted else []
            notes = {name: self.requests[name].notes for name in accepted}
            conflict = self.ports.ledger.claim(opened, accepted, attempt if moves else None, moves, asks, notes)
            if conflict is None:
                if opened is not None:
                    self.requests[opened.request_id] = opened
                self.is_accepted, self.rows = True, rows
                return Claims(attempt, tuple(moves)) if moves else None
            if not self.is_accepted and any(conflict.requests.values()):
                return conflict
            # Closed, refused or cancelled meanwhile: nothing may leave for these any more.
            self.requests |= {name: request for name, request in conflict.requests.items() if request is not None}
            for name in [name for name, request in conflict.requests.items() if request is None and self.is_accepted]:
                del self.requests[name]
            seen |= conflict.messages
        raise LedgerUnavailable

    def call(self, claims: Claims, *, is_last: bool = False) -> Refused | None:
        """Make the claimed call and write down what came of it; return the refusal of one that had no effect.

        Raises LedgerUnavailable if it is not known whether the request was refused. `is_last`: the only request is
        closed along with the record, if it has ended.
        """
        ports, attempt = self.ports, claims.attempt
        seconds = min(CALL_SECONDS, ports.time_left() - RECORD_SECONDS)
        ids = [target.message_id for target in attempt.targets]
        called: Answered | Refused | None = self._too_late(attempt, seconds)
        if called is None:
            called = ports.cloudflare.release(self.account_id, attempt.wire_form, ids, seconds)
            ports.budget.heard(self.account_id, called)
        else:
            ports.budget.put_back(self.account_id)
        if isinstance(called, Refused):
            self._give_back(claims, called)
            return called
        self._record(claims, called, is_last=is_last)
        return None

    def ask_for(self, wants: Sequence[Want]) -> None:
        """Have the trace of each message know who wants it, of whom it may not have heard before."""
        for start in range(0, len(wants), CLAIM_LIMIT):
            for _ in range(_CLAIM_ROUNDS):
                some = wants[start : start + CLAIM_LIMIT]
                known = [(row, self._asked(row, want)) for want in some if (row := self.rows.get(want.target.part))]
                asks = [Move(row, after) for row, after in known if after != row]
                conflict = self.ports.ledger.claim(None, [], None, (), asks, {}) if asks else None
                if conflict is None:
                    self.rows |= {move.after.part: move.after for move in asks}
                    break
                self.rows |= {part: row for part, row in conflict.messages.items() if row is not None}

    def end_without_call(self, request: RequestRow, targets: Iterable[Target]) -> None:
        """Take messages for ended that nothing will be sent for any more: for want of time, or of somebody waiting."""
        how = (Outcome.FAILED, Code.NOT_ATTEMPTED) if request.force else (Outcome.EXPIRED, None)
        self._ended |= dict.fromkeys(((request.request_id, target.part) for target in targets), how)

    def finish(self) -> list[Answer]:
        """Tell what each request has come to, and close those that this is the end of."""
        now_closed = []
        for request in list(self.requests.values()):
            ended = self._closed(request, self.rows) if request.state is RequestState.OPEN else None
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

    def _too_late(self, attempt: AttemptRow, seconds: float) -> Refused | None:
        """Return why a claimed call is not made after all: the claim may have taken long."""
        try:
            paused = self.ports.budget.pause_left(self.account_id)
            stops = [self.stop_of(self.requests[name]) for name in sorted(set(attempt.owners.values()))]
        except LedgerUnavailable:  # who cannot be told of a pause must not call into it
            return Refused(RefusalReason.NO_TIME, Evidence(failure="pause_not_known"))
        for stop in filter(None, stops):
            return Refused(RefusalReason.PAUSED, Evidence(failure="releases_paused"), stop=stop)
        if paused:
            return Refused(RefusalReason.RATE_LIMITED, Evidence(failure="calls_paused"), ceil(paused))
        if seconds < LEAST_CALL_SECONDS:
            return Refused(RefusalReason.NO_TIME, Evidence(failure="not_enough_time"))
        return None

    def _owners(
        self, call: Call, seen: Mapping[PostfixPart, MessageRow | None]
    ) -> dict[PostfixPart, RequestRow | None]:
        """Say for whom each message is claimed; for nobody where the claim would be too large for a transaction."""
        owners: dict[PostfixPart, RequestRow | None] = {}
        names: set[RequestId] = set()
        for number, want in enumerate(call.wants, start=1):
            owner = self._owner(want, seen[want.target.part])
            if owner is not None and number + len(names | {owner.request_id}) > CLAIM_LIMIT:
                owner = None
            owners[want.target.part] = owner
            names |= {owner.request_id} if owner is not None else set()
        return owners

    def _owner(self, want: Want, row: MessageRow | None) -> RequestRow | None:
        """Return the request that a message is claimed for, if one may."""
        now = self.ports.clock()
        for name in want.requests:
            request = self.requests.get(name) if name in want.guards else None
            if request is None or not request.may_claim or want.target.part in request.ended_parts:
                continue
            # Whose caller still waits is told no before the call, and whether it was refused is then in its row.
            if self._was_accepted_before and self.stop_of(request):
                continue
            if claimable(row, want.target, force=request.force, now=now):
                return request
        return None

    def _asked(self, row: MessageRow, want: Want) -> MessageRow:
        for name in want.requests:
            if name in self.requests:
                row = asked(row, want.target, self.requests[name])
        return row

    def _record(self, claims: Claims, answer: Answered, *, is_last: bool) -> None:
        """Record the outcome of a call. What cannot be recorded is unconfirmed: never success, never failure."""
        attempt, now, terms = claims.attempt, self.ports.clock(), self.ports.terms
        self._was_called = True
        verdicts = {target.part: answer.verdicts.get(target.message_id, _MISSING) for target in attempt.targets}
        size = len(attempt.targets)
        outcomes = []
        for move in claims.moves:
            verdict = verdicts[move.after.part]
            after = recorded(move.after, verdict, answer.evidence, now, terms, ids_in_call=size)
            outcomes.append(Move(move.after, after))
        rows = {move.after.part: move.after for move in outcomes}
        ended = answered(attempt, verdicts, answer.evidence, now, terms)
        closing = self._closed(self.request, self.rows | rows) if is_last else None
        try:
            others = self.ports.ledger.record(ended, AttemptState.OPEN, outcomes, closing)
        except LedgerUnavailable:
            self.rows |= {
                part: replace(row, state=State.UNKNOWN, code=Code.NO_ANSWER, recipients=NO_RECIPIENTS)
                for part, row in rows.items()
            }
            return
        self.rows |= {**rows, **others}
        self.settled += [row for part, row in rows.items() if row.state in FINAL and part not in others]
        if closing is not None and not others:
            self.requests[closing.request_id] = closing

    def _give_back(self, claims: Claims, no: Refused) -> None:
        """Give back what was claimed for a call that had no effect.

        What can be made up for later leaves the request open, and so does what was accepted before, or in part called.
        Else the request is refused. A forced release is made while somebody waits for it, or not at all.
        """
        attempt, now, terms = claims.attempt, self.ports.clock(), self.ports.terms
        rejected_with = len(attempt.targets) if no.reason is RefusalReason.CALL_REJECTED else None
        backs = [
            Move(move.after, given_back(move.before, move.after, now, rejected_with=rejected_with))
            for move in claims.moves
        ]
        ended = not_made(attempt, no.evidence, now, terms)
        request = None
        if not self._was_accepted_before and not self._was_called:
            is_done_with = self.request.force or no.reason not in _PASSING
            request = refused(self.request, now, terms) if is_done_with else None
        try:
            others = self.ports.ledger.record(ended, AttemptState.OPEN, backs, request)
        except LedgerUnavailable:
            if request is not None:  # neither yes nor no: it may be refused by now, or open
                raise
            return
        self.rows |= {**{move.after.part: move.after for move in backs}, **others}
        if request is not None:
            self.requests[request.request_id] = request
            return
        for target in attempt.targets:
            owner = self.requests[attempt.owners[target.part]]
            if owner.force:
                self.end_without_call(owner, [target])

    def _results(self, request: RequestRow, rows: Mapping[PostfixPart, MessageRow]) -> tuple[Result, ...]:
        results = results_of(request, rows, self.ports.clock())
        return tuple(
            Result(result.id, *ended, None, result.resolved)
            if (ended := self._ended.get((request.request_id, result.part))) and (request.force or not result.is_end)
            else result
            for result in results
        )

    def _closed(self, request: RequestRow, rows: Mapping[PostfixPart, MessageRow]) -> RequestRow | None:
        return closed(request, self._results(request, rows), self.ports.clock(), self.ports.terms)
