"""Reads back at Cloudflare what became of messages, under every id that may be theirs. Pure but for its ports."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Final

from quarantine_release.domain.identity import combined, ids_to_read, tells_id
from quarantine_release.domain.ids import AccountId, MessageId, PostfixPart
from quarantine_release.domain.rows import MessageRow
from quarantine_release.domain.verdicts import Evidence, Reading, Seen, Wanted
from quarantine_release.releasing.ports import Ports

# So many ids that callers gave are read in one run: anybody may give three for each message, and each costs a call.
_CANDIDATES_READ: Final = 100

UNREAD: Final = Reading(Seen.UNREAD, Evidence())


def wanted_of(row: MessageRow, since: datetime | None = None, sent: MessageId | None = None) -> Wanted:
    """Return the message as one to be read. With `since`, only a release that began after it counts.

    `sent`: the id in the call. Version 4c3b95d put what a later request called the message in its place in the row.
    """
    ids = ids_to_read(row)
    if sent is not None and row.own_id is None:
        ids = tuple(dict.fromkeys((sent, *ids)))
    return Wanted(row.part, ids[0], since, candidates=ids[1:])


def read_back(
    ports: Ports, account_id: AccountId, wanted: Sequence[Wanted], seconds: float
) -> dict[PostfixPart, Reading]:
    """Read messages within so many seconds; what is left out is UNREAD. Raises LedgerUnavailable.

    The ids that callers gave are read only where Cloudflare does not show the message with its full id, and only so
    many; messages of which more are to be read are UNREAD for now.
    """
    ends_at = ports.clock() + timedelta(seconds=seconds)
    readings = dict(ports.reader.read(account_id, wanted, seconds, ports.budget))
    doubtful = [one for one in wanted if one.candidates and not tells_id(readings.get(one.part))]
    read: dict[PostfixPart, list[tuple[MessageId, Reading]]] = {
        one.part: [(one.message_id, readings.get(one.part, UNREAD))] for one in doubtful
    }
    counts = list(accumulate(len(one.candidates) for one in doubtful))
    first = [one for one, count in zip(doubtful, counts, strict=True) if count <= _CANDIDATES_READ]
    for one in doubtful[len(first) :]:
        read[one.part].append((one.candidates[0], UNREAD))
    for rank in range(max((len(one.candidates) for one in first), default=0)):
        some = [one for one in first if len(one.candidates) > rank]
        others = [replace(one, message_id=one.candidates[rank], candidates=()) for one in some]
        left = (ends_at - ports.clock()).total_seconds()
        more = ports.reader.read(account_id, others, left, ports.budget) if others and left > 0 else {}
        for one in others:
            read[one.part].append((one.message_id, more.get(one.part, UNREAD)))
    return readings | {part: combined(several) for part, several in read.items()}
