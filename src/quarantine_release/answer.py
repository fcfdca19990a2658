"""The public shapes: the answer to a release request and the trace of a message. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from quarantine_release.guard import Guarded
from quarantine_release.outcome import AccountId, Evidence, Outcome, PostfixPart, RequestId, State, postfix_part
from quarantine_release.results import Result, results_of
from quarantine_release.run import Answer
from quarantine_release.trace import AttemptRow, FailOn, MessageRow, OperationRow, RequestRow, RequestState

_DONE: Final = (Outcome.RELEASED, Outcome.ALREADY_RELEASED)
_FAILURES: Final[dict[FailOn, tuple[str, ...]]] = {
    FailOn.NEVER: (),
    FailOn.NONE: ("none",),
    FailOn.PARTIAL: ("none", "partial"),
}


def answer_body(answer: Answer, warnings: Sequence[str] = ()) -> dict[str, Any]:
    """Return the answer to a POST or GET of a release request."""
    results = answer.results
    for is_rehearsed, done in ((False, "Released"), (True, "Would be released")):
        unchecked = sum(one.guard is Guarded.NOT_CHECKED and bool(one.ended) is is_rehearsed for one in results)
        if unchecked:
            warnings = [*warnings, f"{done} without a look at what the mail is, since it cannot be read: {unchecked}"]
    is_open = not all(result.is_end for result in results)
    released = [result.id for result in results if result.outcome in _DONE]
    not_released = [result.id for result in results if result.is_end and result.outcome not in _DONE]
    body: dict[str, Any] = {
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
        "results": [result_body(result, is_to_be_confirmed=answer.request.confirm) for result in results],
        "message": _sentence(results),
        "replayed": answer.replayed,
        "warnings": list(warnings),
    }
    return body | _rehearsal(answer) if answer.request.dry_run else body


def _rehearsal(answer: Answer) -> dict[str, Any]:
    """Return what a dry run tells besides: the calls that a release would take, and what was read of each message."""
    read = [(result, answer.details.get(result.part)) for result in answer.results]
    return {
        "dry_run": True,
        "calls": [
            {"wire_form": call.wire_form, "ids": [want.target.message_id for want in call.wants]}
            for call in answer.plan
        ],
        "messages": [
            {
                "id": result.id,
                "message_id": details.message_id,
                "subject": details.subject,
                "sender": details.sender,
                "recipients": list(details.recipients),
                "disposition": details.disposition,
                "delivery_mode": details.delivery_mode,
                "is_quarantined": details.is_quarantined,
                "at": _time(details.at),
            }
            for result, details in read
            if details is not None
        ],
    }


def is_failure(answer: Answer) -> bool:
    """Say whether the request asked to be answered with an error for how it ended."""
    return _overall(answer.results) in _FAILURES[answer.request.fail_on]


def result_body(result: Result, *, is_to_be_confirmed: bool = False) -> dict[str, Any]:
    """Return what became of one id."""
    row = result.row
    body: dict[str, Any] = {"id": result.id, "outcome": result.outcome}
    body |= _recipients(row)
    body |= {"code": result.code, "retryable": result.retryable, "released_by": None}
    if result.outcome is Outcome.ALREADY_RELEASED and row is not None:
        body["released_by"] = {"request_id": row.owner, "at": _time(row.updated_at)}
    body["attempts"] = len(row.attempts) if row is not None else 0
    body["updated_at"] = _time(row.updated_at) if row is not None else None
    return body | _found_out(result, is_to_be_confirmed=is_to_be_confirmed)


def _found_out(result: Result, *, is_to_be_confirmed: bool) -> dict[str, Any]:
    """Return what lookup, guard and proof of delivery came to, where they came to anything."""
    body: dict[str, Any] = {}
    if result.resolved is not None:
        body["resolved_id"] = result.resolved
    row, ended = result.row, result.ended
    if ended is not None:
        body["detail"] = ended.detail
    if ended is not None and ended.candidates:
        body["candidates"] = [
            {
                "id": one.message_id,
                "at": _time(one.at),
                "disposition": one.disposition,
                "is_quarantined": one.is_quarantined,
            }
            for one in ended.candidates
        ]
    body |= _guarded(result)
    if row is not None and row.state is State.RELEASED and (is_to_be_confirmed or row.confirmed_at is not None):
        body |= {"confirmed": row.confirmed_at is not None, "confirmed_at": _time(row.confirmed_at)}
    return body


def _guarded(result: Result) -> dict[str, Any]:
    """Return how an id came past the guard and what the mail is; of what it read and refused the latter alone."""
    if result.guard is not None:
        return {"guard": result.guard, "disposition": result.disposition}
    return {"disposition": result.disposition} if result.ended is not None and result.ended.was_read else {}


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
    """Return the trace of one message. Requests of clients other than `visible_to` show time and outcome only.

    `row` is None for a message that was asked for and never claimed: denied, or in dry runs only.
    """
    asked = sorted(requests.values(), key=lambda request: (request.created_at, request.request_id))
    own = {request.request_id for request in asked if visible_to in (None, request.client)}
    return {
        "id": row.message_id if row is not None else part,
        "postfix_id": part,
        "account_id": account_id,
        **(_message_body(row, own) if row is not None else {**_UNCLAIMED, "disposition": _last_read(asked, part)}),
        "requests": [_request_body(request, row, part, own, now) for request in asked],
        "requests_not_shown": len(row.asks - requests.keys()) + row.asks_uncounted if row is not None else 0,
        "attempts": [_attempt_body(attempt, part, own) for attempt in attempts],
        "refusals": row.refusals if row is not None else 0,
        "operations": [operation_body(operation, shows_all=visible_to is None) for operation in operations],
    }


_NOT_KNOWN: Final = ("state", "code", "evidence", "released_by", "guard", "disposition", "confirmed_at")
_UNCLAIMED: Final[dict[str, Any]] = {
    **dict.fromkeys((*_NOT_KNOWN, "updated_at", "expires_at")),
    **{name: () for name in ("delivered", "undelivered", "failed")},
}


def _last_read(asked: Sequence[RequestRow], part: PostfixPart) -> str | None:
    """Return what a message that was never claimed was last read to be."""
    ended = [
        end
        for request in asked
        for given, end in request.ended.items()
        if postfix_part(request.resolved.get(given, given)) == part
    ]
    return next((end.disposition for end in reversed(ended) if end.disposition is not None), None)


def _message_body(row: MessageRow, own: set[RequestId]) -> dict[str, Any]:
    is_own = row.owner is None or row.owner in own
    is_known = row.state is not State.RELEASING  # a claimed row still holds what an earlier call came to
    return {
        "state": row.state,
        "code": row.code if is_known else None,
        **_recipients(row),
        "evidence": evidence_body(row.evidence) if row.evidence and is_known else None,
        "released_by": (
            {"request_id": row.owner if is_own else None, "at": _time(row.updated_at)}
            if row.state in (State.RELEASED, State.PARTIAL)
            else None
        ),
        "guard": row.guard,
        "disposition": row.disposition,
        "confirmed_at": _time(row.confirmed_at),
        "updated_at": _time(row.updated_at),
        "expires_at": _time(row.expires_at),
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


def _request_body(
    request: RequestRow, row: MessageRow | None, part: PostfixPart, own: set[RequestId], now: datetime
) -> dict[str, Any]:
    # Whose caller was told no has come to nothing, whatever the message comes to for others.
    rows = {part: row} if row is not None else {}
    results = () if request.state is RequestState.REFUSED else results_of(request, rows, now)
    result = next((each for each in results if each.part == part), None)
    body: dict[str, Any] = {"at": _time(request.created_at), "outcome": result.outcome if result is not None else None}
    if request.request_id not in own:
        return body
    body["code"] = result.code if result is not None else None
    if result is not None and result.ended is not None:
        body |= {"detail": result.ended.detail, **_guarded(result)}
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
        "override": request.override,
        "dry_run": request.dry_run,
        "trace_id": request.trace_id,
        "cancelled_at": _time(request.cancelled_at),
    }


def _attempt_body(attempt: AttemptRow, part: PostfixPart, own: set[RequestId]) -> dict[str, Any]:
    owner = attempt.owners.get(part)
    verdict = (attempt.verdicts or {}).get(part)
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
