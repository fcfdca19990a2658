"""When hints come back whose messages cannot be released now. Pure but for its ports."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from quarantine_release.domain.ids import RequestId
from quarantine_release.releasing.findings import Findings
from quarantine_release.releasing.ports import Hint, Ports
from quarantine_release.releasing.progress import Progress

# If Cloudflare refuses without saying for how long, all of it waits for the full minute after the next half: it comes
# back at once, so that it costs one call.
_REFUSED_SECONDS: Final = 60
# The sweep is told of delays from this one on, so that it does not send the same hint again and again.
_LONG_SECONDS: Final = 30.0

# If a read was postponed, it is tried again this much later, but not before this many calls may be made. The lists of
# a look take 24 calls at most. A worker that came back for fewer would spend a small budget on lists that it cannot
# read to their end, and a list that was cut proves nothing.
_NOT_NOW_SECONDS: Final = 5.0
_LONGEST_NOT_NOW_SECONDS: Final = 300.0
_LOOK_CALLS: Final = 30

# From this age on a request gets its hints from the sweep alone. AWS stops a function that feeds its own queue after
# about 16 rounds (Lambda developer guide, "Recursive loop detection"); a hint of the sweep begins to count anew.
_SENDS_ITSELF: Final = timedelta(minutes=10)


def seconds_until_full_minute(now: datetime) -> float:
    """Return after how many seconds to come back if Cloudflare does not say it."""
    return _LONG_SECONDS + (_REFUSED_SECONDS - (now.timestamp() + _LONG_SECONDS) % _REFUSED_SECONDS)


class Postponement:
    """What has to wait of one account's hints, and for how long. `seconds`: all that is left, if no call is made."""

    def __init__(self, progress: Progress, ports: Ports) -> None:
        self._progress = progress
        self._ports = ports
        self.seconds = 0.0
        # The delay of each request that cannot be read for now: a new one must not bring back the others as soon.
        self._retries: dict[RequestId, float] = {}

    def wait_for(self, findings: Findings) -> None:
        """Wait for what a look could not read."""
        now, budget = self._ports.clock(), self._ports.budget
        if findings.is_refused:
            self.seconds = seconds_until_full_minute(now)
        elif findings.is_waiting:
            self._retries = findings.retries(now, _NOT_NOW_SECONDS, _LONGEST_NOT_NOW_SECONDS)
            soonest = min(self._retries.values(), default=_NOT_NOW_SECONDS)
            self.seconds = max(budget.wait_for(self._progress.account_id, _LOOK_CALLS), soonest)

    def put_off(self, hints: Sequence[Hint], delay: float) -> None:
        """Have hints come back after so many seconds, or later if a request waits for a read, or is paused."""
        progress = self._progress
        paused = [hint for hint in hints if progress.active_pause(progress.requests[hint.request_id])]
        waits: dict[float, list[Hint]] = defaultdict(list)
        for hint in hints:
            if hint not in paused:
                waits[max(delay, self._retries.get(hint.request_id, 0.0))].append(hint)
        for seconds, group in waits.items():
            self._send(group, seconds)
        self._send(paused, max(delay, seconds_until_full_minute(self._ports.clock())))

    def _send(self, hints: Sequence[Hint], delay: float) -> None:
        """Send hints again after so many seconds, and have the sweep wait for as long.

        An old request is left to the sweep, unless the worker only ran out of time.
        """
        now = self._ports.clock()
        swept = [hint for hint in hints if delay and self._is_old(hint, now)]
        sent = [hint for hint in hints if hint not in swept]
        names = dict.fromkeys(hint.request_id for hint in (hints if delay >= _LONG_SECONDS else swept))
        if names:
            waiting = [self._progress.requests[name] for name in names]
            self._ports.ledger.postpone(waiting, now + timedelta(seconds=delay))
        if sent:
            self._ports.queue.send(sent, delay)

    def _is_old(self, hint: Hint, now: datetime) -> bool:
        return now - self._progress.requests[hint.request_id].created_at >= _SENDS_ITSELF
