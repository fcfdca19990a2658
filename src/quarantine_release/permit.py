"""What a client may still do: an accepted request held against the client's entry as it is now. Pure.

A person who revokes a client or tightens its policy means its queued work too. A mistake in the secret must not
destroy accepted work, so nothing ends here: the work waits until the entry allows it again, or expires.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from quarantine_release.clients import Client, Clients, Scope
from quarantine_release.guard import Policy
from quarantine_release.trace import RequestRow


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


def permit_of(request: RequestRow, clients: Clients | None, now: datetime) -> Permit:
    """Return what is left of a request's permission; None are clients that cannot be read for now."""
    if clients is None:
        return Permit(request.policy, Withheld.CLIENTS_UNREADABLE)
    client = next((one for one in clients.clients if one.name == request.client), None)
    if client is None:
        is_invalid = request.client in clients.problems
        return Permit(request.policy, Withheld.CLIENT_INVALID if is_invalid else Withheld.CLIENT_GONE)
    policy = request.policy if client.policy is None else client.policy.with_stricter(request.policy)
    return Permit(policy, _lost(request, client, now))


def _lost(request: RequestRow, client: Client, now: datetime) -> Withheld | None:
    needed = {Scope.RELEASE}
    needed |= {Scope.OVERRIDE} if request.override else set()
    needed |= {Scope.FORCE} if request.force else set()
    if client.is_disabled:
        return Withheld.CLIENT_DISABLED
    # An entry needs a token, so a past `expires_at` is how the last one is revoked.
    if all(token.expires_at is not None and token.expires_at <= now for token in client.tokens):
        return Withheld.TOKENS_EXPIRED
    if not needed <= client.scopes:
        return Withheld.SCOPE_LOST
    is_foreign = client.accounts is not None and request.account_id not in client.accounts
    return Withheld.ACCOUNT_LOST if is_foreign else None
