"""What is left of a request's permission: its client may have lost a right since. Pure."""

from datetime import datetime

from quarantine_release.config.clients import Client, Clients, Scope
from quarantine_release.domain.permit import Permit, Withheld
from quarantine_release.domain.rows import RequestRow


def check_permit(request: RequestRow, clients: Clients | None, now: datetime) -> Permit:
    """Return what is left of a request's permission; None are clients that cannot be read for now."""
    if clients is None:
        return Permit(request.policy, Withheld.CLIENTS_UNREADABLE)
    client = next((client for client in clients.clients if client.name == request.client), None)
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
