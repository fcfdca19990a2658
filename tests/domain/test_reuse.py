"""Is the mail under an id still the one that the ledger knows: which ids are compared, and what contradicts."""

from datetime import timedelta
from typing import Any

import pytest

from quarantine_release.domain.details import Details
from quarantine_release.domain.ids import AttemptId, MessageId, postfix_part
from quarantine_release.domain.reuse import is_to_be_compared, used_again
from quarantine_release.domain.rows import MessageRow, Target
from quarantine_release.domain.states import Code, Outcome, State
from tests.support.stand_ins import ACCOUNT, BARE, FULL, NOON

PART = postfix_part(BARE)
NEXT = MessageId("4Njp3P0STMz2c02Q-2026-11-20T10:00:00-7")
LONG_AGO = NOON - timedelta(minutes=10)


def row(**members: Any) -> MessageRow:
    known = {
        "state": State.RELEASED,
        "message_id": BARE,
        "confirmed_id": FULL,
        "updated_at": LONG_AGO,
        "disposition": "SPAM",
    }
    return MessageRow(account_id=ACCOUNT, part=PART, attempt=AttemptId("1"), **{**known, **members})


@pytest.mark.parametrize("state", [State.RELEASED, State.PARTIAL, State.FAILED, State.NEEDS_REVIEW])
def test_a_bare_id_whose_message_ended_long_ago_is_compared(state: State) -> None:
    assert is_to_be_compared(row(state=state), Target(PART, BARE), NOON)


@pytest.mark.parametrize(
    ("known", "given"),
    [
        (None, BARE),
        (row(), FULL),
        (row(confirmed_id=None), BARE),
        (row(updated_at=NOON - timedelta(seconds=60)), BARE),
        (row(state=State.RETRYABLE), BARE),
        (row(state=State.UNKNOWN), BARE),
        (row(expires_at=NOON), BARE),
    ],
    ids=["unknown", "full id", "known by the bare id alone", "a minute ago", "free", "under way", "forgotten"],
)
def test_no_other_is(known: MessageRow | None, given: MessageId) -> None:
    assert not is_to_be_compared(known, Target(PART, given), NOON)


def test_another_mail_under_the_same_postfix_id_is_ambiguous_with_both() -> None:
    ended = used_again(row(), Details(NEXT, is_quarantined=True, disposition="MALICIOUS", at=NOON), NOON)
    assert ended is not None
    assert (ended.outcome, ended.code) == (Outcome.AMBIGUOUS, Code.SEVERAL_MATCHES)
    assert FULL in ended.detail
    assert NEXT in ended.detail
    known, found = ended.candidates
    assert (known.message_id, known.disposition, known.is_quarantined) == (FULL, "SPAM", False)
    assert (found.message_id, found.at, found.disposition, found.is_quarantined) == (NEXT, NOON, "MALICIOUS", True)


def test_what_is_not_known_of_either_is_not_told() -> None:
    ended = used_again(row(state=State.RETRYABLE, disposition=None), NEXT, NOON)
    assert ended is not None
    known, found = ended.candidates
    assert (known.disposition, known.is_quarantined, found.disposition, found.is_quarantined) == (None,) * 4
    assert (found.at is not None, known.at) == (True, None)  # the time of the older is beyond the search's reach


@pytest.mark.parametrize(
    "known",
    [None, row(confirmed_id=NEXT), row(confirmed_id=None), row(expires_at=NOON)],
    ids=str,
)
def test_the_same_mail_or_one_that_is_not_known_is_no_contradiction(known: MessageRow | None) -> None:
    assert used_again(known, NEXT, NOON) is None
