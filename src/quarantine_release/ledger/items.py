"""How the rows of `rows.py` lie in DynamoDB: attribute by attribute, both ways. Pure.

An attribute has the name of its field. What is None, empty or the default is left out.
"""

from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from typing import Any, Final

from quarantine_release.domain.facts import Facts
from quarantine_release.domain.guard import Guarded
from quarantine_release.domain.ids import (
    AccountId,
    AttemptId,
    MessageId,
    OperationId,
    PostfixPart,
    RequestId,
    message_key,
)
from quarantine_release.domain.lookup import Kept
from quarantine_release.domain.operation_rows import OperationKind, OperationRow
from quarantine_release.domain.request_options import FailOn
from quarantine_release.domain.rows import AttemptRow, AttemptState, MessageRow, RequestRow, RequestState, WireForm
from quarantine_release.domain.states import LETTERS, Code, State
from quarantine_release.ledger.codecs import (
    FLAG,
    MILLISECONDS,
    NUMBER,
    SECONDS,
    TEXT,
    Attribute,
    Codec,
    Item,
    text,
    texts,
)
from quarantine_release.ledger.keys import attempt_key, open_index, operation_key, request_key
from quarantine_release.ledger.request_checks import checks_item, decode_checks
from quarantine_release.ledger.row_version import readable
from quarantine_release.ledger.value_codecs import (
    EVIDENCE,
    FACTS,
    IDS,
    NARROWING,
    OWNERS,
    POLICY,
    RECIPIENTS,
    STATE,
    TARGETS,
    VERDICTS,
)

_MESSAGE: Final = {
    "state": STATE,
    "attempt": text(AttemptId),
    "message_id": text(MessageId),
    "updated_at": MILLISECONDS,
    "owner": text(RequestId),
    "owner_client": TEXT,
    "deadline": MILLISECONDS,
    "expires_at": SECONDS,
    "code": text(Code),
    "recipients": RECIPIENTS,
    "evidence": EVIDENCE,
    "attempts": texts(AttemptId),
    "refusals": NUMBER,
    "last_refused": text(AttemptId),
    "forced_over": STATE,
    "forced_after": MILLISECONDS,
    "asks": texts(RequestId),
    "asks_uncounted": NUMBER,
    "largest_call": NUMBER,
    "guard": text(Guarded),
    "disposition": TEXT,
    "confirmed_at": MILLISECONDS,
    "operations": texts(OperationId),
    "confirmed_id": text(MessageId),
    "candidates": texts(MessageId),
    "facts": FACTS,
    "rejected": texts(MessageId),
}
_REQUEST: Final = {
    "client": TEXT,
    "account_id": text(AccountId),
    "fingerprint": TEXT,
    "nonce": TEXT,
    "ids": IDS,
    "created_at": MILLISECONDS,
    "reason": TEXT,
    "ticket": TEXT,
    "requested_by": TEXT,
    "force": FLAG,
    "fail_on": text(FailOn),
    "trace_id": TEXT,
    "operation": text(OperationId),
    "cancelled_at": MILLISECONDS,
    "state": text(RequestState),
    "letters": TEXT,
    "closed_at": MILLISECONDS,
    "expires_at": SECONDS,
    "override": FLAG,
    "dry_run": FLAG,
    "confirm": FLAG,
    "narrowing": NARROWING,
    "policy": POLICY,
    "notes": NUMBER,
}
_ATTEMPT: Final = {
    "wire_form": text(WireForm),
    "targets": TARGETS,
    "owners": OWNERS,
    "sent_at": MILLISECONDS,
    "deadline": MILLISECONDS,
    "state": text(AttemptState),
    "ended_at": MILLISECONDS,
    "expires_at": SECONDS,
    "evidence": EVIDENCE,
    "verdicts": VERDICTS,
}
_OPERATION: Final = {
    "kind": text(OperationKind),
    "at": MILLISECONDS,
    "by": TEXT,
    "reason": TEXT,
    "client": TEXT,
    "part": text(PostfixPart),
    "settled_as": STATE,
    "redriven": text(RequestId),
    "request_id": text(RequestId),
}
_DEFAULTS: Final = {
    kind: {field.name: field.default for field in fields(kind) if field.default is not MISSING}
    for kind in (MessageRow, AttemptRow, RequestRow, OperationRow)
}


