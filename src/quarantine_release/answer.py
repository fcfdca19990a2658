"""The public shapes: the answer to a release request and the trace of a message. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from quarantine_release.attempt import Answer
from quarantine_release.outcome import Evidence, Outcome, RequestId, State, postfix_part
from quarantine_release.trace import (
    AttemptRow,
    FailOn,
    MessageRow,
    OperationRow,
    RequestRow,
    RequestState,
    Result,
    results_of,
)

_DONE: Final = (Outcome.RELEASED, Outcome.ALREADY_RELEASED)
_FAILURES: Final[dict[FailOn, tuple[str, ...]]] = {
    FailOn.NEVER: (),
    FailOn.NONE: ("none",),
    FailOn.PARTIAL: ("none", "partial"),
}


def answer_body(answer: Answer, warnings: Sequence[str] = ()) -> dict[str, Any]:
    """Return the answer to a POST or GET of a release request."""
    results = answer.results
    is_open = not all(result.is_end for result in results)
    released = [result.id for result in results if result.outcome in _DONE]
    not_released = [result.id for result in results if result.is_end and result.outcome not in _DONE]
    return {
        "request_id": answer.request.request_id,
        "status": "in_progress" if is_open else "completed",
        "outcome": _overall(results),
        "ok": None if is_open else not not_released,
        "counts": {
            "requested": len(results),
            **{outcome.value: sum(result.outcome is outcome for result in results) for outcome in Outcome},
        },
        "released_ids": released,
        "not_released_ids": not_released,
        "results": [result_body(result) for result in results],
        "message": _sentence(results),
        "replayed": answer.replayed,
        "warnings": list(warnings),
    }


def is_failure(answer: Answer) -> bool:
    """Say whether the request asked to be answered with an error for how it ended."""
    return _overall(answer.results) in _FAILURES[answer.request.fail_on]


def result_body(result: Result) -> dict[str, Any]:
    """Return what became of one id."""
    row = result.row
    body: dict[str, Any] = {"id": result.id, "outcome": result.outcome}
    body |= _recipients(row)
    body |= {"code": result.code, "retryable": result.retryable, "released_by": None}
    if result.outcome is Outcome.ALREADY_RELEASED and row is not None:
        body["released_by"] = {"request_id": row.owner, "at": _time(row.updated_at)}
    body["attempts"] = len(row.attempts) if row is not None else 0
    body["updated_at"] = _time(row.updated_at) if row is not None else None
    return body


def trace_body(
    row: MessageRow,
    requests: Mapping[RequestId, RequestRow],
    attempts: Sequence[AttemptRow],
    operations: Sequence[OperationRow] = (),
    *,
    visible_to: str | None,
    now: datetime,
) -> dict[str, Any]:
    """Return the trace of one message. Requests of clients other than `visible_to` show time and outcome only."""
    asked = sorted(requests.values(), key=lambda request: (request.created_at, request.request_id))
    own = {request.request_id for request in asked if visible_to in (None, request.client)}
    is_own = row.owner is None or row.owner in own
    is_known = row.state is not State.RELEASING  # a claimed row still holds what an earlier call came to
    return {
        "id": row.message_id,
        "postfix_id": row.part,
        "account_id": row.account_id,
        "state": row.state,
        "code": row.code if is_known else None,
        **_recipients(row),
        "evidence": evidence_body(row.evidence) if row.evidence and is_known else None,
        "released_by": (
            {"request_id": row.owner if is_own else None, "at": _time(row.updated_at)}
            if row.state in (State.RELEASED, State.PARTIAL)
            else None
        ),
        "updated_at": _time(row.updated_at),
        "expires_at": _time(row.expires_at),
        "requests": [_request_body(request, row, own, now) for request in asked],
        "requests_not_shown": len(row.asks) - len(asked) + row.asks_uncounted,
        "attempts": [_attempt_body(attempt, row, own) for attempt in attempts],
        "refusals": row.refusals,
        "operations": [operation_body(operation, shows_all=visible_to is None) for operation in operations],
    }


def evidence_body(evidence: Evidence) -> dict[str, Any]:
    """Return how we know."""
    return {
        "status": evidence.status,
        "error_codes": list(evidence.error_codes),
        "cf_ray": evidence.cf_ray,
        "failure": evidence.failure,
        "seen": evidence.seen,
        **({"operation": evidence.operation} if evidence.operation else {}),
    }


def operation_body(operation: OperationRow, *, shows_all: bool = True) -> dict[str, Any]:
    """Return what a person has changed; who and why are for those who may see all."""
    body: dict[str, Any] = {"at": _time(operation.at), "kind": operation.kind}
    if not shows_all:
        return body
    return {
        "operation_id": operation.operation,
        **body,
        "by": operation.by,
        "reason": operation.reason,
        "client": operation.client,
        "settled_as": operation.settled_as,
        "redriven": operation.redriven,
        "request_id": operation.request_id,
    }


def _request_body(request: RequestRow, row: MessageRow, own: set[RequestId], now: datetime) -> dict[str, Any]:
    # Whose caller was told no has come to nothing, whatever the message comes to for others.
    results = () if request.state is RequestState.REFUSED else results_of(request, {row.part: row}, now)
    outcomes = [result.outcome for result in results if postfix_part(result.id) == row.part]
    body: dict[str, Any] = {"at": _time(request.created_at), "outcome": outcomes[0] if outcomes else None}
    if request.request_id not in own:
        return body
    return {"request_id": request.request_id, **body, **request_body(request)}


def request_body(request: RequestRow) -> dict[str, Any]:
    """Return who asked, and how."""
    return {
        "request_id": request.request_id,
        "at": _time(request.created_at),
        "state": request.state.lower(),
        "client": request.client,
        "requested_by": request.requested_by,
        "reason": request.reason,
        "ticket": request.ticket,
        "force": request.force,
        "trace_id": request.trace_id,
        "cancelled_at": _time(request.cancelled_at),
    }


def _attempt_body(attempt: AttemptRow, row: MessageRow, own: set[RequestId]) -> dict[str, Any]:
    owner = attempt.owners.get(row.part)
    verdict = (attempt.verdicts or {}).get(row.part)
    return {
        "attempt_id": attempt.attempt,
        "request_id": owner if owner in own else None,
        "state": attempt.state.lower(),
        "wire_form": attempt.wire_form,
        "ids_in_call": len(attempt.targets),
        "sent_at": _time(attempt.sent_at),
        "ended_at": _time(attempt.ended_at),
        "verdict": {"state": verdict.state, "code": verdict.code} if verdict else None,
        "evidence": evidence_body(attempt.evidence) if attempt.evidence else None,
    }


def _recipients(row: MessageRow | None) -> dict[str, Any]:
    # A claimed row still holds what an earlier call came to.
    if row is None or row.state in (State.RELEASING, State.RETRYABLE):
        return {"delivered": [], "undelivered": [], "failed": []}
    recipients = row.recipients
    body: dict[str, Any] = {
        "delivered": list(recipients.delivered),
        "undelivered": list(recipients.undelivered),
        "failed": list(recipients.failed),
    }
    if recipients.truncated:
        names = ("delivered", "undelivered", "failed")
        body |= {"recipients_truncated": True, "recipient_counts": dict(zip(names, recipients.counts, strict=True))}
    return body


def _overall(results: Sequence[Result]) -> str:
    if not all(result.is_end for result in results):
        return "pending"
    done = sum(result.outcome in _DONE for result in results)
    some = any(result.outcome is Outcome.PARTIALLY_RELEASED for result in results)
    if done == len(results):
        return "released"
    return "partial" if done or some else "none"


def _sentence(results: Sequence[Result]) -> str:
    counts = {outcome: sum(result.outcome is outcome for result in results) for outcome in Outcome}
    parts = [f"{number} {outcome.replace('_', ' ')}" for outcome, number in counts.items() if number]
    return f"{len(results)} {'message' if len(results) == 1 else 'messages'}: {', '.join(parts)}."


def _time(at: datetime | None) -> str | None:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z") if at else None
