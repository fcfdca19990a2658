"""Reads back at Cloudflare what became of messages, under every id that may be theirs. Pure but for its ports."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Final

from quarantine_release.domain.identity import combined, ids_to_read, tells_id
from quarantine_release.domain.ids import AccountId, MessageId, PostfixPart
from quarantine_release.domain.rows import MessageRow
from quarantine_release.domain.verdicts import Evidence, ReadBack, ReadBackTarget, Seen
from quarantine_release.releasing.ports import Ports

# So many ids that callers gave are read in one run: anybody may give three for each message, and each costs a call.
_CANDIDATES_READ: Final = 100

UNREAD: Final = ReadBack(Seen.UNREAD, Evidence())


def plan_read_back(row: MessageRow, since: datetime | None = None, sent: MessageId | None = None) -> ReadBackTarget:
    """Return the message as one to be read. With `since`, only a release that began after it counts.

    `sent`: the id in the call. Version 4c3b95d put what a later request called the message in its place in the row.
    """
    ids = ids_to_read(row)
    if sent is not None and row.own_id is None:
        ids = tuple(dict.fromkeys((sent, *ids)))
    return ReadBackTarget(row.part, ids[0], since, candidates=ids[1:])


def read_back(
    ports: Ports, account_id: AccountId, wanted: Sequence[ReadBackTarget], seconds: float
) -> dict[PostfixPart, ReadBack]:
    """Read messages within so many seconds; what is left out is UNREAD. Raises LedgerUnavailable.

    The ids that callers gave are read only where Cloudflare does not show the message with its full id, and only so
    many; messages of which more are to be read are UNREAD for now.
    """
    ends_at = ports.clock() + timedelta(seconds=seconds)
    readings = dict(ports.reader.read(account_id, wanted, seconds, ports.budget))
    doubtful = [target for target in wanted if target.candidates and not tells_id(readings.get(target.part))]
    by_id = {target.part: [(target.message_id, readings.get(target.part, UNREAD))] for target in doubtful}
    first = _within_limit(doubtful)
    for target in doubtful[len(first) :]:
        by_id[target.part].append((target.candidates[0], UNREAD))
    for others in _by_candidate(first):
        left = (ends_at - ports.clock()).total_seconds()
        more = ports.reader.read(account_id, others, left, ports.budget) if left > 0 else {}
        for other in others:
            by_id[other.part].append((other.message_id, more.get(other.part, UNREAD)))
    return readings | {part: combined(several) for part, several in by_id.items()}


def _within_limit(targets: Sequence[ReadBackTarget]) -> list[ReadBackTarget]:
    """Return the first of the messages, as many as have no more candidate ids together than are read in one run."""
    counts = accumulate(len(target.candidates) for target in targets)
    return [target for target, count in zip(targets, counts, strict=True) if count <= _CANDIDATES_READ]


def _by_candidate(targets: Sequence[ReadBackTarget]) -> Iterator[list[ReadBackTarget]]:
    """Yield the messages under their first candidate id, then those that have another under the second, and so on."""
    for rank in range(max((len(target.candidates) for target in targets), default=0)):
        some = [target for target in targets if len(target.candidates) > rank]
        yield [replace(target, message_id=target.candidates[rank], candidates=()) for target in some]
