"""The walk through Cloudflare's search that both readers take: stretches of time, page by page, then single messages.

What the pages show is for each reader to take in. A list proves something only if it was read to its end.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import ClassVar, Final
from urllib.parse import quote

from quarantine_release.cloudflare.search import Page, SearchSession
from quarantine_release.cloudflare.windows import Window, plan_windows
from quarantine_release.domain.details import NotRead, NotYetRead, Unreadable
from quarantine_release.domain.ids import MessageId
from quarantine_release.domain.verdicts import ReadBackTarget

# Up to this many messages are cheaper to read one by one than in a list with everything that arrived around them.
FEW: Final = 2

# The single reads that one run makes for an account.
SINGLES: Final = 100

_PAGES: Final = 12

# A run of at least this many seconds has time for all pages. The worker repeats a shorter one.
_LONG_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True)
class Kind:
    """Which mail is listed, and how near to one another two stretches of time are looked through as one."""

    query: Mapping[str, str]
    near: timedelta


@dataclass(slots=True)
class Walk(ABC):
    """One run of reading, of so many seconds. `sought` are the messages that were looked for in lists.

    `unsure` is why a list in which a message was looked for was not read to its end: there may be more rows about it.
    `begins_late`: whether a list is begun when only the time is left that is kept for single reads.
    """

    begins_late: ClassVar[bool]

    calls: SearchSession
    now: datetime
    seconds: float
    pages: int = 0
    is_offered: bool = False
    sought: set[MessageId] = field(default_factory=set)
    unsure: dict[MessageId, NotRead] = field(default_factory=dict)

    @abstractmethod
    def take_in(self, page: Page, wanted: Sequence[ReadBackTarget]) -> None:
        """Take in what a page shows of the messages it was listed for."""

    def list_around(self, wanted: Sequence[ReadBackTarget], kind: Kind) -> None:
        """List mail around the times of the messages to the end, or until pages or time are used up."""
        self.sought.update(one.message_id for one in wanted)
        for window in plan_windows(wanted, self.now, kind.near):
            why = self._list(window, wanted, kind)
            if why is not None:
                self.unsure = {one.message_id: why for one in window.wanted} | self.unsure

    def _list(self, window: Window, wanted: Sequence[ReadBackTarget], kind: Kind) -> NotRead | None:
        """List one stretch of time; return why that was not done to its end, if it was not."""
        if self._has_no_pages or (self._is_late and not self.begins_late):
            return NotYetRead.NOT_NOW
        is_first = self.pages == 0
        for page in self.calls.pages({**window.query, **kind.query}):
            self.pages += 1
            self.is_offered |= page.why is None
            self.take_in(page, wanted)
            if page.is_last or page.why is not None:
                return page.why
            is_late = self._is_late
            if is_late or self._has_no_pages:
                # A first list that had all the time or all the pages there are would get no further in another run.
                had_all = self.seconds >= _LONG_SECONDS or not is_late
                return Unreadable.TOO_MANY if is_first and had_all else NotYetRead.NOT_NOW
        return Unreadable.FAILED

    @property
    def _has_no_pages(self) -> bool:
        return self.pages >= _PAGES

    @property
    def _is_late(self) -> bool:
        # A third of the time is kept for messages that no list shows, because the lists could use up all of it.
        return self.calls.seconds_left < self.seconds / 3


def path_of(message_id: MessageId) -> str:
    """Return where a message is read singly, below `/investigate`."""
    return f"/{quote(message_id, safe='')}"
