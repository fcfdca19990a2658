"""What was read of a message: what is kept of it, and how a message is judged by it that cannot be read now."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from quarantine_release.domain.facts import Facts, facts_of, judge_by, latest
from quarantine_release.domain.guard import Details, Ended, Guarded, NotRead
from quarantine_release.domain.ids import MessageId
from quarantine_release.domain.policy import DEFAULT_POLICY, Policy
from quarantine_release.domain.states import Code, Outcome
from quarantine_release.ledger.codecs import FACTS
from tests.support.stand_ins import BARE, FULL, NOON

READ = Details(
    FULL,
    is_quarantined=True,
    disposition="SPAM",
    at=NOON - timedelta(days=2),
    recipients=("ann@example.com",),
    sender="canary@example.net",
    subject="a canary",
)
FACTS_READ = Facts(
    FULL, NOON, was_held=True, disposition="SPAM", at=NOON - timedelta(days=2), recipients=("ann@example.com",)
)


def judged(facts: Facts = FACTS_READ, policy: Policy = DEFAULT_POLICY, **how: Any) -> Any:
    found = judge_by(facts, NotRead.ABSENT, policy, NOON, **{"override": False, "force": False, **how})
    return (found.outcome, found.code) if isinstance(found, Ended) else found


def test_a_reading_is_kept_without_subject_and_sender() -> None:
    facts = facts_of(READ, NOON, keeps_recipients=True)
    assert facts == FACTS_READ
    assert "canary" not in str(FACTS.encode(facts))
    assert "ann" not in repr(facts)


@pytest.mark.parametrize(
    ("names", "keeps", "kept"),
    [
        (tuple(f"{number}@example.com" for number in range(20)), True, 20),
        (tuple(f"{number}@example.com" for number in range(21)), True, None),
        (("a" * 321,), True, None),
        ((), True, None),
        (("ann@example.com",), False, None),
    ],
    ids=["20", "21", "too long", "none told", "not to be kept"],
)
def test_few_recipients_are_kept_if_they_may_be(names: tuple[str, ...], keeps: bool, kept: int | None) -> None:
    facts = facts_of(replace(READ, recipients=names), NOON, keeps_recipients=keeps)
    assert (len(facts.recipients) if facts.recipients is not None else None) == kept


def test_what_was_read_of_a_bare_id_forbids_and_never_allows() -> None:
    facts = facts_of(replace(READ, message_id=BARE), NOON, keeps_recipients=True)
    assert judged(facts) is Guarded.NOT_CHECKED
    inside = replace(DEFAULT_POLICY, recipient_domains=frozenset({"example.com"}))
    assert judged(facts, inside) == (Outcome.DENIED, Code.GUARD_CANNOT_READ)
    assert judged(replace(facts, disposition="MALICIOUS"))[1] is Code.DISPOSITION_NOT_ALLOWED


@pytest.mark.parametrize(
    "facts",
    [
        FACTS_READ,
        Facts(FULL, NOON, was_held=False),
        replace(FACTS_READ, recipients=(), other_dispositions=("BULK", None)),
        replace(FACTS_READ, is_clear=False),
    ],
)
def test_what_is_kept_is_read_back_as_it_was(facts: Facts) -> None:
    assert FACTS.decode(FACTS.encode(facts)) == facts


def test_what_was_read_last_counts() -> None:
    later = replace(FACTS_READ, read_at=NOON + timedelta(seconds=1))
    assert latest((None, later, FACTS_READ)) is later
    assert latest((None, None)) is None


def test_a_disposition_that_is_no_name_is_kept_as_not_known_and_never_allowed() -> None:
    facts = facts_of(
        replace(READ, disposition="ann@example.com", other_dispositions=("x y",)), NOON, keeps_recipients=True
    )
    assert facts is not None
    assert (facts.disposition, facts.other_dispositions) == (None, (None,))
    assert judged(facts) == (Outcome.DENIED, Code.DISPOSITION_NOT_ALLOWED)


DENIED = {
    "malicious": (replace(FACTS_READ, disposition="MALICIOUS"), DEFAULT_POLICY, Code.DISPOSITION_NOT_ALLOWED),
    "malicious in another row": (
        replace(FACTS_READ, other_dispositions=("MALICIOUS",)),
        DEFAULT_POLICY,
        Code.DISPOSITION_NOT_ALLOWED,
    ),
    "too old": (FACTS_READ, replace(DEFAULT_POLICY, max_age=timedelta(days=1)), Code.MESSAGE_TOO_OLD),
    "of nobody knows when": (
        replace(FACTS_READ, at=None),
        replace(DEFAULT_POLICY, max_age=timedelta(days=9)),
        Code.MESSAGE_TOO_OLD,
    ),
    "to others": (
        FACTS_READ,
        replace(DEFAULT_POLICY, recipient_domains=frozenset({"example.org"})),
        Code.RECIPIENT_NOT_ALLOWED,
    ),
    "to nobody knows whom": (
        replace(FACTS_READ, recipients=None),
        replace(DEFAULT_POLICY, recipient_domains=frozenset({"example.com"})),
        Code.GUARD_CANNOT_READ,
    ),
    "for a strict policy": (FACTS_READ, replace(DEFAULT_POLICY, is_strict=True), Code.GUARD_CANNOT_READ),
    "malicious, for a strict policy": (
        replace(FACTS_READ, disposition="MALICIOUS"),
        replace(DEFAULT_POLICY, is_strict=True),
        Code.DISPOSITION_NOT_ALLOWED,
    ),
}


@pytest.mark.parametrize(("facts", "policy", "code"), DENIED.values(), ids=DENIED)
def test_what_speaks_against_a_release_denies_it(facts: Facts, policy: Policy, code: Code) -> None:
    assert judged(facts, policy) == (Outcome.DENIED, code)


def test_what_was_held_passes_by_the_record() -> None:
    assert judged() is Guarded.PASSED_BY_RECORD
    assert judged(replace(FACTS_READ, disposition="MALICIOUS"), override=True) is Guarded.OVERRIDDEN
    inside = replace(DEFAULT_POLICY, recipient_domains=frozenset({"example.com"}), max_age=timedelta(days=3))
    assert judged(policy=inside) is Guarded.PASSED_BY_RECORD


def test_what_was_not_held_then_is_not_released_now_but_by_force() -> None:
    facts = facts_of(replace(READ, is_released=True), NOON, keeps_recipients=True)
    assert facts is not None
    assert judged(facts) == (Outcome.NOT_QUARANTINED, Code.ALREADY_DELIVERED)
    assert judged(facts, force=True) is Guarded.PASSED_BY_RECORD


def test_the_reason_names_the_message_that_was_read() -> None:
    facts = replace(FACTS_READ, disposition="MALICIOUS", message_id=MessageId(f"{BARE}-2026-11-20T12:00:00-7"))
    ended = judge_by(facts, NotRead.ABSENT, DEFAULT_POLICY, NOON, override=False, force=False)
    assert isinstance(ended, Ended)
    assert (facts.message_id in ended.detail, ended.disposition) == (True, "MALICIOUS")
