"""Proof of delivery: read back at Cloudflare what a release call says it released. Pure but for its ports.

It only ever adds to what is known: what is not proved stays released and unconfirmed.
"""

from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Final

from quarantine_release.domain.identity import with_confirmed
from quarantine_release.domain.ledger_errors import LedgerUnavailable
from quarantine_release.domain.rows import MessageRow
from quarantine_release.domain.states import State
from quarantine_release.domain.verdicts import Evidence, ReadBack, Seen
from quarantine_release.releasing.ports import Move, Ports
from quarantine_release.releasing.progress import Progress
from quarantine_release.releasing.read_back import plan_read_back, read_back

# Cloudflare's search may lag behind its own release, for how long is not documented: so long apart it is read.
_PAUSES: Final = (0.0, 0.5, 1.0, 2.0)


def confirm(progress: Progress, ports: Ports, *, seconds: float, spared: float) -> None:
    """Look for so long for proof of what was released for requests that want it; leave as many seconds as `spared`."""
    ends_at = ports.clock() + timedelta(seconds=seconds)
    for pause in _PAUSES:
        rows = _unproved(progress)
        if not rows:
            return
        left = min((ends_at - ports.clock()).total_seconds(), ports.time_left() - spared) - pause
        if left <= 0:
            return
        ports.pause(pause)
        wanted = [plan_read_back(row, row.forced_after) for row in rows]
        with suppress(LedgerUnavailable):
            readings = read_back(ports, progress.account_id, wanted, left)
            proved = [(row, told) for row in rows if (told := readings.get(row.part)) and told.seen is Seen.RELEASED]
            moves = [Move(row, _proved(row, told, ports)) for row, told in proved]
            others = ports.ledger.project(moves) if moves else {}
            progress.learn({move.after.part: others.get(move.after.part, move.after) for move in moves})


def _unproved(progress: Progress) -> list[MessageRow]:
    asking = {name for name, request in progress.requests.items() if request.confirm}
    rows = progress.rows.values() if asking else ()
    return [row for row in rows if row.state is State.RELEASED and row.owner in asking and row.confirmed_at is None]


def _proved(row: MessageRow, told: ReadBack, ports: Ports) -> MessageRow:
    evidence = replace(row.evidence or Evidence(), seen=Seen.RELEASED)
    return replace(with_confirmed(row, told.message_id), confirmed_at=ports.clock(), evidence=evidence)
