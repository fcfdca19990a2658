"""Is the mail that Cloudflare shows under an id the one that the ledger knows by the same Postfix part? Pure.

Short Postfix ids are used again (Postfix, enable_long_queue_ids), so a bare id may mean another mail than before.
"""

from datetime import datetime

from quarantine_release.domain.details import Details
from quarantine_release.domain.guard import Candidate, Ended
from quarantine_release.domain.ids import MessageId, contradict, decode_time, is_partial
from quarantine_release.domain.lookup import FRESH
from quarantine_release.domain.results import is_forgotten
from quarantine_release.domain.rows import MessageRow, Target
from quarantine_release.domain.states import FINAL, Code, Outcome, State


def is_to_be_compared(row: MessageRow | None, target: Target, now: datetime) -> bool:
    """Return whether the ledger's answer for an id holds only if Cloudflare still shows the same mail under it.

    This is the case for a Postfix or alert id whose message ended more than a minute ago, if the ledger knows which
    mail that was.
    """
    if row is None or row.state not in FINAL or not is_partial(target.message_id) or is_forgotten(row, now):
        return False
    return row.own_id is not None and now - row.updated_at > FRESH


def used_again(row: MessageRow | None, shown: Details | MessageId, now: datetime) -> Ended | None:
    """Return how an id ends under which Cloudflare shows another mail than the ledger knows; None if it is the same."""
    shown_id = shown.message_id if isinstance(shown, Details) else shown
    known_id = row.own_id if row is not None and not is_forgotten(row, now) else None
    if row is None or known_id is None or not contradict(known_id, shown_id):
        return None
    is_held = False if row.state in (State.RELEASED, State.PARTIAL) else None
    candidates = (
        Candidate(known_id, decode_time(known_id, now), row.disposition, is_held),
        Candidate(shown.message_id, shown.at, shown.disposition_name, shown.is_quarantined)
        if isinstance(shown, Details)
        else Candidate(shown, decode_time(shown, now), None, None),
    )
    detail = (
        f"This Postfix id was used for two messages: the ledger knows {known_id}, and Cloudflare now shows {shown_id}."
    )
    return Ended(Outcome.AMBIGUOUS, Code.SEVERAL_MATCHES, detail, candidates)
