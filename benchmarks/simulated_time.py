"""Simulated time: many lives in one thread, each a greenlet that runs until it sleeps. No real clock is waited for."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from itertools import count
from typing import Final

from greenlet import getcurrent, greenlet

_EPOCH: Final = datetime(2026, 11, 22, 12, tzinfo=UTC)


class SimulatedTime:
    """What happens and when. Lives that wake at the same time do so in the order in which they fell asleep."""

    def __init__(self) -> None:
        self.now = 0.0
        self._asleep: list[tuple[float, int, greenlet]] = []
        self._order = count()
        self._hub = getcurrent()
        self._is_over = False

    def clock(self) -> datetime:
        """Return the time in whole milliseconds, as rows keep it."""
        return _EPOCH + timedelta(milliseconds=int(self.now * 1000))

    def spawn(self, act: Callable[[], object], at: float | None = None) -> None:
        """Have a life begin then, or now."""
        self._wake(greenlet(act, self._hub), self.now if at is None else at)

    def sleep(self, seconds: float) -> None:
        """Let time pass for the life that is running."""
        self._wake(getcurrent(), self.now + seconds)
        self._hub.switch()

    def run(self) -> None:
        """Let everybody live until all have ended, or one of them stops it."""
        while self._asleep and not self._is_over:
            self.now, _, life = heappop(self._asleep)
            life.switch()

    def stop(self) -> None:
        """End the run after the life that is running."""
        self._is_over = True

    def _wake(self, life: greenlet, at: float) -> None:
        heappush(self._asleep, (at, next(self._order), life))
