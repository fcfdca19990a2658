"""An answer before it is API Gateway's: that of a route, or that of a problem. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from quarantine_release.api.problems import PROBLEMS, Problem, problem_body

PROBLEM_TYPE: Final = {"Content-Type": "application/problem+json"}


@dataclass(frozen=True, slots=True)
class Response:
    """Status, body and the headers that not every answer has."""

    status: int
    body: dict[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)


def problem_response(declined: Problem, gateway_request_id: str) -> Response:
    """Return the answer to a request that ends with a problem."""
    headers = dict(PROBLEM_TYPE)
    if declined.retry_after is not None:
        headers["Retry-After"] = str(declined.retry_after)
    if declined.code == "unauthenticated":
        headers["WWW-Authenticate"] = "Bearer"
    if declined.code == "method_not_allowed":
        headers["Allow"] = declined.members["allow"]
    return Response(PROBLEMS[declined.code].status, problem_body(declined, gateway_request_id), headers)
