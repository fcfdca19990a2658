"""The calls of one account that a batch of hints leads to, one each turn. Pure but for its ports."""

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from quarantine_release.domain.call_limit import Mark
from quarantine_release.domain.ids import MessageId, PostfixPart, RequestId, is_bare, is_header
from quarantine_release.domain.merging import ended, merged
from quarantine_release.domain.packing import PlannedCall, WantedRelease, plan_calls
from quarantine_release.domain.permit import Withheld
from quarantine_release.domain.results import Result
from quarantine_release.domain.rows import RequestRow, Target, parse_targets
from quarantine_release.domain.verdicts import NoEffect, RefusalReason
from quarantine_release.releasing.asking import ask_each
from quarantine_release.releasing.call import CALL_SECONDS, RECORD_SECONDS, dispatch
from quarantine_release.releasing.confirm import confirm
from quarantine_release.releasing.hints import claimable_parts, ids_of_hint, targets_of_hint
from quarantine_release.releasing.ports import Hint, Ports, Reservation
from quarantine_release.releasing.progress import Acceptance, Progress
from quarantine_release.releasing.resolving import build_question
from quarantine_release.releasing.vet import Vetting
from quarantine_release.usecases.postponement import Postponement, seconds_until_full_minute

_VETTING_SECONDS: Final = 30.0
_PROOF_SECONDS: Final = 8.0

# Seconds that must remain before a call: the second record is for what ends after it.
_TURN_SECONDS: Final = CALL_SECONDS + 2 * RECORD_SECONDS

# Guard verdicts expire this long after the read. Anything still unsent is checked again.
_VERDICTS_HOLD: Final = timedelta(seconds=15)

# After such a call others may pass: smaller ones, or those of clients that are not paused.
_OTHERS_MAY_PASS: Final = frozenset({RefusalReason.CALL_REJECTED, RefusalReason.PAUSED})

_Wanted = Sequence[tuple[RequestRow, Sequence[Target]]]