def message_item(row: MessageRow) -> Item:
    """Return the attributes of a message; under review also those of the open index, where people look for it."""
    item = {"pk": {"S": message_key(row.account_id, row.part)}, **_encode(row, _MESSAGE)}
    return {**item, **open_index(item["pk"], row.updated_at)} if row.state is State.NEEDS_REVIEW else item


@readable
def message_row(item: Item) -> MessageRow:
    """Read a message back. Raises RowUnreadable."""
    _, account_id, part = item["pk"]["S"].split("#")
    return MessageRow(account_id=AccountId(account_id), part=PostfixPart(part), **_decode(item, _MESSAGE))


def attempt_item(row: AttemptRow, *, stays_open: bool = False) -> Item:
    """Return the attributes of an attempt; while it is, or stays, open also those of the open index."""
    item = {"pk": {"S": attempt_key(row.account_id, row.attempt)}, **_encode(row, _ATTEMPT)}
    return {**item, **open_index(item["pk"], row.ended_at or row.deadline)} if row.is_open or stays_open else item


@readable
def attempt_row(item: Item) -> AttemptRow:
    """Read an attempt back. Raises RowUnreadable."""
    _, account_id, attempt = item["pk"]["S"].split("#")
    return AttemptRow(account_id=AccountId(account_id), attempt=AttemptId(attempt), **_decode(item, _ATTEMPT))


def request_item(row: RequestRow) -> Item:
    """Return the attributes of a request; while it is open also those of the open index."""
    item = {"pk": {"S": request_key(row.request_id)}, **_encode(row, _REQUEST), **checks_item(row)}
    return {**item, **open_index(item["pk"], row.created_at)} if row.state is RequestState.OPEN else item


@readable
def request_row(item: Item) -> RequestRow:
    """Read a request back. Raises RowUnreadable."""
    row = RequestRow(request_id=RequestId(item["pk"]["S"].split("#")[1]), **_decode(item, _REQUEST))
    _check_letters(row)
    resolved, ended = decode_checks(item, row.ids)
    return replace(row, resolved=resolved, ended=ended) if resolved or ended else row


def _check_letters(row: RequestRow) -> None:
    """Raise ValueError unless exactly a closed request has a known letter for each of its ids."""
    if (row.letters is None) == (row.state is RequestState.CLOSED):
        raise ValueError
    if row.letters is not None and (len(row.letters) != len(row.ids) or not LETTERS.keys() >= set(row.letters)):
        raise ValueError


def operation_item(row: OperationRow) -> Item:
    """Return the attributes of an operation."""
    return {"pk": {"S": operation_key(row.account_id, row.operation)}, **_encode(row, _OPERATION)}


@readable
def operation_row(item: Item) -> OperationRow:
    """Read an operation back. Raises RowUnreadable."""
    _, account_id, operation = item["pk"]["S"].split("#")
    return OperationRow(account_id=AccountId(account_id), operation=OperationId(operation), **_decode(item, _OPERATION))


@readable
def kept(item: Item) -> Kept:
    """Read back what a question was answered. Raises RowUnreadable."""
    at = MILLISECONDS.decode(item["kept_at"]) if "kept_at" in item else None
    return Kept(MessageId(item["message_id"]["S"]), SECONDS.decode(item["expires_at"]), at)


@readable
def unclaimed(item: Item) -> frozenset[RequestId]:
    """Read back who asked for a message without a claim. Raises RowUnreadable."""
    return frozenset(map(RequestId, item["asks"]["SS"])) if "asks" in item else frozenset()


@readable
def facts_and_asks(item: Item) -> tuple[Facts | None, int]:
    """Read back what was read of a message that was not claimed, and how many asked for it. Raises RowUnreadable."""
    return FACTS.decode(item["facts"]) if "facts" in item else None, len(item.get("asks", {"SS": []})["SS"])


@readable
def facts_apart(item: Item) -> Facts | None:
    """Read back what was read of a message that was not claimed. Raises RowUnreadable."""
    return FACTS.decode(item["facts"]) if "facts" in item else None


def _encode(row: Any, codecs: Mapping[str, Codec]) -> dict[str, Attribute]:
    defaults = _DEFAULTS[type(row)]
    encoded = {}
    for name, codec in codecs.items():
        value = getattr(row, name)
        if value is not None and value != defaults.get(name):
            encoded[name] = codec.encode(value)
    return encoded


def _decode(item: Item, codecs: Mapping[str, Codec]) -> dict[str, Any]:
    return {name: codec.decode(item[name]) for name, codec in codecs.items() if name in item}
