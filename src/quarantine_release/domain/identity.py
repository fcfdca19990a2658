"""By which ids a message is known: the one that Cloudflare confirmed, and those that callers gave. Pure.

Anybody may ask by a made-up id. So only what Cloudflare tells of a message makes another id a wrong one.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from quarantine_release.domain.ids import MessageId, contradict, fullest, is_bare, postfix_part
from quarantine_release.domain.rows import MessageRow
from quarantine_release.domain.states import Code, State
from quarantine_release.domain.verdicts import ReadBack, Seen, Verdict

# Each one costs a read.
CANDIDATES_KEPT: Final = 3
# Each one has cost a call that Cloudflare rejected.
_REJECTED_KEPT: Final = 20


def with_confirmed(row: MessageRow, shown_id: MessageId | None) -> MessageRow:
    """Take over the id that Cloudflare told of the message, unless it has told a fuller or another one before."""
    own_id = row.own_id
    if shown_id is None or is_bare(shown_id) or postfix_part(shown_id) != row.part:
        return row
    if own_id is not None and (fullest((own_id, shown_id)) != shown_id or contradict(own_id, shown_id)):
        return row
    return replace(row, confirmed_id=shown_id, message_id=shown_id)


def with_candidate(row: MessageRow, candidate: MessageId) -> MessageRow:
    """Keep an id that a caller gave, if it may say more than what is known: it is read when the message is settled."""
    own_id = row.own_id
    is_known = candidate in (row.message_id, *row.candidates)
    says_more = own_id is None or candidate.startswith(f"{own_id}-")
    if is_known or not says_more or len(row.candidates) >= CANDIDATES_KEPT:
        return row
    return replace(row, candidates=row.candidates | {candidate})


def under(row: MessageRow, sent: MessageId) -> MessageRow:
    """Return the message as one that is sent under this id from now on. The id before it may still turn out right."""
    if row.code is Code.CLOUDFLARE_REJECTED:
        tried = row.rejected | {row.message_id}
        return replace(row, message_id=sent, rejected=tried if len(tried) <= _REJECTED_KEPT else row.rejected)
    return replace(with_candidate(replace(row, message_id=sent), row.message_id), message_id=sent)


def believed(row: MessageRow, verdict: Verdict) -> Verdict:
    """Return what an answer proves about the message: nothing, if it contradicts the id that was sent or confirmed."""
    answered_id = verdict.message_id
    if answered_id is None or not any(contradict(row_id, answered_id) for row_id in (row.known_id, row.message_id)):
        return verdict
    return Verdict(State.UNKNOWN, Code.UNCLEAR_ANSWER)


def ids_to_read(row: MessageRow) -> tuple[MessageId, ...]:
    """Return the ids to read a message by, the best known first: at most the own one and the candidates."""
    own_id, candidates = row.own_id, sorted(row.candidates)
    if own_id is None:
        return (row.message_id, *candidates)
    return (own_id, *(candidate for candidate in (row.message_id, *candidates) if candidate.startswith(f"{own_id}-")))


def tells_id(reading: ReadBack | None) -> bool:
    """Return whether a reading tells which message it is about. A Postfix id alone may belong to several messages."""
    return reading is not None and reading.message_id is not None and not is_bare(reading.message_id)


def combined(readings: Sequence[tuple[MessageId, ReadBack]]) -> ReadBack:
    """Return what the readings of one message under several ids show together, the best known id first.

    An id that Cloudflare does not know proves nothing about the others. Two that are different messages leave it
    unclear which is meant. An id that was not read may be one of these, unless it says nothing but the Postfix id.
    """
    shown = [reading for _, reading in readings if reading.seen not in (Seen.ABSENT, Seen.UNREAD)]
    some = [reading for message_id, reading in readings if not (shown and is_bare(message_id))]
    unread = [reading for reading in some if reading.seen is Seen.UNREAD]
    if unread:
        return unread[0]
    return _agreement(shown) if shown else readings[0][1]


def _agreement(shown: Sequence[ReadBack]) -> ReadBack:
    """Return what readings that show a message show together, under its fullest id."""
    ids = [reading.message_id for reading in shown if reading.message_id is not None]
    have_one_state = all(reading.seen is shown[0].seen for reading in shown)
    are_of_two = any(contradict(one, other) for one in ids for other in ids)
    if are_of_two or not have_one_state:
        return ReadBack(Seen.UNCLEAR, shown[-1].evidence)
    return replace(shown[-1], message_id=fullest(ids) if ids else None)
