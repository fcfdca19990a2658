"""Which stretches of time to list when messages are looked for by their ids. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from quarantine_release.domain.ids import decode_time, is_bare
from quarantine_release.domain.verdicts import ReadBackTarget

_AROUND_TIMESTAMP: Final = timedelta(hours=1)
# The published examples show the two up to a day apart.
_AROUND_QUEUE_ID: Final = timedelta(hours=36)
# A page holds 1,000 messages: what little arrived in between costs less than one more page.
NEAR: Final = timedelta(hours=6)


@dataclass(slots=True)
class Window:
    """A stretch of time to list, and the messages that should be in it."""

    start: datetime
    end: datetime
    wanted: list[ReadBackTarget]

    @property
    def query(self) -> dict[str, str]:
        """Return the parameters of a search in this stretch of time."""
        return {"start": wire_time(self.start), "end": wire_time(self.end)}


def wire_time(at: datetime) -> str:
    """Return a time as Cloudflare's search takes it (RFC 3339, whole seconds)."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def plan_windows(wanted: Iterable[ReadBackTarget], now: datetime, near: timedelta = NEAR) -> list[Window]:
    """Return the stretches of time in which to look for messages, latest first; those that are so near are one."""
    windows = []
    for one in wanted:
        at = decode_time(one.message_id, now)
        around = _AROUND_QUEUE_ID if is_bare(one.message_id) else _AROUND_TIMESTAMP
        if at is not None and at - around < now:  # a search that begins in the future is refused
            windows.append(Window(at - around, min(at + around, now), [one]))
    merged: list[Window] = []
    for window in sorted(windows, key=lambda window: window.start):
        if merged and window.start <= merged[-1].end + near:
            merged[-1].end = max(window.end, merged[-1].end)
            merged[-1].wanted += window.wanted
        else:
            merged.append(window)
    return merged[::-1]
