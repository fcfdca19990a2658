"""Looks at the ledger and changes what a person must decide, with a trace of who and why.

`python -m tools.ops COMMAND ... (--stack NAME | --table NAME | --local)`; docs/operations.md has the examples.
"""

import argparse
import json
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from logging import StreamHandler
from typing import Any, Final, cast

from botocore.exceptions import BotoCoreError, ClientError

from quarantine_release import telemetry, wiring
from quarantine_release.api.problems import InvalidRequest
from quarantine_release.api.release_answer import answer_body
from quarantine_release.api.request_fields import parse_account_id, parse_message_id, parse_request_id
from quarantine_release.api.trace_answer import list_attempts, operation_body, request_body, trace_body
from quarantine_release.domain.call_limit import EVERYBODY
from quarantine_release.domain.ids import AccountId, OperationId, RequestId, postfix_part
from quarantine_release.domain.ledger_errors import LedgerUnavailable, RowUnreadable
from quarantine_release.domain.operation_rows import OperationRow
from quarantine_release.domain.results import derive_results
from quarantine_release.domain.rows import RequestRow, parse_targets
from quarantine_release.domain.unreadable import UnreadableRequest
from quarantine_release.releasing.progress import Answer
from tools.operations import ALL_DUE, Person, Unchanged, in_doubt, pause, redrive, resume, settle
from tools.ops_arguments import SEEN, parser
from tools.ops_tables import facts, listed
from tools.ops_wiring import Place, Unreachable, place_of

# Of each kind and each of the open index's shards.
OPEN_LIMIT: Final = 250
# What the tables show.
_MESSAGE: Final = (
    "id",
    "account_id",
    "state",
    "code",
    "guard",
    "disposition",
    "delivered",
    "undelivered",
    "failed",
    "evidence",
    "confirmed_at",
    "updated_at",
)
_ASKED: Final = (
    "at",
    "request_id",
    "client",
    "requested_by",
    "flags",
    "outcome",
    "code",
    "guard",
    "disposition",
    "reason",
    "ticket",
    "detail",
)
_CALLS: Final = ("sent_at", "attempt_id", "state", "ids_in_call", "verdict", "evidence")
_REQUEST: Final = (
    "request_id",
    "account_id",
    "at",
    "state",
    "client",
    "requested_by",
    "reason",
    "ticket",
    "flags",
    "message",
    "warnings",
)
_RESULT: Final = (
    "id",
    "resolved_id",
    "outcome",
    "code",
    "guard",
    "disposition",
    "attempts",
    "updated_at",
    "detail",
)
# Of these the tables name those that were asked for, in one column.
_FLAGS: Final = ("force", "override", "dry_run")
_OPERATION: Final = ("at", "kind", "by", "reason", "client", "settled_as", "redriven", "request_id", "operation_id")


class Ended(Exception):
    """The command has nothing to show: nothing was found, or nothing was changed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 1 if it found or changed nothing, 2 if it cannot be run."""
    options = parser().parse_args(arguments)
    try:
        body, text = _RUN[options.command](options, place_of(options))
    except Ended as end:
        if options.json:
            print(json.dumps({"ok": False, "detail": str(end)}))
        else:
            print(f"{end}.", file=sys.stderr)
        return 1
    except (InvalidRequest, Unreachable, BotoCoreError, ClientError) as error:
        print(error.detail if isinstance(error, InvalidRequest) else error, file=sys.stderr)
        return 2
    except RowUnreadable as error:
        print(f"A row cannot be read, and was left as it is: {error}.", file=sys.stderr)
        return 2
    except LedgerUnavailable as error:
        print(f"The ledger cannot be reached: {error}. Whether anything was changed, the trace tells.", file=sys.stderr)
        return 2
    print(json.dumps(body, indent=2) if options.json else text)
    return 0


