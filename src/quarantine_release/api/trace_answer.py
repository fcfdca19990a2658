"""The public shape of a message's trace: who asked, what was tried, what a person changed, and how we know. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from quarantine_release.api.release_answer import guarded_body, recipients_body, utc
from quarantine_release.domain.ids import AccountId, AttemptId, PostfixPart, RequestId, postfix_part
from quarantine_release.domain.operation_rows import OperationRow
from quarantine_release.domain.results import derive_results
from quarantine_release.domain.rows import AttemptRow, MessageRow, RequestRow, RequestState
from quarantine_release.domain.states import State
from quarantine_release.domain.verdicts import Evidence
from quarantine_release.domain.visibility import Viewer


def trace_body(
    row: MessageRow | None,
    requests: Mapping[RequestId, RequestRow],
    attempts: Sequence[AttemptRow],
    operations: Sequence[OperationRow] = (),
    *,
    account_id: AccountId,
    part: PostfixPart,
    visible_to: str | None,
    now: datetime,
) -> dict[str, Any]:
    """Return the trace of one message. Of clients other than `visible_to` it shows times and outcomes only.

    `row` is None for a message that was asked for and never claimed: denied, or in dry runs only. A request of another
    account is left out: its key was used again there.
    """
    viewer = Viewer(visible_to)
    requests = {name: request for name, request in requests.items() if request.account_id == account_id}
    asked = sorted(requests.values(), key=lambda request: (request.created_at, request.request_id))
    own = _own_requests(row, asked, viewer)
    numbers = _numbers(row, requests, attempts, operations)
    return {
        "id": row.known_id if row is not None else part,
        "postfix_id": part,
        "account_id": account_id,
        **(_message_body(viewer.shown(row, own)) if row is not None else _unclaimed(asked, part, own)),
        "requests": [_request_body(request, row, part, own, now) for request in asked],
        "requests_not_shown": numbers["requests_not_shown"],
        "attempts": [_attempt_body(attempt, part, own) for attempt in attempts],
        "attempts_not_shown": numbers["attempts_not_shown"],
        "refusals": numbers["refusals"],
        "operations": [
            operation_body(operation, shows_all=viewer.sees_all)
            for operation in operations
            if viewer.may_see(operation)
        ],
        "operations_not_shown": numbers["operations_not_shown"],
    }


def _own_requests(row: MessageRow | None, asked: Sequence[RequestRow], viewer: Viewer) -> set[RequestId]:
    """Return the requests that the viewer may see in full."""
    own = {request.request_id for request in asked if viewer.owns(request)}
    if row is not None and row.owner is not None and viewer.released(row, own):
        own.add(row.owner)  # it may be one of those that are only counted
    return own


def _numbers(
    row: MessageRow | None,
    requests: Mapping[RequestId, RequestRow],
    attempts: Sequence[AttemptRow],
    operations: Sequence[OperationRow],
) -> Counter[str]:
    """Count what the row knows of and the trace does not show."""
    if row is None:
        return Counter()
    return Counter(
        requests_not_shown=len(row.asks - requests.keys()) + row.asks_uncounted,
        attempts_not_shown=len(list_attempts(row) - {attempt.attempt for attempt in attempts}),
        refusals=row.refusals,
        operations_not_shown=len(row.operations - {operation.operation for operation in operations}),
    )


def list_attempts(row: MessageRow | None) -> frozenset[AttemptId]:
    """Return the attempts that a trace shows: those that may have had an effect, and the last that had none."""
    if row is None:
        return frozenset()
    return row.attempts | {row.last_refused} if row.last_refused else row.attempts


_NOT_KNOWN: Final = ("state", "code", "evidence", "released_by", "guard", "disposition", "confirmed_at")
_UNCLAIMED: Final[dict[str, Any]] = {
    **dict.fromkeys((*_NOT_KNOWN, "updated_at", "expires_at")),
    **{name: () for name in ("delivered", "undelivered", "failed")},
}


def _unclaimed(asked: Sequence[RequestRow], part: PostfixPart, own: set[RequestId]) -> dict[str, Any]:
    """Return what is known of a message that was never claimed: what it was last read to be for one's own requests."""
    ends = [
        end
        for request in asked
        for message_id, end in request.ended.items()
        if request.request_id in own and postfix_part(request.resolved.get(message_id, message_id)) == part
    ]
    disposition = next((end.disposition for end in reversed(ends) if end.disposition is not None), None)
    return {**_UNCLAIMED, "disposition": disposition}


def _message_body(row: MessageRow) -> dict[str, Any]:
    is_known = row.state is not State.RELEASING  # a claimed row still holds the outcome of an earlier call
    return {
        "state": row.state,
        "code": row.code if is_known else None,
        **recipients_body(row),
        "evidence": evidence_body(row.evidence) if row.evidence and is_known else None,
        "released_by": (
            {"request_id": row.owner, "at": utc(row.updated_at)}
            if row.state in (State.RELEASED, State.PARTIAL)
            else None
        ),
        "guard": row.guard,
        "disposition": row.disposition,
        "confirmed_at": utc(row.confirmed_at),
        "updated_at": utc(row.updated_at),
        "expires_at": utc(row.expires_at),
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
    body: dict[str, Any] = {"at": utc(operation.at), "kind": operation.kind}
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


def _request_body(
    request: RequestRow, row: MessageRow | None, part: PostfixPart, own: set[RequestId], now: datetime
) -> dict[str, Any]:
    # A refused request had no effect, whatever happens to the message because of others.
    rows = {part: row} if row is not None else {}
    results = () if request.state is RequestState.REFUSED else derive_results(request, rows, now)
    result = next((result for result in results if result.part == part), None)
    body: dict[str, Any] = {"at": utc(request.created_at), "outcome": result.outcome if result is not None else None}
    if request.request_id not in own:
        return body
    body["code"] = result.code if result is not None else None
    if result is not None and result.ended is not None:
        body |= {"detail": result.ended.detail, **guarded_body(result)}
    return {"request_id": request.request_id, **body, **request_body(request)}


def request_body(request: RequestRow) -> dict[str, Any]:
    """Return who asked, and how."""
    return {
        "request_id": request.request_id,
        "at": utc(request.created_at),
        "state": request.state.lower(),
        "client": request.client,
        "requested_by": request.requested_by,
        "reason": request.reason,
        "ticket": request.ticket,
        "force": request.force,
        "override": request.override,
        "dry_run": request.dry_run,
        "trace_id": request.trace_id,
        "cancelled_at": utc(request.cancelled_at),
    }


_OF_OTHERS: Final = ("state", "sent_at", "ended_at", "verdict")


def _attempt_body(attempt: AttemptRow, part: PostfixPart, own: set[RequestId]) -> dict[str, Any]:
    """Return what was tried. Of an attempt for another client, only its times and its outcome."""
    owner = attempt.owners.get(part)
    verdict = (attempt.verdicts or {}).get(part)
    body = {
        "attempt_id": attempt.attempt,
        "request_id": owner,
        "state": attempt.state.lower(),
        "wire_form": attempt.wire_form,
        "ids_in_call": len(attempt.targets),
        "sent_at": utc(attempt.sent_at),
        "ended_at": utc(attempt.ended_at),
        "verdict": {"state": verdict.state, "code": verdict.code} if verdict else None,
        "evidence": evidence_body(attempt.evidence) if attempt.evidence else None,
    }
    return body if owner in own else {name: body[name] for name in _OF_OTHERS}
