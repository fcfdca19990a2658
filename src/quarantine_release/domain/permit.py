"""What a client may still do with work that was accepted earlier. Pure.

A person who revokes a client or tightens its policy means its queued work too. A mistake in the secret must not
destroy accepted work, so nothing ends here: the work waits until the entry allows it again, or expires.
"""

from dataclasses import dataclass
from enum import StrEnum

from quarantine_release.domain.policy import Policy
from quarantine_release.domain.rows import RequestRow


class Withheld(StrEnum):
    """Why accepted work of a client waits; for logs."""

    CLIENTS_UNREADABLE = "clients_unreadable"
    CLIENT_GONE = "client_gone"
    CLIENT_INVALID = "client_invalid"
    CLIENT_DISABLED = "client_disabled"
    TOKENS_EXPIRED = "tokens_expired"
    SCOPE_LOST = "scope_lost"
    ACCOUNT_LOST = "account_lost"


@dataclass(frozen=True, slots=True)
class Permit:
    """The client's policy for a request, the stricter of then and now; and why the request waits, if it does."""

    policy: Policy | None
    withheld: Withheld | None = None


def as_accepted(request: RequestRow) -> Permit:
    """Return the permit of a request whose caller was authenticated a moment ago."""
    return Permit(request.policy)
