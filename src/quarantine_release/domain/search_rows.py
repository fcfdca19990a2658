"""One message shown in several rows: what they tell together, and which message an id means among them. Pure.

A search may show a message once per recipient and once per rescan. Rows that contradict each other prove nothing, so
they never make a message releasable: each fact that the guard judges is the strictest of all rows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from typing import Final, TypeVar

from quarantine_release.domain.details import Details, Several, Unreadable
from quarantine_release.domain.ids import MessageId, contradict
from quarantine_release.domain.policy import DISPOSITIONS, HARMFUL

# From the worst on. A name that is not known may be worse than those after it, and so may an untold disposition.
_KNOWN: Final = ("SUSPICIOUS", "SPOOF", "SPAM", "BULK", "ENCRYPTED", "EXTERNAL", "UNKNOWN", "NONE")

Value = TypeVar("Value")


def merged(rows: Sequence[Details]) -> Details | None:
    """Return what rows about one message tell together; None if they cannot be reconciled.

    They cannot if they differ in id, in Message-ID, or in whether the message is in quarantine.
    """
    if not _can_be_reconciled(rows):
        return None
    worst, *others = _dispositions(rows)
    return replace(
        rows[0],
        disposition=worst,
        other_dispositions=tuple(others),
        delivery_mode=_agreed(row.delivery_mode for row in rows),
        at=_oldest([row.at for row in rows]),
        recipients=_all_of([row.recipients for row in rows]),
        sender=_agreed(row.sender for row in rows),
        subject=_agreed(row.subject for row in rows),
        is_released=any(row.is_released for row in rows),
        is_doubtful=any(row.is_doubtful for row in rows),
        header=_agreed(row.header for row in rows if row.header is not None),
    )


def meant_by(message_id: MessageId, rows: Sequence[Details]) -> Details | Several | Unreadable | None:
    """Return the message that an id means among rows of its Postfix part, or why they do not tell; None if none does.

    Rows under a partial and a full id may describe one message or two, so they tell nothing.
    """
    rows_by_id: dict[MessageId, list[Details]] = {}
    for row in rows:
        if not contradict(row.message_id, message_id):
            rows_by_id.setdefault(row.message_id, []).append(row)
    # An id that another begins with comes right before it in the order of their texts.
    if not all(contradict(one, other) for one, other in pairwise(sorted(rows_by_id))):
        return Unreadable.CONTRADICTED
    messages = []
    for rows_of_one in rows_by_id.values():
        message = merged(rows_of_one)
        if message is None:
            return Unreadable.CONTRADICTED
        messages.append(message)
    return Several(tuple(messages)) if len(messages) > 1 else next(iter(messages), None)


def _can_be_reconciled(rows: Sequence[Details]) -> bool:
    headers = {row.header for row in rows if row.header is not None}
    return len({(row.message_id, row.is_quarantined) for row in rows}) == 1 and len(headers) <= 1


def _dispositions(rows: Sequence[Details]) -> list[str | None]:
    """Return the dispositions of all rows, worst first."""
    return sorted({each for row in rows for each in row.dispositions}, key=rank)


def rank(disposition: str | None) -> tuple[int, int, str]:
    """Return by what dispositions are ordered, the worst first."""
    if disposition in HARMFUL:
        return 0, 0, disposition or ""
    if disposition in DISPOSITIONS:
        return 3, _KNOWN.index(disposition or ""), ""
    return (2, 0, "") if disposition is None else (1, 0, disposition)


def _agreed(values: Iterable[Value | None]) -> Value | None:
    """Return what all rows tell; what they tell differently is not known."""
    distinct = set(values)
    return distinct.pop() if len(distinct) == 1 else None


def _oldest(times: Sequence[datetime | None]) -> datetime | None:
    known_times = [at for at in times if at is not None]
    return min(known_times) if len(known_times) == len(times) else None


def _all_of(lists: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the recipients of all rows; nobody is known if a row names none."""
    return tuple(dict.fromkeys(recipient for recipients in lists for recipient in recipients)) if all(lists) else ()