def _trace(options: argparse.Namespace, place: Place) -> tuple[Mapping[str, Any], str]:
    account_id, part = _account(options, place), postfix_part(parse_message_id(options.message))
    row = place.ledger.messages(account_id, [part]).get(part)
    if row is not None and not row.is_readable:
        raise _cannot_be_read(place)
    unclaimed = place.ledger.unclaimed(account_id, part)
    if row is None and not unclaimed:
        raise Ended("Nobody has asked for this message, or what was asked still waits for its turn")
    requests = place.ledger.requests(sorted(unclaimed | (row.asks if row is not None else frozenset())))
    attempts = place.ledger.attempts(account_id, sorted(list_attempts(row)))
    operations = place.ledger.operations_met(account_id, row, requests.values())
    body = trace_body(
        row, requests, attempts, operations, account_id=account_id, part=part, visible_to=None, now=wiring.clock()
    )
    body["unreadable"] = _unreadable_bodies(place)
    return body, "\n\n".join(
        (
            facts(body, _MESSAGE),
            listed("Requests", [_with_flags(request) for request in body["requests"]], _ASKED),
            listed("Attempts", body["attempts"], _CALLS),
            listed("Operations", body["operations"], _OPERATION),
            *_unreadable(place),
        )
    )


def _request(options: argparse.Namespace, place: Place) -> tuple[Mapping[str, Any], str]:
    request = _found(options, place)
    rows = place.ledger.messages(request.account_id, [target.part for target in parse_targets(request.message_ids)])
    answer = Answer(request, derive_results(request, rows, wiring.clock()))
    operations = [] if request.operation is None else [request.operation]
    body = {
        **request_body(request),
        "account_id": request.account_id,
        **answer_body(answer, sees_all=True),
        "operations": [operation_body(each) for each in place.ledger.operations(request.account_id, operations)],
        "unreadable": _unreadable_bodies(place),
    }
    return body, "\n\n".join(
        (
            facts(_with_flags(body), _REQUEST),
            listed("Results", body["results"], _RESULT),
            listed("Operations", body["operations"], _OPERATION),
            *_unreadable(place),
        )
    )


def _unreadable(place: Place) -> list[str]:
    bodies = _unreadable_bodies(place)
    return [listed("Cannot be read", bodies, ("key", "why"))] if bodies else []


def _unreadable_bodies(place: Place) -> list[dict[str, str]]:
    return [{"key": key, "why": error.why} for key, error in sorted(place.unreadable.items())]


def _cannot_be_read(place: Place) -> Ended:
    return Ended(f"Its row cannot be read: {'; '.join(map(str, place.unreadable.values()))}")


def _with_flags(body: Mapping[str, Any]) -> dict[str, Any]:
    return {**body, "flags": [name for name in _FLAGS if body.get(name)]}


def _open(options: argparse.Namespace, place: Place) -> tuple[Mapping[str, Any], str]:
    wanted = parse_account_id(options.account[0]) if options.account else None
    now = wiring.clock()
    found = [doubt for doubt in in_doubt(place.ledger, now, OPEN_LIMIT) if wanted in (None, doubt.row.account_id)]
    bodies = [
        {
            "since": doubt.since.isoformat(timespec="seconds"),
            "id": doubt.row.known_id,
            "account_id": doubt.row.account_id,
            "state": doubt.row.state,
            "code": doubt.row.code,
            "seen": doubt.row.evidence.seen if doubt.row.evidence else None,
            "calls": len(doubt.row.attempts),
            "request_id": doubt.row.owner,
        }
        for doubt in found
    ]
    names = ("since", "id", "account_id", "state", "code", "seen", "calls", "request_id")
    place.ledger.open_requests(now + ALL_DUE, OPEN_LIMIT)  # for those of them that cannot be read
    text = "\n\n".join((listed("Unconfirmed or in review", bodies, names), *_unreadable(place)))
    more = "" if len(found) < OPEN_LIMIT else "\nThere may be more: settle these first."
    return {"open": bodies, "may_be_more": bool(more), "unreadable": _unreadable_bodies(place)}, text + more


def _settle(options: argparse.Namespace, place: Place) -> tuple[Mapping[str, Any], str]:
    account_id, part = _account(options, place), postfix_part(parse_message_id(options.message))
    person = _person(options, place)
    done = settle(place.ledger, place.queue, account_id, part, SEEN[options.seen], person, place.terms)
    if isinstance(done, Unchanged):
        raise Ended(f"Nothing was changed: {done.why}")
    body = {"ok": True, "id": done.known_id, "state": done.state, "operation_id": person.operation}
    return body, f"{done.known_id} is {done.state} now (operation {person.operation})."


def _pause(options: argparse.Namespace, place: Place) -> tuple[Mapping[str, Any], str]:
    person = _person(options, place)
    return _told([pause(place.ledger, each, options.client, person) for each in _all(options, place)])


