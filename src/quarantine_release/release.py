"""The use case: claim, release, record; once, in that order. Pure but for its ports."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from quarantine_release.outcome import (
    FINAL,
    NO_RECIPIENTS,
    Answered,
    Code,
    Evidence,
    Outcome,
    PostfixPart,
    RefusalReason,
    Refused,
    State,
    Verdict,
    is_bare,
    postfix_part,
)
from quarantine_release.ports import Conflict, LedgerUnavailable, Move, Ports
from quarantine_release.trace import (
    AttemptRow,
    AttemptState,
    MessageRow,
    RequestRow,
    RequestState,
    Result,
    Target,
    WireForm,
    claimable,
    results_of,
    targets_of,
)
from quarantine_release.transitions import answered, asked, claimed, closed, given_back, not_made, recorded, refused

# Seconds that must remain before a claim: Cloudflare's total deadline and the record after it (hazards: 10 + 4).
CALL_SECONDS: Final = 10.0
RECORD_SECONDS: Final = 4.0
# With less than this a call would mostly end without an answer, and nobody would know of its effect.
LEAST_CALL_SECONDS: Final = 4.0
# What has not been released by then leaves no more: nobody would expect it.
EXPIRY: Final = timedelta(hours=24)
_CLAIM_ROUNDS: Final = 8
# What passes by itself, so that the request can be gone on with later.
_PASSING: Final = frozenset({RefusalReason.RATE_LIMITED, RefusalReason.UNREACHABLE, RefusalReason.NO_TIME})


_MISSING: Final = Verdict(State.UNKNOWN, Code.MISSING_IN_ANSWER)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request has come to. `settled` are the messages that reached their end by this very run."""

    request: RequestRow
    results: tuple[Result, ...]
    replayed: bool = False
    settled: tuple[MessageRow, ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """The caller is told no: nothing was released, nothing will be. `retry_after` in seconds."""

    reason: RefusalReason
    retry_after: int | None
    request: RequestRow


@dataclass(frozen=True, slots=True)
class KeyReused:
    """The idempotency key belongs to another payload. Nothing was written."""

    request: RequestRow


def release(request: RequestRow, ports: Ports) -> Answer | Refusal | KeyReused:
    """Claim, call and record for every id of the request, and tell what came of each.

    Raises LedgerUnavailable if it is not known whether the request was accepted.
    """
    run = _Run(request, ports)
    calls = _calls(targets_of(request.ids), ports.wire_form)
    for position, (wire_form, targets) in enumerate(calls):
        has_time = ports.time_left() >= CALL_SECONDS + RECORD_SECONDS
        if not has_time and request.force and not run.is_accepted:
            return Refusal(RefusalReason.NO_TIME, None, request)
        claims = run.claim(wire_form, targets if has_time else ())
        if isinstance(claims, Conflict):
            return _replay(request, claims, ports)
        if claims is None:
            continue
        no = run.call(*claims, is_last=position == len(calls) - 1)
        if no is not None:
            if run.request.state is RequestState.REFUSED:
                return Refusal(no.reason, no.retry_after, run.request)
            break
    return run.finish()


def resume(request: RequestRow, ports: Ports) -> tuple[Answer, Refused | None]:
    """Go on with an accepted request: release what is free, expire what nobody came to in time, close what has ended.

    A Refused beside the answer says that Cloudflare takes no calls for now. Raises LedgerUnavailable.
    """
    run = _Run(request, ports, is_accepted=True)
    targets = targets_of(request.ids)
    run.rows = ports.ledger.messages(request.account_id, [target.part for target in targets])
    run.ask_for(targets)
    ended = {postfix_part(result.id) for result in run.finish().results if result.is_end}
    free = [
        t for t in targets if t.part not in ended and claimable(run.rows.get(t.part), t, force=False, now=ports.clock())
    ]
    if request.force or ports.clock() - request.created_at >= EXPIRY:
        run.end_without_call(free)
        return run.finish(), None
    for wire_form, group in _calls(free, ports.wire_form) if free else ():
        if ports.time_left() < CALL_SECONDS + RECORD_SECONDS:
            break
        claims = run.claim(wire_form, group)
        if claims is None or isinstance(claims, Conflict):
            continue
        no = run.call(*claims, is_last=True)
        if no is not None:
            return run.finish(), no
    return run.finish(), None


def look_up(request: RequestRow, ports: Ports) -> Answer:
    """Tell what an accepted request has come to, and close it if it has ended. Raises LedgerUnavailable."""
    run = _Run(request, ports)
    run.rows = ports.ledger.messages(request.account_id, [target.part for target in targets_of(request.ids)])
    return run.finish()


def _replay(request: RequestRow, conflict: Conflict, ports: Ports) -> Answer | KeyReused:
    earlier = conflict.request
    assert earlier is not None  # noqa: S101  a claim without a conflict of requests goes on
    if earlier.fingerprint != request.fingerprint:
        return KeyReused(earlier)
    run = _Run(earlier, ports)
    run.rows = {part: row for part, row in conflict.messages.items() if row is not None}
    missing = [target.part for target in targets_of(earlier.ids) if target.part not in run.rows]
    if missing:
        run.rows |= ports.ledger.messages(earlier.account_id, missing)
    return replace(run.finish(), replayed=True)


def _calls(targets: Sequence[Target], forced: WireForm | None) -> list[tuple[WireForm, tuple[Target, ...]]]:
    """Split what is wanted by wire form: each form is its own call. No target is still one (empty) claim."""
    forms: dict[WireForm, list[Target]] = {}
    for target in targets:
        form = forced or (WireForm.ARRAY if is_bare(target.message_id) else WireForm.OBJECT)
        forms.setdefault(form, []).append(target)
    return [(form, tuple(group)) for form, group in forms.items()] or [(WireForm.OBJECT, ())]


class _Run:
    """One request on its way through claim, call and record, and what is known of its messages so far."""

    def __init__(self, request: RequestRow, ports: Ports, *, is_accepted: bool = False) -> None:
        self.request = request
        self.ports = ports
        self.rows: dict[PostfixPart, MessageRow] = {}
        self.is_accepted = is_accepted
        self._was_accepted_before = is_accepted
        self._was_called = False
        self._ended: dict[PostfixPart, tuple[Outcome, Code | None]] = {}
        self._settled: list[MessageRow] = []

    def claim(
        self, wire_form: WireForm, targets: Sequence[Target]
    ) -> tuple[AttemptRow, tuple[Move, ...]] | Conflict | None:
        """Claim what may be claimed; None if nothing was. A Conflict tells of an earlier request under the same key.

        Messages are first taken to be new, which most are: a refusal brings the rows as they are.
        """
        request = self.request
        seen = {target.part: self.rows.get(target.part) for target in targets}
        attempt_id = self.ports.new_attempt_id(self.ports.clock())
        for _ in range(_CLAIM_ROUNDS):
            now = self.ports.clock()
            wanted = [t for t in targets if claimable(seen[t.part], t, force=request.force, now=now)]
            attempt = AttemptRow(
                account_id=request.account_id,
                attempt=attempt_id,
                wire_form=wire_form,
                targets=tuple(wanted),
                owners={target.part: request.request_id for target in wanted},
                sent_at=now,
                deadline=now + self.ports.terms.lease,
                state=AttemptState.OPEN,
            )
            moves = tuple(Move(seen[t.part], claimed(seen[t.part], t, request, attempt)) for t in wanted)
            asks = [Move(row, asked(row, t, request)) for t in targets if t not in wanted and (row := seen[t.part])]
            rows = self.rows | {move.after.part: move.after for move in (*moves, *asks)}
            opened = None if self.is_accepted else self._closed(rows) or request
            accepted = [request.request_id] if self.is_accepted else []
            try:
                conflict = self.ports.ledger.claim(opened, accepted, attempt if wanted else None, moves, asks)
            except LedgerUnavailable:
                if self.is_accepted:  # the earlier call's outcome must still reach the caller
                    return None
                raise
            if conflict is None:
                self.is_accepted, self.rows, self.request = True, rows, opened or request
                return (attempt, moves) if wanted else None
            if conflict.request is not None and not self.is_accepted:
                return conflict
            if conflict.request is not None:  # closed or refused meanwhile: nothing may leave for it any more
                self.request = conflict.request
                return None
            seen |= conflict.messages
        if self.is_accepted:
            return None
        raise LedgerUnavailable

    def call(self, attempt: AttemptRow, moves: Sequence[Move], *, is_last: bool) -> Refused | None:
        """Make the claimed call and write down what came of it; return the refusal of one that had no effect."""
        ports = self.ports
        seconds = min(CALL_SECONDS, ports.time_left() - RECORD_SECONDS)
        ids = [target.message_id for target in attempt.targets]
        called: Answered | Refused = Refused(RefusalReason.NO_TIME, Evidence(failure="not_enough_time"))
        if seconds >= LEAST_CALL_SECONDS:  # the claim may have taken long
            called = ports.cloudflare.release(self.request.account_id, attempt.wire_form, ids, seconds)
        if isinstance(called, Refused):
            self._give_back(attempt, moves, called)
            return called
        self._record(attempt, moves, called, is_last=is_last)
        return None

    def _record(self, attempt: AttemptRow, moves: Sequence[Move], answer: Answered, *, is_last: bool) -> None:
        """Record the outcome of a call. What cannot be recorded is unconfirmed: never success, never failure."""
        now = self.ports.clock()
        self._was_called = True
        verdicts = {target.part: answer.verdicts.get(target.message_id, _MISSING) for target in attempt.targets}
        terms = self.ports.terms
        outcomes = [
            Move(move.after, recorded(move.after, verdicts[move.after.part], answer.evidence, now, terms))
            for move in moves
        ]
        rows = {move.after.part: move.after for move in outcomes}
        ended = answered(attempt, verdicts, answer.evidence, now, terms)
        closing = self._closed(self.rows | rows) if is_last else None
        try:
            others = self.ports.ledger.record(ended, AttemptState.OPEN, outcomes, closing)
        except LedgerUnavailable:
            self.rows |= {
                part: replace(row, state=State.UNKNOWN, code=Code.NO_ANSWER, recipients=NO_RECIPIENTS)
                for part, row in rows.items()
            }
            return
        self.rows |= {**rows, **others}
        self._settled += [row for part, row in rows.items() if row.state in FINAL and part not in others]
        if closing is not None and not others:
            self.request = closing

    def _give_back(self, attempt: AttemptRow, moves: Sequence[Move], no: Refused) -> None:
        """Give back what was claimed for a call that had no effect.

        What can be made up for later leaves the request open, and so does what was accepted before, or in part called.
        Else the request is refused. A forced release is made while somebody waits for it, or not at all.
        """
        now = self.ports.clock()
        backs = [Move(move.after, given_back(move.before, move.after, now)) for move in moves]
        ended = not_made(attempt, no.evidence, now, self.ports.terms)
        is_done_with = self.request.force or no.reason not in _PASSING
        is_refused = is_done_with and not self._was_accepted_before and not self._was_called
        request = refused(self.request, now, self.ports.terms) if is_refused else None
        try:
            others = self.ports.ledger.record(ended, AttemptState.OPEN, backs, request)
        except LedgerUnavailable:
            if request is not None:  # neither yes nor no: it may be refused by now, or open
                raise
            return
        self.rows |= {**{move.after.part: move.after for move in backs}, **others}
        if request is not None:
            self.request = request
        elif self.request.force:
            self.end_without_call(attempt.targets)

    def ask_for(self, targets: Sequence[Target]) -> None:
        """Have the trace of each message know this request, which may not have come to claim it before."""
        rows = [(row, target) for target in targets if (row := self.rows.get(target.part)) is not None]
        asks = [Move(row, asked(row, t, self.request)) for row, t in rows if self.request.request_id not in row.asks]
        if asks and self.ports.ledger.claim(None, [self.request.request_id], None, (), asks) is None:
            self.rows |= {move.after.part: move.after for move in asks}

    def end_without_call(self, targets: Sequence[Target]) -> None:
        """Take messages for ended that nothing will be sent for any more: for want of time, or of somebody waiting."""
        how = (Outcome.FAILED, Code.NOT_ATTEMPTED) if self.request.force else (Outcome.EXPIRED, None)
        self._ended |= dict.fromkeys((target.part for target in targets), how)

    def finish(self) -> Answer:
        """Tell what is known, and close the request if that is everything."""
        results = self._results(self.rows)
        if self.request.state is RequestState.OPEN:
            ended = self._closed(self.rows)
            if ended is not None:
                with suppress(LedgerUnavailable):  # the rows say it all; whoever looks next closes the request
                    self.ports.ledger.close(ended)
                self.request = ended
        return Answer(self.request, results, settled=tuple(self._settled))

    def _results(self, rows: Mapping[PostfixPart, MessageRow]) -> tuple[Result, ...]:
        results = results_of(self.request, rows, self.ports.clock())
        return tuple(
            Result(result.id, *self._ended[part], None)
            if (part := postfix_part(result.id)) in self._ended and (self.request.force or not result.is_end)
            else result
            for result in results
        )

    def _closed(self, rows: Mapping[PostfixPart, MessageRow]) -> RequestRow | None:
        return closed(self.request, self._results(rows), self.ports.clock(), self.ports.terms)
