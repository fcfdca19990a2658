"""The use case of the worker: many hints at once, merged per account into as few calls as may be.

Pure but for its ports. A hint only says where to look: what arrives twice, late, or for a request that is gone finds
nothing to do.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from quarantine_release.domain.call_limit import Mark
from quarantine_release.domain.guard import Mode
from quarantine_release.domain.ids import AccountId, MessageId, RequestId, is_bare, is_header
from quarantine_release.domain.ledger_errors import LedgerUnavailable, RowUnreadable
from quarantine_release.domain.merging import ended, merged
from quarantine_release.domain.packing import Call, calls_of
from quarantine_release.domain.permit import Withheld
from quarantine_release.domain.results import Result
from quarantine_release.domain.rows import MessageRow, RequestRow, Target, targets_of
from quarantine_release.domain.transitions import is_expired
from quarantine_release.domain.verdicts import RefusalReason, Refused
from quarantine_release.releasing.asking import ask_each
from quarantine_release.releasing.call import CALL_SECONDS, RECORD_SECONDS
from quarantine_release.releasing.confirm import confirm
from quarantine_release.releasing.dispatch import dispatch
from quarantine_release.releasing.hints import free_of, hinted, hinted_ids
from quarantine_release.releasing.ports import Hint, Ports, Reservation
from quarantine_release.releasing.progress import Acceptance, Run
from quarantine_release.releasing.resolving import question_of
from quarantine_release.releasing.vet import Vetting

# What Cloudflare refuses without saying for how long waits for the full minute after the next half: all of it comes
# back at once, so that it costs one call.
_REFUSED_SECONDS: Final = 60

# From so long a delay on the sweep is told, lest it sends the same hint again and again.
_LONG_SECONDS: Final = 30.0

_VETTING_SECONDS: Final = 30.0

_PROOF_SECONDS: Final = 8.0

# Maximum age of a listing that the guard may rely on, counted from its beginning.
LISTS_HOLD: Final = timedelta(seconds=25)

# For so long after a look the guard's verdicts hold for the calls that follow; what is left then is looked at anew.
_VERDICTS_HOLD: Final = timedelta(seconds=15)

# If a read was postponed, it is tried again this much later, but not before this many calls may be made. The lists of
# a look take 24 calls at most. A worker that came back for fewer would spend a small budget on lists that it cannot
# read to their end, and a list that was cut proves nothing.
_NOT_NOW_SECONDS: Final = 5.0
_LONGEST_NOT_NOW_SECONDS: Final = 300.0
# From this age on a request gets its hints from the sweep alone. AWS stops a function that feeds its own queue after
# about 16 rounds (Lambda developer guide, "Recursive loop detection"); a hint of the sweep begins to count anew.
_SENDS_ITSELF: Final = timedelta(minutes=10)

_LOOK_CALLS: Final = 30


@dataclass(slots=True)
class Batch:
    """What became of a batch of hints. `failed` are those to be delivered again: the ledger did not do its part.

    `withheld` counts hints whose client may no longer do what they lead to.
    """

    settled: list[MessageRow] = field(default_factory=list)
    ended: list[tuple[Result, RequestRow]] = field(default_factory=list)
    requests: dict[RequestId, RequestRow] = field(default_factory=dict)
    failed: set[Hint] = field(default_factory=set)
    hints: int = 0
    stale: int = 0
    calls: int = 0
    withheld: Counter[tuple[str, Withheld]] = field(default_factory=Counter)


def release_hinted(hints: Sequence[Hint], ports: Ports) -> Batch:
    """Release what the hints lead to, account by account in turns; what must wait goes out as new hints."""
    batch = Batch(hints=len(hints))
    with _keeping(hints, batch):
        batch.requests = ports.ledger.requests(sorted({hint.request_id for hint in hints}))
    by_account: dict[AccountId, list[Hint]] = defaultdict(list)
    for hint, times in Counter(hints).items():
        request = batch.requests.get(hint.request_id)
        is_gone = request is None or not request.may_claim or is_expired(request, ports.clock(), ports.terms)
        if request is None or is_gone or request.force:
            batch.stale += times if hint not in batch.failed else 0
        else:
            batch.stale += times - 1
            by_account[request.account_id].append(hint)
    every = [_Line(own, batch, ports) for own in by_account.values()]
    lines = deque(every)
    while lines:  # an account that is slow holds up the others by one look and one call at most
        line = lines.popleft()
        with _keeping(line.hints, batch):
            if line.step():
                lines.append(line)
    batch.settled = [row for line in every for row in line.run.settled]
    batch.calls = sum(line.run.calls for line in every)
    return batch


@contextmanager
def _keeping(hints: Sequence[Hint], batch: Batch) -> Iterator[None]:
    try:
        yield
    except RowUnreadable:  # the same hint would meet the same row: the sweep comes back to what is open
        return
    except LedgerUnavailable:
        batch.failed.update(hints)


class _Line:
    """The calls of one account that a batch of hints leads to, one after the other."""

    def __init__(self, hints: Sequence[Hint], batch: Batch, ports: Ports) -> None:
        self.hints = hints
        self._batch = batch
        self._ports = ports
        own = [batch.requests[name] for name in {hint.request_id: None for hint in hints}]
        self.run = Run(own, ports, Acceptance.EARLIER)
        self._calls: deque[Call] = deque()
        self._wait = 0.0
        # After so long each request that cannot be read for now: who is new must not bring back the others as soon.
        self._again: dict[RequestId, float] = {}
        self._is_begun = False
        self._vetted_at: datetime | None = None

    def _begin(self, reserved: Reservation) -> None:
        """Look at what the hints stand for, and find the calls to make."""
        run, ports, batch = self.run, self._ports, self._batch
        spared = CALL_SECONDS + 2 * RECORD_SECONDS + 1  # a little more than the next call asks for
        vetting = Vetting(run, ports, Mark.ALL, seconds=_VETTING_SECONDS, spared=spared)
        # Nothing is read at Cloudflare for a client that may no longer do this.
        withheld = {name for name, request in run.requests.items() if ports.permit(request).withheld}
        self._resolve([hint for hint in self.hints if hint.request_id not in withheld], vetting, reserved)
        wanted = self._wanted()
        parts = {target.part for _, own in wanted for target in own}
        bare = {target.part for _, own in wanted for target in own if is_bare(target.message_id)}
        known = ports.ledger.known(run.account_id, None, sorted(parts), [], sorted(bare))
        run.start_from(known)
        ask_each(run, wanted)
        vetting.compare()
        wanted = self._wanted()  # without the ids that have ended by that
        free = {name: free_of(request, run) for name, request in run.requests.items()}
        permitted = [(request, own) for request, own in wanted if request.request_id not in withheld]
        still_wanted = merged(permitted, free, is_read=ports.guard.mode is not Mode.OFF)
        past = [want for want in ended(permitted, free) if vetting.is_to_be_compared(want)]
        findings = vetting.findings
        vetted = findings.save(
            vetting.vet(still_wanted, past) if (still_wanted or past) and self._may_look(reserved) else []
        )
        run.compare(want.target.part for want in past)
        ask_each(run, [(request, [each for each in own if each.part in findings.moved]) for request, own in wanted])
        self._vetted_at = ports.clock() if vetting.has_looked else None
        for request in run.requests.values():
            before = batch.requests[request.request_id].ended
            new = (one for one in run.results(request) if one.ended is not None and one.id not in before)
            batch.ended += [(result, request) for result in new]
        self._calls += calls_of(vetted, run.rows, ports.wire_form)
        if findings.is_refused:
            self._wait = _until_full_minute(ports.clock())
        elif findings.is_waiting:
            self._again = findings.retries(ports.clock(), _NOT_NOW_SECONDS, _LONGEST_NOT_NOW_SECONDS)
            soonest = min(self._again.values(), default=_NOT_NOW_SECONDS)
            self._wait = max(ports.budget.wait_for(run.account_id, _LOOK_CALLS), soonest)

    def _wanted(self) -> list[tuple[RequestRow, Sequence[Target]]]:
        """Return what the hints stand for."""
        known = ((self.run.requests.get(hint.request_id), hint.chunk) for hint in self.hints)
        return [(request, hinted(request, chunk)) for request, chunk in known if request is not None]

    def _resolve(self, hints: Sequence[Hint], vetting: Vetting, reserved: Reservation) -> None:
        """Find out what the Message-IDs mean that the hints stand for."""
        headers: dict[RequestId, list[MessageId]] = defaultdict(list)
        for hint in hints:
            request = self.run.requests[hint.request_id]
            found_out = {*request.resolved, *request.ended}
            given = hinted_ids(request, hint.chunk)
            headers[hint.request_id] += [each for each in given if is_header(each) and each not in found_out]
        window, requests = self._ports.guard.window, self.run.requests
        questions = {question_of(requests[name], each, window).text for name, ids in headers.items() for each in ids}
        if questions and self._may_look(reserved):
            known = self._ports.ledger.known(self.run.account_id, None, [], sorted(questions))
            vetting.resolve(headers, known.answers)

    def _may_look(self, reserved: Reservation) -> bool:
        """Take the release's own call before anything is read: else reading could use up a small budget for ever."""
        if not reserved.is_taken and self._ports.time_left() >= CALL_SECONDS + 2 * RECORD_SECONDS:
            self._wait = reserved.take()
        return reserved.is_taken

    def step(self) -> bool:
        """Make the next call; say whether there may be more."""
        with self._ports.budget.reserve(self.run.account_id, Mark.ALL) as reserved:
            if not self._is_begun:  # not before its turn: what others wait for would make this account's verdicts old
                self._is_begun = True
                self._begin(reserved)
            delay = self._call(reserved)
        if delay is not None:
            self._end(delay)
        return delay is None

    def _call(self, reserved: Reservation) -> float | None:
        """Make the next call; return after how many seconds the rest is tried again, None if that is now."""
        ports = self._ports
        is_stale = self._vetted_at is not None and ports.clock() - self._vetted_at >= _VERDICTS_HOLD
        if not self._calls or is_stale or ports.time_left() < CALL_SECONDS + 2 * RECORD_SECONDS:
            return 0.0 if self._calls else self._wait
        wait = reserved.take()
        if wait:
            return wait
        sent = dispatch(self.run, self._calls.popleft(), reserved)
        # After a rejected call smaller ones may pass, and next to clients that are paused others may continue.
        if not isinstance(sent, Refused) or sent.reason in (RefusalReason.CALL_REJECTED, RefusalReason.PAUSED):
            return None
        return 0.0 if sent.reason is RefusalReason.NO_TIME else sent.retry_after or _until_full_minute(ports.clock())

    def _end(self, delay: float) -> None:
        """Close what has ended; have what is left tried again after so many seconds."""
        run = self.run
        # Of a request with several chunks others may have ended the rest: who sees all of it closes it.
        parts = {target.part for request in run.requests.values() for target in targets_of(request.wanted_ids)}
        # Of one that was cancelled meanwhile they may have claimed something before that, which is no longer as it was.
        cancelled = [request for request in run.requests.values() if request.cancelled_at is not None]
        known = run.rows.keys() - {target.part for request in cancelled for target in targets_of(request.wanted_ids)}
        run.learn(self._ports.ledger.messages(run.account_id, sorted(parts - known)))
        # A request that claimed nothing, because another came first, may know the message by another id.
        ask_each(run, self._wanted(), is_repeat=True)
        confirm(run, self._ports, seconds=_PROOF_SECONDS, spared=2 * RECORD_SECONDS)
        run.finish()
        self._batch.requests |= run.requests
        left = self._permitted(self._left())
        paused = {hint for hint in left if run.stop_of(run.requests[hint.request_id])}
        waits: dict[float, list[Hint]] = defaultdict(list)
        for hint in left:
            if hint not in paused:
                waits[max(delay, self._again.get(hint.request_id, 0.0))].append(hint)
        for seconds, hints in waits.items():
            self._put_off(hints, seconds)
        longer = max(delay, _until_full_minute(self._ports.clock()))
        self._put_off([hint for hint in left if hint in paused], longer)

    def _left(self) -> list[Hint]:
        """Return the hints that still have something to be released."""
        run, left = self.run, []
        free = {name: free_of(request, run) for name, request in run.requests.items()}
        for hint in self.hints:
            request = run.requests.get(hint.request_id)
            targets = hinted(request, hint.chunk) if request is not None else ()
            left += [hint] if any(target.part in free[hint.request_id] for target in targets) else []
        return left

    def _permitted(self, hints: Sequence[Hint]) -> list[Hint]:
        """Leave out what a client may no longer do: that may last for hours, and the sweep asks again meanwhile."""
        permitted = []
        for hint in hints:
            request = self.run.requests[hint.request_id]
            withheld = self._ports.permit(request).withheld
            if withheld is None:
                permitted.append(hint)
            else:
                self._batch.withheld[request.client, withheld] += 1
        return permitted

    def _put_off(self, hints: Sequence[Hint], delay: float) -> None:
        """Have the hints come back after so many seconds, and the sweep wait for as long.

        An old request is left to the sweep, unless the worker only ran out of time.
        """
        now, requests = self._ports.clock(), self.run.requests
        old = {hint for hint in hints if delay and now - requests[hint.request_id].created_at >= _SENDS_ITSELF}
        late = [hint for hint in hints if hint in old or delay >= _LONG_SECONDS]
        if late:
            waiting = [requests[name] for name in {hint.request_id: None for hint in late}]
            self._ports.ledger.look_again(waiting, now + timedelta(seconds=delay))
        sent = [hint for hint in hints if hint not in old]
        if sent:
            self._ports.queue.send(sent, delay)


def _until_full_minute(now: datetime) -> float:
    return _LONG_SECONDS + (_REFUSED_SECONDS - (now.timestamp() + _LONG_SECONDS) % _REFUSED_SECONDS)
