"""The public shape of the answer to a release request. Pure."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from quarantine_release.domain.guard import Guarded
from quarantine_release.domain.request_options import FailOn
from quarantine_release.domain.results import Result
from quarantine_release.domain.rows import MessageRow
from quarantine_release.domain.states import Code, Outcome, State
from quarantine_release.domain.visibility import Viewer
from quarantine_release.releasing.progress import Answer

_DONE: Final = (Outcome.RELEASED, Outcome.ALREADY_RELEASED)
# A dry run asks for no more than to learn that a message would be released.
_ASKED_FOR: Final = (*_DONE, Outcome.WOULD_RELEASE)

_OPEN: Final = tuple(outcome for outcome in Outcome if not outcome.is_end)

_NOT_ATTEMPTED: Final = "Nothing was sent for this id. Send it again as a new request."
_UNREAD: Final = {
    Guarded.NOT_CHECKED: "without a look at what the mail is, since it cannot be read",
    Guarded.PASSED_BY_RECORD: "by what was read of the mail before, since it cannot be read now",
}
_SENT: Final = {
    "Released": (Outcome.RELEASED, Outcome.PARTIALLY_RELEASED),
    "Sent": (Outcome.UNCONFIRMED,),
    "Would be released": (Outcome.WOULD_RELEASE,),
}
_FAILURES: Final[dict[FailOn, tuple[str, ...]]] = {
    FailOn.NEVER: (),
    FailOn.NONE: ("none",),
    FailOn.PARTIAL: ("none", "partial"),
}


def answer_body(answer: Answer, warnings: Sequence[str] = (), *, sees_all: bool = False) -> dict[str, Any]:
    """Return the answer to a POST or GET of a release request. `sees_all`: also what others released, and how."""
    results = answer.results if sees_all else _seen_by_its_client(answer)
    counts = Counter(result.outcome for result in results)
    outcome = _overall(counts)
    is_open = outcome == "pending"
    not_released = [result.id for result in results if result.outcome not in (*_DONE, *_OPEN)]
    body: dict[str, Any] = {
        "request_id": answer.request.request_id,
        "status": "in_progress" if is_open else "completed",
        "outcome": outcome,
        "ok": None if is_open else not not_released,
        "counts": {"requested": len(results), **{each.value: counts[each] for each in Outcome}},
        "released_ids": [result.id for result in results if result.outcome in _DONE],
        "not_released_ids": not_released,
        "results": [result_body(result, is_to_be_confirmed=answer.request.confirm) for result in results],
        "message": _sentence(counts),
        "replayed": answer.replayed,
        "warnings": [*warnings, *_warnings_of_unread(results)],
    }
    return body | _rehearsal(answer) if answer.request.dry_run else body


def _warnings_of_unread(results: Sequence[Result]) -> Iterator[str]:
    """Warn of mail that was sent without a look at it, or would be."""
    guards = Counter((result.outcome, result.guard) for result in results)
    for sent, outcomes in _SENT.items():
        for guard, how in _UNREAD.items():
            number = sum(guards[outcome, guard] for outcome in outcomes)
            if number:
                yield f"{sent} {how}: {number}"


def _rehearsal(answer: Answer) -> dict[str, Any]:
    """Return the members of a dry run only: the calls a release would take, and what was read of each message."""
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
                "at": utc(details.at),
            }
            for result, details in read
            if details is not None
        ],
    }


def _seen_by_its_client(answer: Answer) -> Sequence[Result]:
    """Return the results without what belongs to releases of other clients."""
    viewer, own = Viewer(answer.request.client), (answer.request.request_id,)
    return [
        result if result.row is None else replace(result, row=viewer.shown(result.row, own))
        for result in answer.results
    ]


def is_failure(answer: Answer) -> bool:
    """Return whether the request asks to be answered with an error for how it ended."""
    counts = Counter(result.outcome for result in answer.results)
    return _overall(counts, _ASKED_FOR) in _FAILURES[answer.request.fail_on]


def result_body(result: Result, *, is_to_be_confirmed: bool = False) -> dict[str, Any]:
    """Return what became of one id."""
    row = result.row
    body: dict[str, Any] = {"id": result.id, "outcome": result.outcome}
    body |= recipients_body(row)
    body |= {"code": result.code, "retryable": result.retryable, "released_by": None}
    if result.outcome is Outcome.ALREADY_RELEASED and row is not None:
        body["released_by"] = {"request_id": row.owner, "at": utc(row.updated_at)}
    body["attempts"] = len(row.attempts) if row is not None else 0
    body["updated_at"] = utc(row.updated_at) if row is not None else None
    return body | _found_out(result, is_to_be_confirmed=is_to_be_confirmed)


def _found_out(result: Result, *, is_to_be_confirmed: bool) -> dict[str, Any]:
    """Return the findings of lookup, guard and proof of delivery. A member without a finding is left out."""
    body: dict[str, Any] = {}
    if result.resolved is not None:
        body["resolved_id"] = result.resolved
    row, ended = result.row, result.ended
    if ended is not None:
        body["detail"] = ended.detail
    elif result.code is Code.NOT_ATTEMPTED:
        body["detail"] = _NOT_ATTEMPTED
    if ended is not None and ended.candidates:
        body["candidates"] = [
            {
                "id": candidate.message_id,
                "at": utc(candidate.at),
                "disposition": candidate.disposition,
                "is_quarantined": candidate.is_quarantined,
            }
            for candidate in ended.candidates
        ]
    body |= guarded_body(result)
    if row is not None and row.state is State.RELEASED and (is_to_be_confirmed or row.confirmed_at is not None):
        body |= {"confirmed": row.confirmed_at is not None, "confirmed_at": utc(row.confirmed_at)}
    return body


def guarded_body(result: Result) -> dict[str, Any]:
    """Return how an id came past the guard and what the mail is; of what it read and refused the latter alone."""
    guard = result.guard
    if guard is not None:
        return {"guard": guard, "disposition": result.disposition}
    return {"disposition": result.disposition} if result.ended is not None and result.ended.was_read else {}


def recipients_body(row: MessageRow | None) -> dict[str, Any]:
    """Return to whom a message was delivered and to whom not."""
    # A claimed row still holds the outcome of an earlier call.
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


def _overall(counts: Counter[Outcome], good: Sequence[Outcome] = _DONE) -> str:
    if any(counts[outcome] for outcome in _OPEN):
        return "pending"
    done = sum(counts[outcome] for outcome in good)
    if done == counts.total():
        return "released"
    return "partial" if done or counts[Outcome.PARTIALLY_RELEASED] else "none"


def _sentence(counts: Counter[Outcome]) -> str:
    total = counts.total()
    parts = [f"{counts[outcome]} {outcome.replace('_', ' ')}" for outcome in Outcome if counts[outcome]]
    return f"{total} {'message' if total == 1 else 'messages'}: {', '.join(parts)}."


def utc(at: datetime | None) -> str | None:
    """Return a time as ISO 8601 in milliseconds."""
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z") if at else None
