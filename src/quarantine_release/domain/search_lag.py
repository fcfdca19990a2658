"""Mail so new that Cloudflare's search may not show it yet: who waits for it, how long, and when to look again. Pure.

Cloudflare's search lags behind the arrival of mail, while the path of such mail answers 404. So "not found" says
nothing of it, and a bare id would pass unread.
"""

from datetime import datetime, timedelta
from typing import Final

from quarantine_release.domain.details import Details, NotRead, Several, Unreadable
from quarantine_release.domain.guard import Ended
from quarantine_release.domain.ids import MessageId, decode_time
from quarantine_release.domain.states import Code, Outcome

# A request waits this long for its mail to become searchable, counted from when it was made.
PATIENCE: Final = timedelta(minutes=10)

# Wait after the lag is over, so that the looks are few even if the lag is short.
_AFTER_THE_LAG: Final = timedelta(seconds=50)

_NO_TIME: Final = timedelta(0)

TOO_NEW: Final = Ended(
    Outcome.DENIED,
    Code.GUARD_UNAVAILABLE,
    "The message is too new for Cloudflare's search: send it again in a few minutes.",
)
NEVER_SHOWN: Final = Ended(
    Outcome.DENIED,
    Code.GUARD_UNAVAILABLE,
    "The message did not become searchable at Cloudflare within ten minutes, so it is not released.",
)


def searchable_at(
    shown: Details | Several | NotRead, message_id: MessageId, asked_at: datetime, lag: timedelta
) -> datetime | None:
    """Return when a message that was not found should be searchable; None if it should have been when it was asked for.

    The age at that moment counts, so that the answer does not change while the request waits.
    """
    if shown not in (Unreadable.ABSENT, Unreadable.NOT_LISTED):
        return None
    at = decode_time(message_id, asked_at)
    return at + lag if at is not None and asked_at - at < lag else None


def retry_seconds(lag: timedelta, waited: timedelta) -> float:
    """Return after how many seconds to look again: a sixth of the lag, later a quarter of the time waited so far.

    Within ten minutes these are 15 looks at most, in whole seconds. AWS stops a function that feeds its own queue after
    16.
    """
    return max(lag / 6, waited / 4, _AFTER_THE_LAG if waited >= lag else _NO_TIME).total_seconds()
