"""The route of a message: its trace."""

from quarantine_release.api.access import allowed_account
from quarantine_release.api.authentication import AuthenticatedRequest
from quarantine_release.api.problems import InvalidRequest, Problem, unreadable
from quarantine_release.api.request_fields import parse_message_id, queried_account
from quarantine_release.api.response import Response
from quarantine_release.api.services import Services
from quarantine_release.api.trace_answer import list_attempts, trace_body
from quarantine_release.config.clients import Scope
from quarantine_release.domain.ids import MessageId, is_header, postfix_part


def get_message(caller: AuthenticatedRequest, services: Services, name: str) -> Response:
    """Show who asked for a message, what was tried, and what became of it."""
    if is_header(MessageId(name)):
        detail = "A Message-ID is not looked up here: send the resolved_id that the result of its release has."
        raise InvalidRequest("invalid_id", detail, "id")
    message_id = parse_message_id(name)
    account_id = allowed_account(caller.client, queried_account(caller.http.query), services.accounts)
    ledger, part = services.ledger, postfix_part(message_id)
    row = ledger.messages(account_id, [part]).get(part)
    if row is not None and not row.is_readable:
        raise unreadable([message_id])
    unclaimed = ledger.unclaimed(account_id, part)
    if row is None and not unclaimed:
        raise Problem("not_found", "Nobody has asked for this message, or what was asked still waits for its turn.")
    requests = ledger.requests(sorted(unclaimed | row.asks if row is not None else unclaimed))
    body = trace_body(
        row,
        requests,
        ledger.attempts(account_id, sorted(list_attempts(row))),
        ledger.operations_met(account_id, row, requests.values()),
        account_id=account_id,
        part=part,
        visible_to=None if Scope.READ_ALL in caller.client.scopes else caller.client.name,
        now=services.ports.clock(),
    )
    return Response(200, body)
