"""The route of the deployment's health: does what a release needs work?"""

from typing import Any, Final

from quarantine_release.api.access import allowed_account
from quarantine_release.api.authentication import AuthenticatedRequest
from quarantine_release.api.problems import Problem
from quarantine_release.api.request_fields import queried_account
from quarantine_release.api.response import Response
from quarantine_release.api.services import Services, read_secret
from quarantine_release.api.trace_answer import evidence_body
from quarantine_release.domain.ids import AccountId, PostfixPart
from quarantine_release.domain.ledger_errors import LedgerUnavailable
from quarantine_release.domain.verdicts import Stop

_CHECK_SECONDS: Final = 5.0

# The row of a message that nobody has asked for.
_NO_MESSAGE: Final = PostfixPart("health-check")

_NOTE: Final = "An accepted credential proves no permission: only a release shows that it may release."
_UNGUARDED: Final = " The guard is off: mail is released whatever it is, malicious mail included."

_CREDENTIAL: Final = {True: "accepted", False: "refused", None: "not_checked"}


def get_health(caller: AuthenticatedRequest, services: Services) -> Response:
    """Check secrets, ledger and credential. Raises Problem with the checks if a release would fail."""
    client, ports = caller.client, services.ports
    account_id = allowed_account(client, queried_account(caller.http.query), services.accounts)
    checks, stop = _check_ledger(services, account_id, client.name)
    seconds = min(_CHECK_SECONDS, ports.time_left() - 1)
    check = read_secret("cloudflare", lambda: services.check_credential(account_id, seconds, ports.budget))
    content: dict[str, Any] = {
        "client": client.name,
        "scopes": sorted(client.scopes),
        "account_id": account_id,
        "checks": {
            "clients_secret": "ok",
            "cloudflare_secret": "ok",
            **checks,
            "credential": _CREDENTIAL[check.is_accepted],
        },
        "guard": ports.guard.mode,
        "evidence": evidence_body(check.evidence),
        **({"pause_reason": stop.reason} if stop else {}),
        "note": _NOTE + ("" if ports.guard.is_on else _UNGUARDED),
    }
    if checks["ledger"] != "ok" or not check.is_accepted:
        detail = "Releases would fail or be unconfirmed; the checks say what does not work."
        raise Problem("unhealthy", detail, **content)
    return Response(200, {"ok": True, **content})


def _check_ledger(services: Services, account_id: AccountId, client: str) -> tuple[dict[str, str], Stop | None]:
    """Read a row, and whether a person has paused the client's releases."""
    try:
        services.ledger.messages(account_id, [_NO_MESSAGE])
        stop = services.ports.budget.active_pause(account_id, client)
    except LedgerUnavailable:
        return {"ledger": "failed", "releases": "not_known"}, None
    return {"ledger": "ok", "releases": "paused" if stop else "ok"}, stop
