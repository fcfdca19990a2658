"""What a known client may do: its scopes, its accounts, the requests that it may see."""

from collections.abc import Mapping

from quarantine_release.api.problems import Problem, unreadable
from quarantine_release.api.services import read_secret
from quarantine_release.config.accounts import Accounts
from quarantine_release.config.clients import Client, Scope
from quarantine_release.config.secret import Secret
from quarantine_release.domain.ids import AccountId, RequestId
from quarantine_release.domain.rows import RequestRow, RequestState
from quarantine_release.domain.unreadable import UnreadableRequest


def require_scope(client: Client, scope: Scope) -> None:
    """Raise Problem if the client lacks a scope."""
    if scope not in client.scopes:
        raise Problem("scope_missing", f"The client needs the scope {scope}.")


def allowed_account(client: Client, wanted: AccountId | None, accounts: Secret[Accounts]) -> AccountId:
    """Return the account that a client acts for: the default one, unless it names another. Raises Problem."""
    configured = read_secret("cloudflare", accounts.get)
    account_id = wanted or configured.default
    is_allowed = client.may_act_for(account_id)
    if is_allowed and account_id not in configured.credentials:  # it may be newer than the copy at hand
        configured = read_secret("cloudflare", accounts.refetch)
    if not is_allowed or account_id not in configured.credentials:
        which = "this account" if wanted else "the default account, which is meant without account_id"
        raise Problem("account_not_allowed", f"The client may not act for {which}.", field="account_id")
    return account_id


def visible_request(
    rows: Mapping[RequestId, RequestRow | UnreadableRequest], request_id: RequestId | None, client: Client
) -> RequestRow:
    """Return a request that a client may see. Raises Problem; what it may not see is not there."""
    row = rows.get(request_id) if request_id else None
    if row is None or not _may_see(client, row):
        raise Problem("not_found", "There is no such request.")
    if isinstance(row, UnreadableRequest):
        raise unreadable()
    if row.state is RequestState.REFUSED:
        raise Problem("not_found", "There is no such request.")
    return row


def _may_see(client: Client, row: RequestRow | UnreadableRequest) -> bool:
    """Return whether a client may see a request: not one of an account that was taken from it, even its own.

    A row that is damaged so far that it names no client or account may be this client's own, who must hear of it.
    """
    is_read = row.client in (None, client.name) or Scope.READ_ALL in client.scopes
    return is_read and (row.account_id is None or client.may_act_for(row.account_id))
