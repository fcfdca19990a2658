"""The use case of the reconciler: find out what calls left unknown, then see to it that what is wanted goes on.

Re-entrant: every write is conditional on what was read, so a crash, a second copy or a running request does no harm.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from quarantine_release.domain.ids import AccountId, PostfixPart
from quarantine_release.domain.ledger_errors import LedgerUnavailable, RowUnreadable
from quarantine_release.domain.rows import AttemptRow, AttemptState, MessageRow
from quarantine_release.domain.settlement import counts_from, found_out, settled
from quarantine_release.domain.states import FINAL, UNSETTLED, State
from quarantine_release.domain.transitions import given_back, recorded
from quarantine_release.domain.verdicts import Evidence, ReadBack, ReadBackTarget, Seen
from quarantine_release.releasing.ports import Hint, Move, Ports
from quarantine_release.releasing.read_back import UNREAD, plan_read_back, read_back
from quarantine_release.usecases.sweep import Swept, sweep

# Of each shard of the open index, so that one run stays within its time; what is left is next in a minute.
ATTEMPTS_AT_ONCE: Final = 50
# Seconds that must remain for one more transaction.
_RECORD_SECONDS: Final = 4.0
# A release that began earlier than this before a forced call is not its own; clocks may differ by so much.
_CLOCK_SKEW: Final = timedelta(seconds=60)
_SOONEST: Final = timedelta(seconds=50)
_LATEST: Final = timedelta(minutes=10)
_READ_SECONDS: Final = 25.0


@dataclass(slots=True)
class Summary:
    """What one run came to. `settled` are the messages that reached their end by it, `failures` what was left out."""

    settled: list[MessageRow] = field(default_factory=list)
    oldest_attempt: datetime | None = None
    attempts: int = 0
    failures: int = 0
    swept: Swept = field(default_factory=Swept)


def reconcile(ports: Ports, summary: Summary) -> None:
    """Settle what is due, then sweep open requests, while time remains.

    What the ledger does not take of one attempt or request is counted and holds up no other. Raises LedgerUnavailable
    if the ledger does not tell what is due.
    """
    _settle_attempts(ports, summary)
    sweep(ports, summary.swept)


def _settle_attempts(ports: Ports, summary: Summary) -> None:
    due = ports.ledger.open_attempts(ports.clock(), ATTEMPTS_AT_ONCE)
    summary.oldest_attempt = min((attempt.sent_at for attempt in due), default=None)
    by_account: dict[AccountId, list[AttemptRow]] = defaultdict(list)
    for attempt in due:
        by_account[attempt.account_id].append(attempt)
    for account_id, attempts in by_account.items():
        with _counting(summary):
            _settle_account(account_id, attempts, ports, summary)


@contextmanager
def _counting(summary: Summary) -> Iterator[None]:
    try:
        yield
    except RowUnreadable:  # has been reported, and is no failure of this run
        return
    except LedgerUnavailable:
        summary.failures += 1


def _settle_account(account_id: AccountId, attempts: Sequence[AttemptRow], ports: Ports, summary: Summary) -> None:
    parts = list(dict.fromkeys(target.part for attempt in attempts for target in attempt.targets))
    rows = ports.ledger.messages(account_id, parts)
    for attempt in attempts:
        if ports.time_left() < _RECORD_SECONDS:
            return
        with _counting(summary):
            rows |= _project(attempt, rows, ports, summary)

    read_at = ports.clock()
    wanted = [
        _wanted(rows[part], attempt, may_free=counts_from(attempt, ports.terms) <= read_at)
        for attempt in attempts
        for part in _unsettled(attempt, rows)
    ]
    seconds = min(_READ_SECONDS, ports.time_left() - _RECORD_SECONDS)
    readings = read_back(ports, account_id, wanted, seconds) if wanted and seconds > 0 else {}
    for attempt in attempts:
        if ports.time_left() < _RECORD_SECONDS:
            return
        summary.attempts += 1
        with _counting(summary):
            _settle_attempt(attempt, rows, readings, read_at, ports, summary)


def _project(
    attempt: AttemptRow, rows: Mapping[PostfixPart, MessageRow], ports: Ports, summary: Summary
) -> dict[PostfixPart, MessageRow]:
    """Bring the outcome that stands in the attempt to the messages of this attempt that it has not reached."""
    now, moves = ports.clock(), []
    for row in _claimed(attempt, rows):
        verdict = (attempt.verdicts or {}).get(row.part)
        if verdict is not None:
            evidence, size = attempt.evidence or Evidence(), len(attempt.targets)
            moves.append(Move(row, recorded(row, verdict, evidence, now, ports.terms, ids_in_call=size)))
        elif attempt.state is AttemptState.REFUSED and row.forced_over is None:
            moves.append(Move(row, given_back(None, row, now)))
    if not moves:
        return {}
    others = ports.ledger.project(moves)
    _note(moves, others, ports, summary)
    return {move.after.part: others.get(move.after.part, move.after) for move in moves}


def _note(moves: Sequence[Move], others: Mapping[PostfixPart, MessageRow], ports: Ports, summary: Summary) -> None:
    """Note what has ended, and have those who want what is free again go on at once."""
    rows = [move.after for move in moves if move.after.part not in others]
    summary.settled += [row for row in rows if row.state in FINAL]
    asked = {name for row in rows if row.state is State.RETRYABLE for name in row.asks}
    if asked:
        ports.queue.send([Hint(name) for name in sorted(asked)])


def _claimed(attempt: AttemptRow, rows: Mapping[PostfixPart, MessageRow]) -> list[MessageRow]:
    own = [row for target in attempt.targets if (row := rows.get(target.part)) and row.attempt == attempt.attempt]
    return [row for row in own if row.state is State.RELEASING]


def _unsettled(attempt: AttemptRow, rows: Mapping[PostfixPart, MessageRow]) -> list[PostfixPart]:
    own = [row for target in attempt.targets if (row := rows.get(target.part)) and row.attempt == attempt.attempt]
    return [row.part for row in own if row.state in UNSETTLED]


def _wanted(row: MessageRow, attempt: AttemptRow, *, may_free: bool) -> ReadBackTarget:
    since = None if row.forced_after is None else max(attempt.sent_at - _CLOCK_SKEW, row.forced_after)
    sent = next(target.message_id for target in attempt.targets if target.part == row.part)
    return replace(plan_read_back(row, since, sent), may_free=may_free)


def _settle_attempt(
    attempt: AttemptRow,
    rows: dict[PostfixPart, MessageRow],
    readings: Mapping[PostfixPart, ReadBack],
    read_at: datetime,
    ports: Ports,
    summary: Summary,
) -> None:
    now, terms = ports.clock(), ports.terms
    # What an unreadable row says of this call is not known: the call stays open until somebody can read it.
    moves, left = [], any(not rows[target.part].is_readable for target in attempt.targets if target.part in rows)
    for part in _unsettled(attempt, rows):
        reading = readings.get(part, UNREAD)
        after = settled(rows[part], attempt, reading, read_at, now, terms)
        if after is not None:
            moves.append(Move(rows[part], after))
        # What is under review stays so on a reading that shows nothing new, but it must have been read.
        left = left or (after is None and (rows[part].state is not State.NEEDS_REVIEW or reading.seen is Seen.UNREAD))
    after_rows = rows | {move.after.part: move.after for move in moves}
    if left:
        others = ports.ledger.project(moves) if moves else {}
        again = now + min(max((now - attempt.sent_at) / 4, _SOONEST), _LATEST)
        counts_at = counts_from(attempt, terms)
        ports.ledger.postpone([attempt], min(again, counts_at) if now < counts_at else again)
    else:
        known = found_out(attempt, after_rows, now, terms)
        others = ports.ledger.record(known, attempt.state, moves, None)
    rows |= {**after_rows, **others}
    _note(moves, others, ports, summary)
