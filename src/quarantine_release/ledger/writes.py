"""The conditional writes of the ledger, one by one: what each changes, and on what condition. Pure.

Which of them pass together, and what it means if one is refused, is `transactions.py`'s.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from quarantine_release.domain.call_limit import AccountRow
from quarantine_release.domain.identity import CANDIDATES_KEPT
from quarantine_release.domain.ids import AccountId, RequestId
from quarantine_release.domain.operation_rows import OperationRow
from quarantine_release.domain.rows import AttemptRow, AttemptState, RequestRow, RequestState
from quarantine_release.ledger.account_row import switch
from quarantine_release.ledger.codecs import SECONDS, Attribute, Item
from quarantine_release.ledger.items import attempt_item, message_item, operation_item, request_item
from quarantine_release.ledger.keys import (
    account_key,
    attempt_key,
    open_at,
    open_index,
    open_kind,
    request_key,
)
from quarantine_release.ledger.row_version import NAME, NOT_NEWER, STAMP
from quarantine_release.ledger.update_expression import UpdateExpression, Write
from quarantine_release.releasing.ports import Move

# Sets and counters are changed by what is added or taken away, so that writers who saw another version lose nothing.
_SETS: Final = ("attempts", "asks", "operations", "candidates", "rejected")
_COUNTERS: Final = ("refusals", "asks_uncounted")


@dataclass(frozen=True, slots=True)
class Switch:
    """What a person has paused of an account, as it was seen and as it is wanted."""

    account_id: AccountId
    before: AccountRow
    after: AccountRow


def move_message(move: Move) -> Write:
    """Take a message from one version to the next, refused unless it is as it was seen."""
    after = message_item(move.after)
    if move.before is None:
        return _put(after)
    before = message_item(move.before)
    update = UpdateExpression(after["pk"])
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        if name in _SETS:
            _change_set(update, name, old, new)
        elif name in _COUNTERS:
            update.add(name, {"N": str(_number(new) - _number(old))})
        elif new is None:
            update.remove(name)
        else:
            update.set(name, new)
    update.require("state", before["state"])
    update.require("attempt", before["attempt"])
    if before.get("facts") != after.get("facts"):  # an older reading must not replace a newer or a worse one
        update.require_same("facts", before.get("facts"))
    new_ids = move.after.candidates - move.before.candidates
    if new_ids:
        update.require_fewer("candidates", CANDIDATES_KEPT + 1 - len(new_ids))
    return {"Update": update.build()}


def put_attempt(attempt: AttemptRow) -> Write:
    """Write a new attempt."""
    return _put(attempt_item(attempt))


def end_attempt(attempt: AttemptRow, was: AttemptState, *, stays_open: bool = False) -> Write:
    """Write what became of an attempt."""
    names = ("state", "ended_at", "evidence", "verdicts", "expires_at", "open_at")
    return _end(attempt_item(attempt, stays_open=stays_open), was, names)


def reopen_attempt(attempt: AttemptRow, at: datetime, *, is_closed: bool = False) -> Write:
    """Open an attempt again, due at `at`, if its state is still as it was read.

    With `is_closed`, an attempt that is open already is refused, so that it is not read sooner than planned.
    """
    key: Attribute = {"S": attempt_key(attempt.account_id, attempt.attempt)}
    update = UpdateExpression(key)
    for name, value in open_index(key, at).items():
        update.set(name, value)
    update.require("state", {"S": attempt.state})
    if is_closed:
        update.require_absent("open_at")
    return {"Update": update.build()}


def put_request(request: RequestRow) -> Write:
    """Write a new request; one past its time counts as absent, and a refused one may be asked again as it was."""
    return _put(
        request_item(request),
        f"attribute_not_exists(pk) OR ({NOT_NEWER} AND (expires_at <= :now"
        " OR (#state = :refused AND (fingerprint = :this OR fingerprint = :v1))))",
        ExpressionAttributeNames={"#state": "state"},
        ExpressionAttributeValues={
            ":now": SECONDS.encode(request.created_at),
            ":refused": {"S": RequestState.REFUSED},
            ":this": {"S": request.fingerprint},
            ":v": STAMP,
            ":v1": {"S": request.fingerprint_v1 or request.fingerprint},
        },
    )


def check_open(request_id: RequestId, notes: int = 0) -> Write:
    """Let the others pass only if a request is open, is not cancelled, and has as many notes as were seen."""
    seen = "notes = :notes" if notes else "attribute_not_exists(notes)"
    return {
        "ConditionCheck": {
            "Key": {"pk": {"S": request_key(request_id)}},
            "ConditionExpression": f"{NOT_NEWER} AND #state = :open AND attribute_not_exists(cancelled_at) AND {seen}",
            "ExpressionAttributeNames": {"#state": "state"},
            "ExpressionAttributeValues": {
                ":open": {"S": RequestState.OPEN},
                ":v": STAMP,
                **({":notes": {"N": str(notes)}} if notes else {}),
            },
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }
    }


def cancel_request(request: RequestRow) -> Write:
    """Write when an open request was cancelled."""
    item = request_item(request)
    update = UpdateExpression(item["pk"])
    update.set("cancelled_at", item["cancelled_at"])
    update.require("state", item["state"])
    update.require("nonce", item["nonce"])
    return {"Update": update.build()}


def end_request(request: RequestRow) -> Write:
    """End this acceptance of a request: a late repeat must not end the next one under the same key."""
    names = ("state", "letters", "closed_at", "expires_at")
    return _end(request_item(request), RequestState.OPEN, names, ("nonce",))


def put_off(row: AttemptRow | RequestRow, at: datetime) -> Write:
    """Have an open row due at another time."""
    item = attempt_item(row) if isinstance(row, AttemptRow) else request_item(row)
    update = UpdateExpression(item["pk"])
    update.set("open_at", open_at(at))
    update.require("state", item["state"])
    update.require("open_kind", open_kind(item["pk"]))
    return {"Update": update.build()}


def put_operation(operation: OperationRow) -> Write:
    """Write a new operation."""
    return _put(operation_item(operation))


def set_switch(change: Switch) -> Write:
    """Write what a person has paused, refused unless the switch is as it was seen."""
    before, after = switch(change.before), switch(change.after)
    assert after is not None  # noqa: S101  it names at least the operation that changes it
    update = UpdateExpression({"S": account_key(change.account_id)})
    update.set("switch", after)
    if before is None:
        update.require_absent("switch")
    else:
        update.require("switch", before)
    return {"Update": update.build()}


def _put(item: Item, condition: str = "attribute_not_exists(pk)", **placeholders: Any) -> Write:
    return {
        "Put": {
            "Item": {**item, NAME: STAMP},
            "ConditionExpression": condition,
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
            **placeholders,
        }
    }


def _end(item: Item, expected: str, names: Sequence[str], same: Sequence[str] = ()) -> Write:
    update = UpdateExpression(item["pk"])
    for name in names:
        if name in item:
            update.set(name, item[name])
    for name in ("open_kind", "open_at"):
        if name not in item:
            update.remove(name)
    update.require("state", {"S": expected})
    for name in same:
        update.require(name, item[name])
    return {"Update": update.build()}


def _change_set(update: UpdateExpression, name: str, old: Attribute | None, new: Attribute | None) -> None:
    had, has = set((old or {"SS": []})["SS"]), set((new or {"SS": []})["SS"])
    if has - had:
        update.add(name, {"SS": sorted(has - had)})
    if had - has:
        update.delete(name, {"SS": sorted(had - has)})


def _number(attribute: Attribute | None) -> int:
    return int(attribute["N"]) if attribute else 0
