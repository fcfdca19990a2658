"""How many calls an account may still make: what one row counts, for all processes, and what it allows. Pure.

Cloudflare allows 1,200 calls in five minutes per user or token, those of the dashboard included, and then blocks every
call for five minutes (fundamentals/api/reference/limits).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from quarantine_release.domain.ids import OperationId
from quarantine_release.domain.verdicts import Stop

# Calls are counted by slots: a window is as many whole ones, the one at hand, and one for calls bought but made later.
SLOT_SECONDS: Final = 30
_SLOTS: Final = 300 // SLOT_SECONDS + 1
# After a pause calls begin again one by one: so many more each second, for so long.
_CALLS_A_SECOND: Final = 2
_GENTLE: Final = timedelta(seconds=60)
# From so many calls in a row on that came to nothing, calls pause: first for 5 s, then twice as long each, up to 60 s.
_TROUBLES: Final = 3
_FIRST_PAUSE: Final = 5.0
_LONGEST_PAUSE: Final = 60.0
# In the place of a client's name, which never is one: what holds for all clients of an account.
EVERYBODY: Final = "*"


@dataclass(frozen=True, slots=True)
class AccountRow:
    """What all processes know of an account. `calls` by slot; `resumed` counts those since the last pause ended.

    `stops` are the pauses that a person has ordered, by client; `operations` the last orders, the newest at the end.
    """

    calls: Mapping[int, int] = field(default_factory=dict)
    paused_until: datetime | None = None
    resumed: int = 0
    troubles: int = 0
    stops: Mapping[str, Stop] = field(default_factory=dict)
    operations: tuple[OperationId, ...] = ()


def find_slot(now: datetime) -> int:
    """Return the slot that a call made now is counted in."""
    return int(now.timestamp()) // SLOT_SECONDS


def is_past(slot: int, now: datetime) -> bool:
    """Say whether the calls of a slot are too old to count."""
    return slot < find_slot(now) - _SLOTS


def used(row: AccountRow, now: datetime) -> int:
    """Return how many calls were made in the five minutes up to now, or up to a slot more."""
    return sum(calls for slot, calls in row.calls.items() if not is_past(slot, now))


def seconds_to_wait(row: AccountRow, limit: int, now: datetime) -> float:
    """Return for how many seconds an account must be silent if it may make so many calls in five minutes; 0: call."""
    paused = pause_left(row, now)
    if paused:
        return paused
    if used(row, now) >= limit:
        return _until_below(row, limit, now)
    return 0.0 if allowed(row, limit, now) > 0 else 1 / _CALLS_A_SECOND


def seconds_until_free(row: AccountRow, limit: int, calls: int, now: datetime) -> float:
    """Return the seconds until `calls` calls may be made, or until all of `limit` are free if it is smaller."""
    below = max(limit - calls, 0) + 1
    return max(pause_left(row, now), _until_below(row, below, now) if used(row, now) >= below else 0.0)


def pause_left(row: AccountRow, now: datetime) -> float:
    """Return for how many seconds Cloudflare wants no call."""
    return max((row.paused_until - now).total_seconds(), 0.0) if row.paused_until is not None else 0.0


def active_pause(row: AccountRow, client: str) -> Stop | None:
    """Return why a client's releases are paused, if they are: all of the account's, or its own."""
    return row.stops.get(EVERYBODY) or row.stops.get(client)


def allowed(row: AccountRow, limit: int, now: datetime) -> int:
    """Return how many more calls may be made now: few after a pause. Below 0: so many too many were taken."""
    left = limit - used(row, now)
    if row.paused_until is None or not row.paused_until <= now < row.paused_until + _GENTLE:
        return left
    gentle = 1 + int((now - row.paused_until).total_seconds() * _CALLS_A_SECOND)
    return min(left, gentle - row.resumed)


def pause_after(troubles: int) -> float:
    """Return for how many seconds calls pause after so many in a row came to nothing; 0 for a few."""
    if troubles < _TROUBLES:
        return 0.0
    return float(min(_FIRST_PAUSE * 2 ** min(troubles - _TROUBLES, 10), _LONGEST_PAUSE))


def _until_below(row: AccountRow, limit: int, now: datetime) -> float:
    """Return the seconds until enough slots are past."""
    left = used(row, now)
    for slot, calls in sorted(row.calls.items()):
        if is_past(slot, now):
            continue
        left -= calls
        if left < limit:
            ends = datetime.fromtimestamp((slot + _SLOTS + 1) * SLOT_SECONDS, UTC)
            return max((ends - now).total_seconds(), 1.0)
    return float(SLOT_SECONDS)  # no call is allowed at all


class Mark(StrEnum):
    """Up to which mark of its account's budget a call may be made."""

    INLINE = "while plenty is left, since somebody waits for the answer"
    ALL = "while any is left"
