"""A Cloudflare that does whatever it is asked to within its real limit, and beyond that refuses every call.

Of the limit only this much is published: 1,200 calls in five minutes, then five minutes of 429 for every call
(fundamentals/api/reference/limits). What kind of window that is nobody says: here it is a fixed one, which begins with
the first call and the next with the first call after its end. No answer tells how much is left.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf
from random import Random
from typing import Final

from benchmarks.simulated_time import SimulatedTime
from quarantine_release.domain.ids import MessageId

# A refusal comes from the edge.
_REFUSAL_SECONDS: Final = (0.02, 0.08)


@dataclass(frozen=True, slots=True)
class Limit:
    """So many calls in a window; one more, and all are refused for so long. Others take from so long to so long."""

    calls: int = 1200
    window_seconds: float = 300.0
    block_seconds: float = 300.0
    call_seconds: tuple[float, float] = (0.3, 0.8)


class LimitedCloudflare:
    """One account at Cloudflare, and what it has seen."""

    def __init__(self, time: SimulatedTime, random: Random, limit: Limit) -> None:
        self.calls = 0
        self.refused = 0
        self.lock_outs = 0
        self.released: dict[MessageId, list[float]] = {}
        self._time = time
        self._random = random
        self._limit = limit
        self._in_window = 0
        self._window_ends = -inf
        self._blocked_until = -inf

    def release(self, ids: Sequence[MessageId]) -> int | None:
        """Make one call; return the Retry-After of its refusal, or None once all are released."""
        retry_after = self.call(self._limit.call_seconds)
        if retry_after is None:
            for message_id in ids:
                self.released.setdefault(message_id, []).append(self._time.now)
        return retry_after

    def call(self, seconds: tuple[float, float]) -> int | None:
        """Make a call of any kind, which takes from so long to so long; return the Retry-After of its refusal."""
        self.calls += 1
        if self._counts_one_more():
            self._time.sleep(self._random.uniform(*seconds))
            return None
        self.refused += 1
        retry_after = ceil(self._blocked_until - self._time.now)
        self._time.sleep(self._random.uniform(*_REFUSAL_SECONDS))
        return retry_after

    def free_in(self) -> float:
        """Return for how many seconds a call would be refused: what nobody outside can know."""
        now = self._time.now
        is_full = now < self._window_ends and self._in_window >= self._limit.calls
        return max(self._window_ends - now if is_full else 0.0, self._blocked_until - now, 0.0)

    def _counts_one_more(self) -> bool:
        now = self._time.now
        if now < self._blocked_until:
            return False
        if now >= self._window_ends:
            self._in_window, self._window_ends = 0, now + self._limit.window_seconds
        if self._in_window == self._limit.calls:
            self.lock_outs += 1
            self._blocked_until, self._window_ends = now + self._limit.block_seconds, -inf
            return False
        self._in_window += 1
        return True