class AccountTurns:
    """The hints of one account in a batch. Each turn makes one call at most, so that accounts can take turns.

    `ended` are the ids that ended before a claim; `withheld` counts hints whose client may no longer do what they lead
    to.
    """

    def __init__(self, hints: Sequence[Hint], requests: Mapping[RequestId, RequestRow], ports: Ports) -> None:
        self.hints = hints
        self.ended: list[tuple[Result, RequestRow]] = []
        self.withheld: Counter[tuple[str, Withheld]] = Counter()
        self._ports = ports
        self._before = {hint.request_id: requests[hint.request_id] for hint in hints}
        self.progress = Progress(list(self._before.values()), ports, Acceptance.EARLIER)
        self._postponement = Postponement(self.progress, ports)
        self._calls: deque[PlannedCall] = deque()
        self._is_begun = False
        self._vetted_at: datetime | None = None

    def take_turn(self) -> bool:
        """Make the next call; return whether there may be more. Raises LedgerUnavailable."""
        with self._ports.budget.reserve(self.progress.account_id, Mark.ALL) as reserved:
            if not self._is_begun:  # not before its turn: what others wait for would make this account's verdicts old
                self._is_begun = True
                self._begin(reserved)
            delay = self._call(reserved)
        if delay is not None:
            self._end(delay)
        return delay is None

    def _begin(self, reserved: Reservation) -> None:
        """Look at what the hints stand for, and plan the calls."""
        progress, ports = self.progress, self._ports
        # A look leaves a little more time than the next call asks for.
        vetting = Vetting(progress, ports, Mark.ALL, seconds=_VETTING_SECONDS, spared=_TURN_SECONDS + 1)
        # Nothing is read at Cloudflare for a client that may no longer do this.
        withheld = {name for name, request in progress.requests.items() if ports.permit(request).withheld}
        self._resolve([hint for hint in self.hints if hint.request_id not in withheld], vetting, reserved)
        self._read_ledger()
        vetting.compare()
        wanted = self._wanted()
        permitted = [(request, targets) for request, targets in wanted if request.request_id not in withheld]
        vetted = self._vet(permitted, vetting, reserved)
        self._ask_for_moved(wanted, vetting.findings.moved)
        self._vetted_at = ports.clock() if vetting.has_looked else None
        self._note_ends()
        self._calls += plan_calls(vetted, progress.rows, ports.wire_form)
        self._postponement.wait_for(vetting.findings)

    def _wanted(self) -> _Wanted:
        """Return what the hints stand for, without ids that have ended."""
        known = ((self.progress.requests.get(hint.request_id), hint.chunk) for hint in self.hints)
        return [(request, targets_of_hint(request, chunk)) for request, chunk in known if request is not None]

    def _resolve(self, hints: Sequence[Hint], vetting: Vetting, reserved: Reservation) -> None:
        """Find out what the Message-IDs mean that the hints stand for."""
        headers: dict[RequestId, list[MessageId]] = defaultdict(list)
        for hint in hints:
            request = self.progress.requests[hint.request_id]
            found_out = {*request.resolved, *request.ended}
            given = ids_of_hint(request, hint.chunk)
            headers[hint.request_id] += [each for each in given if is_header(each) and each not in found_out]
        window, requests = self._ports.guard.window, self.progress.requests
        questions = {build_question(requests[name], each, window).text for name, ids in headers.items() for each in ids}
        if questions and self._may_look(reserved):
            known = self._ports.ledger.known(self.progress.account_id, None, [], sorted(questions))
            vetting.resolve(headers, known.answers)

    def _read_ledger(self) -> None:
        """Read the messages that the hints stand for, and have their traces know who wants them."""
        wanted = self._wanted()
        targets = [target for _, own in wanted for target in own]
        parts = sorted({target.part for target in targets})
        bare = sorted({target.part for target in targets if is_bare(target.message_id)})
        self.progress.start_from(self._ports.ledger.known(self.progress.account_id, None, parts, [], bare))
        ask_each(self.progress, wanted)

    def _vet(self, wanted: _Wanted, vetting: Vetting, reserved: Reservation) -> list[WantedRelease]:
        """Return what may be claimed of what is wanted, by what was written of it."""
        free = {name: claimable_parts(request, self.progress) for name, request in self.progress.requests.items()}
        wants = merged(wanted, free, is_read=self._ports.guard.is_on)
        past = [want for want in ended(wanted, free) if vetting.is_to_be_compared(want)]
        may_look = (wants or past) and self._may_look(reserved)
        vetted = vetting.findings.save(vetting.vet(wants, past) if may_look else [])
        self.progress.compare(want.target.part for want in past)
        return vetted

    def _may_look(self, reserved: Reservation) -> bool:
        """Take the release's own call before anything is read: else reading could use up a small budget for ever."""
        if not reserved.is_taken and self._ports.time_left() >= _TURN_SECONDS:
            self._postponement.seconds = reserved.take()
        return reserved.is_taken

    def _ask_for_moved(self, wanted: _Wanted, moved: set[PostfixPart]) -> None:
        """Have the traces of messages that another process took on meanwhile know who wants them."""
        ask_each(
            self.progress, [(request, [target for target in own if target.part in moved]) for request, own in wanted]
        )

    def _note_ends(self) -> None:
        for request in self.progress.requests.values():
            before = self._before[request.request_id].ended
            new = (result for result in self.progress.results(request) if result.ended is not None)
            self.ended += [(result, request) for result in new if result.id not in before]

    def _call(self, reserved: Reservation) -> float | None:
        """Make the next call; return after how many seconds the rest is tried again, None if that is now."""
        ports = self._ports
        is_stale = self._vetted_at is not None and ports.clock() - self._vetted_at >= _VERDICTS_HOLD
        if not self._calls:
            return self._postponement.seconds
        if is_stale or ports.time_left() < _TURN_SECONDS:
            return 0.0
        wait = reserved.take()
        if wait:
            return wait
        sent = dispatch(self.progress, self._calls.popleft(), reserved)
        if not isinstance(sent, NoEffect) or sent.reason in _OTHERS_MAY_PASS:
            return None
        if sent.reason is RefusalReason.NO_TIME:
            return 0.0
        return sent.retry_after or seconds_until_full_minute(ports.clock())

    def _end(self, delay: float) -> None:
        """Close what has ended; have what is left tried again after so many seconds."""
        self._read_again()
        # A request that claimed nothing, because another came first, may know the message by another id.
        ask_each(self.progress, self._wanted(), is_repeat=True)
        confirm(self.progress, self._ports, seconds=_PROOF_SECONDS, spared=2 * RECORD_SECONDS)
        self.progress.finish()
        self._postponement.put_off(self._permitted(self._left()), delay)

    def _read_again(self) -> None:
        """Read what others may have changed of these requests.

        They may have ended the other chunks of a request, and whoever sees all of it closes it. For a request that was
        cancelled meanwhile they may have claimed something before that, which is no longer as it was.
        """
        progress, requests = self.progress, self.progress.requests.values()
        known = progress.rows.keys() - _parts(request for request in requests if request.cancelled_at is not None)
        progress.learn(self._ports.ledger.messages(progress.account_id, sorted(_parts(requests) - known)))

    def _left(self) -> list[Hint]:
        """Return the hints that still have something to be released."""
        progress, left = self.progress, []
        free = {name: claimable_parts(request, progress) for name, request in progress.requests.items()}
        for hint in self.hints:
            request = progress.requests.get(hint.request_id)
            targets = targets_of_hint(request, hint.chunk) if request is not None else ()
            left += [hint] if any(target.part in free[hint.request_id] for target in targets) else []
        return left

    def _permitted(self, hints: Sequence[Hint]) -> list[Hint]:
        """Leave out what a client may no longer do: that may last for hours, and the sweep asks again meanwhile."""
        permitted = []
        for hint in hints:
            request = self.progress.requests[hint.request_id]
            withheld = self._ports.permit(request).withheld
            if withheld is None:
                permitted.append(hint)
            else:
                self.withheld[request.client, withheld] += 1
        return permitted


def _parts(requests: Iterable[RequestRow]) -> set[PostfixPart]:
    return {target.part for request in requests for target in parse_targets(request.wanted_ids)}
