"""Which message an id means that only a search can tell. Pure.

A Message-ID is chosen by the sender: it may be missing, used again, or forged. So several matches are never guessed at.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from quarantine_release.domain.details import Details, Several
from quarantine_release.domain.guard import Candidate, Ended
from quarantine_release.domain.ids import MessageId
from quarantine_release.domain.request_options import Narrowing
from quarantine_release.domain.states import Code, Outcome

CANDIDATES_SHOWN: Final = 10
# An answer this old may save a search: within a minute a second mail under the same id is unlikely.
FRESH: Final = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Kept:
    """What a question was answered, and when. `at` None: version 4c3b95d has kept it, which did not write down when."""

    message_id: MessageId
    until: datetime
    at: datetime | None = None

    def is_fresh(self, now: datetime) -> bool:
        return self.at is not None and now - self.at <= FRESH


@dataclass(frozen=True, slots=True)
class Question:
    """A search for the message that a Message-ID means, from `start` on."""

    header: MessageId
    narrowing: Narrowing = field(repr=False)
    start: datetime

    @property
    def text(self) -> str:
        """Return the question as the ledger keeps its answer by: whatever may change the answer, but the window."""
        since = self.narrowing.since.isoformat() if self.narrowing.since else None
        return json.dumps([self.header, self.narrowing.recipient, self.narrowing.sender, since])

    @property
    def is_narrowed(self) -> bool:
        """Return whether the search may leave out rows of the very message that it finds."""
        return (self.narrowing.recipient, self.narrowing.sender, self.narrowing.since) != (None, None, None)


def choose(found: Sequence[Details], expected: int | None) -> Details | Ended:
    """Return the one message that a search found, or why there is not one. `expected` is a check, never a choice."""
    if expected is not None and len(found) != expected:
        were_found = "1 message was found" if len(found) == 1 else f"{len(found)} messages were found"
        said = f"expect_count is {expected}, but {were_found}."
        return Ended(Outcome.AMBIGUOUS, Code.COUNT_DIFFERS, said, _candidates(found))
    if not found:
        return Ended(Outcome.NOT_FOUND, None, "No message with this Message-ID was found in the time looked through.")
    if len(found) > 1:
        return _ambiguous(found, "have this Message-ID")
    return found[0]


def undecided(several: Several) -> Ended:
    """Return how an id ends that several messages go by."""
    return _ambiguous(several.messages, "go by this id")


def _ambiguous(found: Sequence[Details], how: str) -> Ended:
    detail = f"{len(found)} messages {how}: send the id of the one that is meant."
    return Ended(Outcome.AMBIGUOUS, Code.SEVERAL_MATCHES, detail, _candidates(found))


def _candidates(found: Sequence[Details]) -> tuple[Candidate, ...]:
    return tuple(
        Candidate(each.message_id, each.at, each.disposition_name, each.is_quarantined)
        for each in found[:CANDIDATES_SHOWN]
    )
