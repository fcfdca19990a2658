"""The routes of releases: ask for one, look one up or several, cancel one."""

from collections.abc import Sequence
from dataclasses import replace
from secrets import token_bytes
from typing import Any, Final

from quarantine_release import telemetry
from quarantine_release.api.access import allowed_account, require_scope, visible_request
from quarantine_release.api.authentication import AuthenticatedRequest
from quarantine_release.api.problems import InvalidRequest, Problem, problem_body, unreadable
from quarantine_release.api.release_answer import answer_body, is_failure
from quarantine_release.api.release_request import accept, parse_release_request
from quarantine_release.api.request_fields import parse_request_id
from quarantine_release.api.response import PROBLEM_TYPE, Response
from quarantine_release.api.services import Services
from quarantine_release.config.clients import Client, Scope
from quarantine_release.domain.ids import RequestId
from quarantine_release.domain.rows import RequestRow
from quarantine_release.releasing.progress import Answer
from quarantine_release.usecases.accepted_request import KeyReused, cancel, status_of
from quarantine_release.usecases.admission import NotAccepted
from quarantine_release.usecases.release_now import release

_POLL_SECONDS: Final = 5
_LIST_LIMIT: Final = 50


def post_release(caller: AuthenticatedRequest, services: Services) -> Response:
    """Release messages."""
    wanted = parse_release_request(caller)
    for scope in wanted.scopes:
        require_scope(caller.client, scope)
    account_id = allowed_account(caller.client, wanted.account_id, services.accounts)
    row = accept(wanted, account_id, services.ports.clock(), token_bytes(20))
    row = replace(row, confirm=row.confirm or services.ports.guard.confirms)
    answer = _accepted(release(row, services.ports, inline=wanted.is_inline))
    _log_ends(answer)
    response = _respond_with(answer, caller, wanted.warnings)
    if wanted.prefers_async and not wanted.is_inline:
        return replace(response, headers={**response.headers, "Preference-Applied": "respond-async"})
    return response


def get_release(caller: AuthenticatedRequest, services: Services, name: str) -> Response:
    """Show the state of a request."""
    row = _find(caller, services, parse_request_id(name))
    return _respond_with(status_of(row, services.ports), caller)


def post_cancel(caller: AuthenticatedRequest, services: Services, name: str) -> Response:
    """End what is not claimed yet. Only the client that asked for it may."""
    row = _find(caller, services, parse_request_id(name))
    if row.client != caller.client.name:
        raise Problem("not_found", "There is no such request of this client.")
    return _respond_with(cancel(row, services.ports), caller)


def list_releases(caller: AuthenticatedRequest, services: Services) -> Response:
    """Show the state of several requests."""
    lists = caller.http.query.get("ids", ())
    names = [name.strip() for value in lists for name in value.split(",") if name.strip()]
    if not 1 <= len(names) <= _LIST_LIMIT:
        raise InvalidRequest("invalid_field", f"ids must name 1 to {_LIST_LIMIT} requests.", "ids")
    request_ids = [parse_request_id(name) for name in names]
    rows = services.ledger.find_requests([request_id for request_id in request_ids if request_id])
    bodies, pending = [], 0
    for request_id in request_ids:
        try:
            row = visible_request(rows, request_id, caller.client)
            body = _answer_body(status_of(row, services.ports), caller.client)
            pending += body["outcome"] == "pending"
        except Problem as declined:
            body = problem_body(declined, caller.http.gateway_request_id)
            pending += body["retryable"]  # what cannot be read now may be open, so that nobody may stop asking
        bodies.append(body)
    return Response(200, {"releases": bodies, "open": pending})


def _find(caller: AuthenticatedRequest, services: Services, request_id: RequestId | None) -> RequestRow:
    rows = services.ledger.find_requests([request_id]) if request_id else {}
    return visible_request(rows, request_id, caller.client)


def _accepted(outcome: Answer | NotAccepted | KeyReused) -> Answer:
    """Return the answer to a request that was accepted. Raises Problem for one that was not."""
    if isinstance(outcome, KeyReused):
        detail = "The key was used before with another payload: use a new key for a new request."
        raise Problem("idempotency_key_reused", detail, field="Idempotency-Key")
    if isinstance(outcome, NotAccepted):
        detail = "Nothing was released, and nothing will be on behalf of this request."
        members = {"pause_reason": outcome.stop.reason} if outcome.stop else {}
        raise Problem(outcome.reason, detail, retry_after=outcome.retry_after, **members)
    return outcome


def _log_ends(answer: Answer) -> None:
    """Log the messages and ids that ended during this request."""
    for row in answer.settled:
        telemetry.release_outcome(row, answer.request)
    if answer.replayed:
        return
    for result in answer.results:
        if result.ended is not None:
            telemetry.not_released(result, answer.request)


def _respond_with(answer: Answer, caller: AuthenticatedRequest, warnings: Sequence[str] = ()) -> Response:
    body = _answer_body(answer, caller.client, warnings)
    if body["outcome"] == "pending":
        location = f"{caller.http.base_url}/v1/releases/{answer.request.request_id}"
        return Response(202, body, {"Location": location, "Retry-After": str(_POLL_SECONDS)})
    return Response(200, body) if "code" not in body else Response(400, body, PROBLEM_TYPE)


def _answer_body(answer: Answer, client: Client, warnings: Sequence[str] = ()) -> dict[str, Any]:
    if answer.unreadable_ids:
        raise unreadable(answer.unreadable_ids, request_id=answer.request.request_id)
    body = answer_body(answer, warnings, sees_all=Scope.READ_ALL in client.scopes)
    if not is_failure(answer):
        return body
    declined = Problem("release_incomplete", body["message"])
    return {**body, **problem_body(declined, answer.request.request_id)}
