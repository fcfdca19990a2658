"""The conditional writes that keep what lookup and guard found out, one by one. Pure.

Which of them pass together, and what it means if one is refused, is `notes.py`'s.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from quarantine_release.domain.facts import Facts
from quarantine_release.domain.ids import AccountId, MessageId, PostfixPart, RequestId, message_key
from quarantine_release.domain.rows import RequestRow, RequestState
from quarantine_release.domain.states import State
from quarantine_release.ledger.codecs import MILLISECONDS, SECONDS, Attribute, Item
from quarantine_release.ledger.keys import (
    alias_key,
    request_key,
    unclaimed_key,
)
from quarantine_release.ledger.request_checks import other_check
from quarantine_release.ledger.row_version import NOT_NEWER, STAMP
from quarantine_release.ledger.update_expression import UpdateExpression, Write
from quarantine_release.ledger.value_codecs import FACTS

# Of those who asked without a claim so many are kept.
UNCLAIMED_KEPT: Final = 100


def check_not_owner(request: RequestRow, part: PostfixPart) -> Write:
    """Let the others pass only if a message is not claimed for this request, or free again."""
    return {
        "ConditionCheck": {
            "Key": {"pk": {"S": message_key(request.account_id, part)}},
            "ConditionExpression": (
                f"{NOT_NEWER} AND (attribute_not_exists(#owner) OR #owner <> :this OR #state = :free)"
            ),
            "ExpressionAttributeNames": {"#owner": "owner", "#state": "state"},
            "ExpressionAttributeValues": {
                ":this": {"S": request.request_id},
                ":free": {"S": State.RETRYABLE},
                ":v": STAMP,
            },
        }
    }


def note_findings(request: RequestRow, batch: Item, wanted: Item, *, is_first: bool) -> Write:
    """Write some of what is wanted about an open request's ids, refused if anything is known about one of these.

    All that is wanted counts as one note, with the first write.
    """
    update = UpdateExpression({"S": request_key(request.request_id)})
    for name, value in batch.items():
        update.set(name, value)
        update.require_absent(name)
        # What an id means and that it has ended are one finding: no two writers may each have half of it.
        if (other := other_check(name)) not in wanted:
            update.require_absent(other)
    if is_first:
        update.add("notes", {"N": "1"})
    update.require("state", {"S": RequestState.OPEN})
    update.require("nonce", {"S": request.nonce})
    update.require_absent("cancelled_at")
    return {"Update": update.build()}


def keep_alias(account_id: AccountId, question: str, message_id: MessageId, at: datetime, until: datetime) -> Write:
    """Keep what a question was answered last, and when."""
    update = UpdateExpression({"S": alias_key(account_id, question)})
    update.set("message_id", {"S": message_id})
    update.set("kept_at", MILLISECONDS.encode(at))
    update.set("expires_at", SECONDS.encode(until))
    return {"Update": update.build()}


@dataclass(frozen=True, slots=True)
class Apart:
    """What to write of a message apart from its row: who asked for it without a claim, and what was read of it.

    `facts` holds only if nothing else was written since it was combined with `seen`, the attribute as it was read.
    """

    part: PostfixPart
    request_id: RequestId | None
    facts: Facts | None
    seen: Attribute | None = None


def note_apart(account_id: AccountId, note: Apart, until: datetime) -> Write:
    """Add to those who asked for a message without a claim, while they are few, and keep what was read of it."""
    update = UpdateExpression({"S": unclaimed_key(account_id, note.part)})
    update.set("expires_at", SECONDS.encode(until))
    if note.request_id is not None:
        update.add("asks", {"SS": [note.request_id]})
        update.require_fewer("asks", UNCLAIMED_KEPT)
    if note.facts is not None:
        update.set("facts", FACTS.encode(note.facts))
        update.require_same("facts", note.seen)
    return {"Update": update.build()}