def _resume(options: argparse.Namespace, place: Place) -> tuple[Mapping[str, Any], str]:
    person = _person(options, place)
    done = [resume(place.ledger, each, options.client, person) for each in _all(options, place)]
    changed = [each for each in done if isinstance(each, OperationRow)]
    if not changed:
        raise Ended("Nothing was changed: " + "; ".join({each.why for each in done if isinstance(each, Unchanged)}))
    return _told(changed)


def _told(done: Sequence[OperationRow]) -> tuple[Mapping[str, Any], str]:
    bodies = [{"account_id": operation.account_id, **operation_body(operation)} for operation in done]
    names = ("at", "kind", "account_id", "client", "by", "reason", "operation_id")
    return {"ok": True, "operations": bodies}, listed("Done; every process knows within a second", bodies, names)


def _pauses(options: argparse.Namespace, place: Place) -> tuple[Mapping[str, Any], str]:
    bodies, orders = [], []
    for account_id in _all(options, place):
        row = place.ledger.account(account_id)
        bodies += [
            {
                "account_id": account_id,
                "client": None if client == EVERYBODY else client,
                "since": stop.since.isoformat(timespec="seconds"),
                "by": stop.by,
                "reason": stop.reason,
                "operation_id": stop.operation,
            }
            for client, stop in row.stops.items()
        ]
        orders += [
            {"account_id": account_id, **operation_body(operation)}
            for operation in place.ledger.operations(account_id, row.operations)
        ]
    now = listed("Paused now", bodies, ("since", "account_id", "client", "by", "reason", "operation_id"))
    names = ("at", "kind", "account_id", "client", "by", "reason", "operation_id")
    return {"paused": bodies, "operations": orders}, f"{now}\n\n{listed('Set and lifted', orders, names)}"


def _redrive(options: argparse.Namespace, place: Place) -> tuple[Mapping[str, Any], str]:
    person = _person(options, place)
    done = redrive(place.ledger, place.queue, _request_id(options), person, secrets.token_hex(20))
    if isinstance(done, Unchanged):
        raise Ended(f"Nothing was changed: {done.why}")
    body = {"ok": True, "request_id": done.request_id, "ids": list(done.ids), "operation_id": person.operation}
    number = f"{len(done.ids)} {'id' if len(done.ids) == 1 else 'ids'}"
    return body, f"{done.request_id} asks for {number} again (operation {person.operation})."


def _found(options: argparse.Namespace, place: Place) -> RequestRow:
    request_id = _request_id(options)
    request = place.ledger.find_requests([request_id]).get(request_id)
    if isinstance(request, UnreadableRequest):
        raise _cannot_be_read(place)
    if request is None:
        raise Ended("There is no such request")
    return request


def _request_id(options: argparse.Namespace) -> RequestId:
    request_id = parse_request_id(options.request)
    if request_id is None:
        raise InvalidRequest("invalid_field", "A request id is rq_ and 26 of a-z 2-7.", "request_id")
    return request_id


def _account(options: argparse.Namespace, place: Place) -> AccountId:
    """Return the one account that is meant: the named, or the first of the secret."""
    if len(options.account) > 1:
        raise InvalidRequest("invalid_field", "Name one account.", "account_id")
    given = parse_account_id(options.account[0]) if options.account else None
    return given or place.accounts().default


def _all(options: argparse.Namespace, place: Place) -> list[AccountId]:
    """Return every account that is meant: the named, or all of the secret."""
    given = [account_id for each in options.account if (account_id := parse_account_id(each))]
    return given or list(place.accounts().credentials)


def _person(options: argparse.Namespace, place: Place) -> Person:
    """Say who it is; a name that is given stands beside the identity that AWS or the system knows, not for it."""
    identity, now = place.identity(), wiring.clock()
    by = f"{options.by} ({identity})" if options.by else identity
    # Of the same kind as an attempt's: sorts by time.
    return Person(by, options.reason, now, OperationId(wiring.new_attempt_id(now)))


_RUN: Final[dict[str, Callable[[argparse.Namespace, Place], tuple[Mapping[str, Any], str]]]] = {
    "trace": _trace,
    "request": _request,
    "open": _open,
    "pauses": _pauses,
    "settle": _settle,
    "pause": _pause,
    "resume": _resume,
    "redrive": _redrive,
}


if __name__ == "__main__":
    # What is logged, as of hints that were lost, is not the answer.
    cast("StreamHandler[Any]", telemetry.logger.registered_handler).setStream(sys.stderr)
    sys.exit(main())
