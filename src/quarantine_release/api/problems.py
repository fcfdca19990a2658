"""Every error a caller can get: code, status, title, and whether the same call may pass later. Pure.

The README's error table is kept equal to this one by a test.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from quarantine_release.domain.ids import MessageId


@dataclass(frozen=True, slots=True)
class ProblemType:
    """One kind of error (RFC 9457). `retry_after` in seconds is sent as Retry-After."""

    status: int
    title: str
    is_retryable: bool = False
    retry_after: int | None = None


PROBLEMS: Final = {
    "invalid_body": ProblemType(400, "The body is not JSON as it is accepted here"),
    "ids_missing": ProblemType(400, "No id was given"),
    "ids_ambiguous": ProblemType(400, "Ids were given under several names"),
    "too_many_ids": ProblemType(400, "More ids than the request may hold"),
    "invalid_id": ProblemType(400, "An id does not have the form of an id"),
    "invalid_field": ProblemType(400, "A member breaks its rule"),
    "field_too_long": ProblemType(400, "A text is too long"),
    "force_needs_reason": ProblemType(400, "force was given without a reason"),
    "override_needs_reason": ProblemType(400, "override was given without a reason"),
    "force_needs_key": ProblemType(400, "force was given without an idempotency key"),
    "invalid_idempotency_key": ProblemType(400, "The idempotency key breaks its rule"),
    "idempotency_key_reused": ProblemType(400, "The idempotency key belongs to another payload"),
    "release_incomplete": ProblemType(400, "Not everything was released, and fail_on asks to be told so"),
    "cloudflare_call_rejected": ProblemType(400, "Cloudflare rejected a forced call with several ids"),
    "unauthenticated": ProblemType(401, "No valid token was sent"),
    "scope_missing": ProblemType(403, "The client lacks the scope for this"),
    "account_not_allowed": ProblemType(403, "The client may not act for this account"),
    "not_found": ProblemType(404, "There is no such route, request or message"),
    "method_not_allowed": ProblemType(405, "The route does not know this method"),
    "body_too_large": ProblemType(413, "The body is larger than 64 KB"),
    "unsupported_encoding": ProblemType(415, "The body is compressed or in several parts"),
    "ledger_unavailable": ProblemType(503, "The ledger cannot be reached", True, 10),
    "ledger_row_unreadable": ProblemType(503, "A row of the ledger cannot be read", True, 60),
    "secrets_unavailable": ProblemType(503, "The secrets cannot be fetched", True, 10),
    "clients_not_configured": ProblemType(503, "The clients secret is not usable", True, 60),
    "cloudflare_not_configured": ProblemType(503, "The cloudflare secret is not usable", True, 60),
    "cloudflare_credentials_refused": ProblemType(503, "Cloudflare refuses the configured credential", True, 60),
    "cloudflare_rate_limited": ProblemType(
        503, "Cloudflare may not be called for now: rate limit or failed calls", True, 300
    ),
    "cloudflare_unreachable": ProblemType(503, "Cloudflare cannot be reached", True, 30),
    "not_enough_time": ProblemType(503, "Too little time was left to release safely", True, 5),
    "message_not_searchable_yet": ProblemType(503, "The message is too new for Cloudflare's search", True, 120),
    "releases_paused": ProblemType(503, "Releases are paused by the operator", True, 60),
    "unhealthy": ProblemType(503, "Something that releases need does not work", True, 60),
}


class Problem(Exception):
    """The request ends here, with this problem. `members` are added to those of RFC 9457 in the body."""

    def __init__(self, code: str, detail: str, *, retry_after: int | None = None, **members: Any) -> None:
        super().__init__(code)
        self.code = code
        self.detail = detail
        self.retry_after = retry_after if retry_after is not None else PROBLEMS[code].retry_after
        self.members = members


class InvalidRequest(Problem):
    """The request cannot be accepted as it is. `field` is the member that breaks a rule, which `detail` names."""

    def __init__(self, code: str, detail: str, field: str = "body") -> None:
        super().__init__(code, detail, field=field)
        self.field = field


def unreadable(ids: Sequence[MessageId] = (), **members: Any) -> Problem:
    """Return the problem of a row that cannot be read. `ids` are those of the caller that it is about."""
    detail = (
        "What the ledger holds about this cannot be read for now. Nothing was done for it; the operator is alerted."
    )
    return Problem("ledger_row_unreadable", detail, **members, **(dict[str, Any](ids=list(ids)) if ids else {}))


def problem_body(declined: Problem, gateway_request_id: str) -> dict[str, Any]:
    """Return the body of an error: RFC 9457's members, ours, and what belongs to this one."""
    code, problem = declined.code, PROBLEMS[declined.code]
    return {
        "type": f"urn:quarantine-release:problem:{code}",
        "title": problem.title,
        "status": problem.status,
        "detail": declined.detail,
        "ok": False,
        "code": code,
        "retryable": problem.is_retryable,
        "request_id": gateway_request_id,
        **declined.members,
    }
