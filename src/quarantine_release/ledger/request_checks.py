"""What lookup and guard made of a request's ids, as attributes of its row. Pure."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from quarantine_release.domain.guard import Ended
from quarantine_release.domain.ids import MessageId, PostfixPart, is_header, postfix_part
from quarantine_release.domain.rows import RequestRow
from quarantine_release.ledger.codecs import Attribute, Item
from quarantine_release.ledger.value_codecs import ENDED

# What lookup and guard made of the id at a position: each written once, by whoever comes first.
_RESOLVED: Final = "resolved_"
_ENDED: Final = "end_"

# DynamoDB allows 400 KB for an item, of which a request's body may take 64 KB. All that was found out shares this much.
_CHECKS_BYTES: Final = 310_000

_NAME_BYTES: Final = 12  # of an attribute, with its position

_CUT: Final = " ..."


def checks_item(row: RequestRow) -> dict[str, Attribute]:
    """Return the attributes that hold what lookup and guard made of a request's ids.

    Each id has its share of what the row can hold, so of 1,000 ids that may mean several messages few candidates are
    kept, or none.
    """
    item: dict[str, Attribute] = {}
    share = _CHECKS_BYTES // len(row.ids)
    for position, message_id in enumerate(row.ids) if row.resolved or row.ended else ():
        left = share
        if message_id in row.resolved:
            item[f"{_RESOLVED}{position}"] = {"S": row.resolved[message_id]}
            left -= _NAME_BYTES + len(row.resolved[message_id])
        if message_id in row.ended:
            item[f"{_ENDED}{position}"] = _within(row.ended[message_id], left - _NAME_BYTES)
    return item


def _within(ended: Ended, size: int) -> Attribute:
    """Encode an end with as many of its candidates as fit, and cut its detail if none does."""
    for number in range(len(ended.candidates), -1, -1):
        encoded = ENDED.encode(replace(ended, candidates=ended.candidates[:number]))
        excess = len(encoded["S"]) - size
        if excess <= 0:
            return encoded
    detail = f"{ended.detail[: max(0, len(ended.detail) - excess - len(_CUT))]}{_CUT}"
    return ENDED.encode(replace(ended, candidates=(), detail=detail))


def ended_parts(row: RequestRow, checks: Item) -> list[PostfixPart]:
    """Return the messages whose end is among these attributes; none for a Message-ID that was not found out.

    Nor one that has ended by some of its ids only: it may be claimed for this request.
    """
    ended = [row.ids[int(name.removeprefix(_ENDED))] for name in checks if name.startswith(_ENDED)]
    ids = dict.fromkeys(row.resolved.get(message_id, message_id) for message_id in ended)
    parts = dict.fromkeys(postfix_part(message_id) for message_id in ids if not is_header(message_id))
    return [part for part in parts if part in row.ended_parts]


def other_check(name: str) -> str:
    """Return the attribute for the other of the two things that may be found out of the same id."""
    kind, other = (_RESOLVED, _ENDED) if name.startswith(_RESOLVED) else (_ENDED, _RESOLVED)
    return other + name.removeprefix(kind)


def decode_checks(item: Item, ids: Sequence[MessageId]) -> tuple[dict[MessageId, MessageId], dict[MessageId, Ended]]:
    """Read back what each id was found to mean, and which have ended and how."""
    resolved = {ids[position]: MessageId(value["S"]) for position, value in _by_position(item, _RESOLVED)}
    ended = {ids[position]: ENDED.decode(value) for position, value in _by_position(item, _ENDED)}
    return resolved, ended


def _by_position(item: Item, prefix: str) -> list[tuple[int, Attribute]]:
    return [(int(name.removeprefix(prefix)), value) for name, value in item.items() if name.startswith(prefix)]
