"""One planned call on its way: claim its messages, call, and record. Pure but for its ports.

Whoever comes goes through here: the webhook with one request, the worker with many.
"""

from quarantine_release.domain.ledger_errors import LedgerUnavailable
from quarantine_release.domain.packing import Call
from quarantine_release.domain.verdicts import Refused
from quarantine_release.releasing.call import make_call
from quarantine_release.releasing.claim import Claims, claim
from quarantine_release.releasing.ports import Conflict, Reservation
from quarantine_release.releasing.progress import Run


def dispatch(run: Run, planned: Call, reserved: Reservation, *, is_last: bool = False) -> Conflict | Refused | None:
    """Claim what may be claimed of a planned call, and make the call for it.

    None means that the next may follow: the call was made, or there was nothing to claim. A Conflict holds the earlier
    request under the same key. `is_last` is as in `make_call`. Raises LedgerUnavailable, but not if a claim fails while
    the caller of an accepted request waits.
    """
    try:
        claims = claim(run, planned)
    except LedgerUnavailable:
        if not run.has_waiting_caller:
            raise
        return None  # the outcome of the earlier calls must still reach the caller
    if not isinstance(claims, Claims):
        return claims
    return make_call(run, claims, reserved, is_last=is_last)
