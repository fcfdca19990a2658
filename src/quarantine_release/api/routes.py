"""From a request to its answer: who is calling, which route it is, and which problem an error becomes."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from quarantine_release import telemetry
from quarantine_release.api.access import require_scope
from quarantine_release.api.authentication import AuthenticatedRequest, Unauthenticated, authenticate
from quarantine_release.api.event import HttpRequest
from quarantine_release.api.health_route import get_health
from quarantine_release.api.message_route import get_message
from quarantine_release.api.problems import Problem, unreadable
from quarantine_release.api.release_request import BODY_LIMIT
from quarantine_release.api.release_routes import get_release, list_releases, post_cancel, post_release
from quarantine_release.api.response import Response, problem_response
from quarantine_release.api.services import Services, read_secret
from quarantine_release.config.clients import Scope
from quarantine_release.domain.ledger_errors import LedgerUnavailable, RowUnreadable


@dataclass(frozen=True, slots=True)
class Route:
    """What serves a method of a path, and the scope it needs; None if any client will do."""

    handler: Callable[..., Response]
    scope: Scope | None


_ROUTES: Final[tuple[tuple[re.Pattern[str], dict[str, Route]], ...]] = (
    (
        re.compile(r"\A/v1/releases\Z"),
        {"POST": Route(post_release, Scope.RELEASE), "GET": Route(list_releases, Scope.READ)},
    ),
    (re.compile(r"\A/v1/releases/([^/]+)\Z"), {"GET": Route(get_release, Scope.READ)}),
    (re.compile(r"\A/v1/releases/([^/]+)/cancel\Z"), {"POST": Route(post_cancel, Scope.RELEASE)}),
    (re.compile(r"\A/v1/messages/([^/]+)\Z"), {"GET": Route(get_message, Scope.READ)}),
    (re.compile(r"\A/v1/health\Z"), {"GET": Route(get_health, None)}),
)


def respond(request: HttpRequest, services: Services) -> Response:
    """Answer a request. Every error that was foreseen is an answer, too."""
    try:
        return _serve(request, services)
    except Problem as error:
        declined = error
    except Unauthenticated as error:
        telemetry.unauthenticated(error.reason, error.client)
        detail = "Send a valid token as Authorization: Bearer or as x-api-key, and sign if you are required to."
        declined = Problem("unauthenticated", detail)
    except RowUnreadable as error:
        declined = unreadable(error.ids)
    except LedgerUnavailable as error:
        telemetry.ledger_unavailable(str(error))
        detail = "The ledger cannot be reached. Whether the request was accepted is not known: send it again."
        declined = Problem("ledger_unavailable", detail)
    telemetry.declined(declined.code)
    return problem_response(declined, request.gateway_request_id)


def _serve(request: HttpRequest, services: Services) -> Response:
    caller = _authenticate(request, services)
    route, arguments = find_route(request)
    _check_body(request)
    if route.scope is not None:
        require_scope(caller.client, route.scope)
    return route.handler(caller, services, *arguments)


def _authenticate(request: HttpRequest, services: Services) -> AuthenticatedRequest:
    """Authenticate. An unknown token may be newer than the cached clients, so they are read once more."""
    now = services.ports.clock()
    cached = read_secret("clients", services.clients.get)
    try:
        return authenticate(request, cached.clients, now)
    except Unauthenticated:
        current = read_secret("clients", services.clients.refetch)
        return authenticate(request, current.clients, now)


def find_route(request: HttpRequest) -> tuple[Route, tuple[str, ...]]:
    """Find the route of a request, and what its path names. Raises Problem: 404, or 405 with the route's methods."""
    for pattern, methods in _ROUTES:
        match = pattern.match(request.path)
        if match is None:
            continue
        if request.method not in methods:
            allowed = ", ".join(methods)
            raise Problem("method_not_allowed", f"The route knows {allowed}.", allow=allowed)
        return methods[request.method], tuple(_decode(part) for part in match.groups())
    raise Problem("not_found", "There is no such route.")


def _decode(part: str) -> str:
    """Undo percent-encoding once, as REST APIs hand the path on encoded; what is not UTF-8 matches no id."""
    return unquote(part, errors="replace")


def _check_body(request: HttpRequest) -> None:
    """Refuse a body that no route reads, whatever is in it."""
    types = request.headers.get("content-type", ())
    is_multipart = any(value.strip().lower().startswith("multipart/") for value in types)
    if is_multipart or request.headers.get("content-encoding"):
        raise Problem("unsupported_encoding", "Send the body as plain JSON: no Content-Encoding, no multipart.")
    if request.body is not None and len(request.body) > BODY_LIMIT:
        raise Problem("body_too_large", f"The body may have at most {BODY_LIMIT} bytes.")
