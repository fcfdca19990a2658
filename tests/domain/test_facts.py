"""What was read of a message: what is kept of it, and how a message is judged by it that cannot be read now."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from quarantine_release.domain.details import Details, Unreadable
from quarantine_release.domain.facts import Facts, combined, facts_of, judge_by, several, unclear
from quarantine_release.domain.guard import Ended, Guarded
from quarantine_release.domain.ids import MessageId, PostfixPart
from quarantine_release.domain.policy import DEFAULT_POLICY, Policy
from quarantine_release.domain.states import Code, Outcome
from quarantine_release.ledger.value_codecs import FACTS
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
    found = judge_by(facts, Unreadable.ABSENT, policy, NOON, **{"override": False, "force": False, **how})
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
        several(PostfixPart(BARE), NOON),
    ],
)
def test_what_is_kept_is_read_back_as_it_was(facts: Facts) -> None:
    assert FACTS.decode(FACTS.encode(facts)) == facts


def test_what_was_read_last_counts() -> None:
    later = replace(FACTS_READ, read_at=NOON + timedelta(seconds=1))
    assert combined((None, later, FACTS_READ)) is later
    assert combined((None, None)) is None


SECOND, BARE_ID = MessageId(f"{BARE}-2026-11-20T12:00:00-7"), PostfixPart(BARE)
OWN = replace(FACTS_READ, message_id=SECOND)
TWIN = replace(FACTS_READ, message_id=MessageId(f"{BARE}-2026-11-20T12:00:00-8"))


def after(seconds: int, facts: Facts) -> Facts:
    return replace(facts, read_at=NOON + timedelta(seconds=seconds))


@pytest.mark.parametrize(
    ("readings", "is_clear"),
    [
        ((unclear(SECOND, NOON), after(1, OWN)), True),
        ((OWN, unclear(SECOND, NOON)), False),
        ((after(1, OWN), several(BARE_ID, NOON)), False),
        ((after(1, OWN), unclear(BARE, NOON)), False),
        ((OWN, after(1, TWIN)), False),
        ((OWN, after(1, TWIN), after(2, OWN)), False),
        ((OWN, after(1, replace(OWN, message_id=BARE))), True),
        ((unclear(SECOND, NOON), after(1, TWIN), after(2, TWIN)), False),
    ],
)
@pytest.mark.parametrize("is_reversed", [False, True])
def test_only_a_later_reading_of_the_same_message_settles_what_was_not_clear(
    readings: tuple[Facts, ...], is_clear: bool, is_reversed: bool
) -> None:
    """And two messages behind one Postfix id never become one again."""
    told = combined(readings[::-1] if is_reversed else readings)
    assert told is not None
    assert told.is_clear is is_clear


def test_of_two_readings_at_one_time_the_worse_counts() -> None:
    evil = replace(FACTS_READ, disposition="MALICIOUS")
    assert combined((evil, FACTS_READ)) == combined((FACTS_READ, evil)) == evil


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
    ended = judge_by(facts, Unreadable.ABSENT, DEFAULT_POLICY, NOON, override=False, force=False)
    assert isinstance(ended, Ended)
    assert (facts.message_id in ended.detail, ended.disposition) == (True, "MALICIOUS")
