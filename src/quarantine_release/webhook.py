"""HTTP in and out: authenticate, then parse, then release, then answer; and the table from error to status."""

import json
from typing import TYPE_CHECKING, Any, Final

from quarantine_release import init_phase, telemetry, wiring
from quarantine_release.api.authentication import AuthenticatedPayload, Unauthenticated, authenticate
from quarantine_release.api.event import HttpRequest, read_event
from quarantine_release.api.problems import PROBLEMS, Declined, problem_body
from quarantine_release.api.release_request import BODY_LIMIT
from quarantine_release.api.request_fields import InvalidRequest
from quarantine_release.api.routes import PROBLEM_TYPE, Call, Response, read_secret, route, unreadable
from quarantine_release.domain.ledger_errors import LedgerUnavailable, RowUnreadable
from quarantine_release.releasing.ports import Ports

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

_HEADERS: Final = {
    "Content-Type": "application/json",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}


@telemetry.logger.inject_lambda_context(clear_state=True)
@telemetry.metrics.log_metrics
def lambda_handler(event: dict[str, Any], context: "LambdaContext") -> dict[str, Any]:
    """Answer one API Gateway proxy event."""
    telemetry.count("Requests")
    try:
        response = _serve(read_event(event), wiring.ports(lambda: context.get_remaining_time_in_millis() / 1000))
    except Exception as error:  # noqa: BLE001  the edge of the process: logged, raised again without its text
        raise telemetry.unhandled(error) from None
    return {
        "statusCode": response.status,
        "headers": {**_HEADERS, **response.headers},
        "body": json.dumps(response.body),
        "isBase64Encoded": False,
    }


def _serve(request: HttpRequest, ports: Ports) -> Response:
    try:
        payload = _authenticate(request, ports)
        handler, arguments = route(request)
        _check_body(request)
        return handler(Call(request, payload, ports), *arguments)
    except Declined as error:
        declined = error
    except Unauthenticated as error:
        telemetry.unauthenticated(error.reason, error.client)
        detail = "Send a valid token as Authorization: Bearer or as x-api-key, and sign if you are required to."
        declined = Declined("unauthenticated", detail)
    except InvalidRequest as error:
        declined = Declined(error.code, error.detail, field=error.field)
    except RowUnreadable as error:
        declined = unreadable(error.ids)
    except LedgerUnavailable as error:
        telemetry.ledger_unavailable(str(error))
        detail = "The ledger cannot be reached. Whether the request was accepted is not known: send it again."
        declined = Declined("ledger_unavailable", detail)
    return _decline(declined, request)


def _authenticate(request: HttpRequest, ports: Ports) -> AuthenticatedPayload:
    """Authenticate; a token that is not known may be newer than the cached clients, so these are read once more."""
    secret = wiring.clients()
    now = ports.clock()
    try:
        known = read_secret("clients", secret.get)
        return authenticate(request.headers, request.query, request.body, known.clients, now)
    except Unauthenticated:
        known = read_secret("clients", secret.refetch)
        return authenticate(request.headers, request.query, request.body, known.clients, now)


def _check_body(request: HttpRequest) -> None:
    types = request.headers.get("content-type", ())
    if request.headers.get("content-encoding") or any(each.strip().lower().startswith("multipart/") for each in types):
        raise Declined("unsupported_encoding", "Send the body as plain JSON: no Content-Encoding, no multipart.")
    if request.body is not None and len(request.body) > BODY_LIMIT:
        raise Declined("body_too_large", f"The body may have at most {BODY_LIMIT} bytes.")


def _decline(declined: Declined, request: HttpRequest) -> Response:
    headers = dict(PROBLEM_TYPE)
    if declined.retry_after is not None:
        headers["Retry-After"] = str(declined.retry_after)
    if declined.code == "unauthenticated":
        headers["WWW-Authenticate"] = "Bearer"
    if declined.code == "method_not_allowed":
        headers["Allow"] = declined.members["allow"]
    telemetry.declined(declined.code)
    return Response(PROBLEMS[declined.code].status, problem_body(declined, request.gateway_request_id), headers)


wiring.prime(wiring.clients, wiring.accounts)

init_phase.end()
