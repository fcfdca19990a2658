"""The guard's decision table: what may leave quarantine, under which policy, and what is told where it may not."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarantine_release.domain.details import Details, Unreadable
from quarantine_release.domain.guard import Ended, Guarded, judge
from quarantine_release.domain.policy import DEFAULT_POLICY, DISPOSITIONS, HARMFUL, Policy, parse_policy, policy_entry
from quarantine_release.domain.states import Code, Outcome
from tests.support.stand_ins import FULL, NOON

HELD = Details(
    FULL, is_quarantined=True, disposition="SPAM", delivery_mode="DIRECT", at=NOON, recipients=("a@b.example",)
)
PASSED, OVERRIDDEN, NOT_CHECKED = Guarded.PASSED, Guarded.OVERRIDDEN, Guarded.NOT_CHECKED
ANYTHING = Policy()
WEEK = Policy(max_age=timedelta(days=7))
OURS = Policy(recipient_domains=frozenset({"b.example", "c.example"}))


def verdict_on(details: Details | Unreadable, policy: Policy = DEFAULT_POLICY, **how: bool) -> Guarded | Ended:
    return judge(details, policy, NOON, is_bare=how.pop("is_bare", False), **how)


def told(verdict: Guarded | Ended) -> tuple[Outcome, Code | None]:
    assert isinstance(verdict, Ended), verdict
    return verdict.outcome, verdict.code


# --- Dispositions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("disposition", sorted(DISPOSITIONS - HARMFUL))
def test_mail_that_means_no_harm_passes_by_default(disposition: str) -> None:
    assert verdict_on(replace(HELD, disposition=disposition)) is PASSED


@pytest.mark.parametrize("disposition", [*sorted(HARMFUL), "malicious", "spam", "SPAM ", "PHISH", "", None])
@pytest.mark.parametrize("force", [False, True])
def test_harmful_mail_and_what_is_not_known_passes_only_by_override(disposition: str | None, force: bool) -> None:
    details = replace(HELD, disposition=disposition)
    assert told(verdict_on(details, force=force)) == (Outcome.DENIED, Code.DISPOSITION_NOT_ALLOWED)
    assert verdict_on(details, force=force, override=True) is OVERRIDDEN


@pytest.mark.parametrize(
    ("disposition", "named"), [("MALICIOUS", "MALICIOUS"), ("<script>", "not known"), (None, "not known")]
)
def test_a_denial_names_the_rule_and_only_dispositions_that_are_known(disposition: str | None, named: str) -> None:
    verdict = verdict_on(replace(HELD, disposition=disposition))
    assert isinstance(verdict, Ended)
    assert verdict.detail == f"Rule dispositions: mail whose disposition is {named} is not released."


def test_what_is_not_known_is_refused_also_where_any_disposition_is_allowed() -> None:
    assert verdict_on(replace(HELD, disposition="MALICIOUS"), ANYTHING) is PASSED
    assert told(verdict_on(replace(HELD, disposition="NEW"), ANYTHING))[1] is Code.DISPOSITION_NOT_ALLOWED
    assert told(verdict_on(replace(HELD, disposition="NEW"), Policy(frozenset({"NEW"}))))[0] is Outcome.DENIED


def test_a_policy_that_allows_no_disposition_lets_nothing_pass() -> None:
    assert told(verdict_on(HELD, Policy(frozenset())))[1] is Code.DISPOSITION_NOT_ALLOWED


def test_an_override_of_what_is_allowed_anyway_is_none() -> None:
    assert verdict_on(HELD, override=True) is PASSED


# --- Age and recipients ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("override", [False, True])
@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    ("at", "passes"),
    [
        (NOON - timedelta(days=7), True),
        (NOON - timedelta(days=7, microseconds=1), False),
        (NOON + timedelta(minutes=1), True),  # clocks differ
        (datetime.min.replace(tzinfo=UTC), False),
        (None, False),
    ],
)
def test_mail_that_is_too_old_or_whose_age_nobody_knows_is_denied(
    at: datetime | None, passes: bool, override: bool, force: bool
) -> None:
    verdict = verdict_on(replace(HELD, at=at), WEEK, override=override, force=force)
    if passes:
        assert verdict is PASSED
    else:
        assert told(verdict) == (Outcome.DENIED, Code.MESSAGE_TOO_OLD)
        assert "max_age_days" in str(verdict)
        assert "7 days" in str(verdict)


@pytest.mark.parametrize("override", [False, True])
@pytest.mark.parametrize(
    ("recipients", "passes"),
    [
        (("ann@b.example",), True),
        (("ann@B.Example", "bob@c.example"), True),
        (("ann@b.example", "eve@d.example"), False),
        (("ann@sub.b.example",), False),
        (("ann@b.example.",), False),
        (("ann@b.example@d.example",), False),
        (("Ann <ann@b.example>",), False),  # not as Cloudflare tells recipients: nobody knows
        (("",), False),
        ((), False),
    ],
)
def test_mail_leaves_only_if_all_its_recipients_are_of_the_domains_allowed(
    recipients: tuple[str, ...], passes: bool, override: bool
) -> None:
    verdict = verdict_on(replace(HELD, recipients=recipients), OURS, override=override)
    if passes:
        assert verdict is PASSED
    else:
        assert told(verdict) == (Outcome.DENIED, Code.RECIPIENT_NOT_ALLOWED)
        assert "recipient_domains" in str(verdict)


# --- Not in quarantine -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["API", "BCC", "JOURNAL", "RETRO_SCAN"])
def test_a_mode_in_which_nothing_is_held_is_named_with_the_remedy(mode: str) -> None:
    verdict = verdict_on(replace(HELD, is_quarantined=False, delivery_mode=mode))
    assert told(verdict) == (Outcome.NOT_QUARANTINED, Code.NOTHING_HELD)
    assert mode in str(verdict)
    assert "move" in str(verdict)


@pytest.mark.parametrize("mode", ["DIRECT", "REVIEW_SUBMISSION", "SOMETHING_NEW", "api", None])
def test_what_is_not_in_quarantine_was_delivered(mode: str | None) -> None:
    verdict = verdict_on(replace(HELD, is_quarantined=False, delivery_mode=mode))
    assert told(verdict) == (Outcome.NOT_QUARANTINED, Code.ALREADY_DELIVERED)
    assert "move" in str(verdict)


@pytest.mark.parametrize("is_quarantined", [False, True])
def test_what_was_released_outside_is_not_released_again_also_while_it_is_shown_as_held(is_quarantined: bool) -> None:
    verdict = verdict_on(replace(HELD, is_quarantined=is_quarantined, is_released=True))
    assert told(verdict) == (Outcome.NOT_QUARANTINED, Code.ALREADY_DELIVERED)
    assert "already released outside this service" in str(verdict)


def test_a_message_that_is_shown_as_held_and_as_released_passes_by_force_alone() -> None:
    doubtful = replace(HELD, is_doubtful=True)
    verdict = verdict_on(doubtful)
    assert told(verdict) == (Outcome.DENIED, Code.GUARD_UNAVAILABLE)
    assert isinstance(verdict, Ended)
    assert not verdict.was_read
    assert verdict_on(doubtful, force=True) is PASSED
    assert told(verdict_on(replace(doubtful, disposition="MALICIOUS"), force=True))[1] is Code.DISPOSITION_NOT_ALLOWED


def test_that_it_is_not_held_is_told_before_any_rule_and_an_override_does_not_change_it() -> None:
    gone = replace(HELD, is_quarantined=False, disposition="MALICIOUS")
    for override in (False, True):
        assert told(verdict_on(gone, override=override))[0] is Outcome.NOT_QUARANTINED


def test_force_passes_the_rule_on_quarantine_and_no_other() -> None:
    gone = replace(HELD, is_quarantined=False, delivery_mode="API", is_released=True)
    assert verdict_on(gone, force=True) is PASSED
    assert told(verdict_on(replace(gone, disposition="MALICIOUS"), force=True))[1] is Code.DISPOSITION_NOT_ALLOWED
    assert told(verdict_on(replace(gone, at=None), WEEK, force=True))[1] is Code.MESSAGE_TOO_OLD
    assert told(verdict_on(replace(gone, recipients=()), OURS, force=True))[1] is Code.RECIPIENT_NOT_ALLOWED


# --- Not read --------------------------------------------------------------------------------------------------------

MODES = [(override, force) for override in (False, True) for force in (False, True)]


@pytest.mark.parametrize(("override", "force"), MODES)
@pytest.mark.parametrize("why", [Unreadable.ABSENT, Unreadable.NOT_OFFERED])
@pytest.mark.parametrize(
    "rule", [{"is_strict": True}, {"max_age": timedelta(days=9)}, {"recipient_domains": frozenset({"b.example"})}]
)
def test_a_bare_id_that_cannot_be_read_passes_unchecked_in_standard_and_is_denied_in_strict_and_where_a_rule_is_set(
    why: Unreadable, rule: dict[str, Any], override: bool, force: bool
) -> None:
    assert verdict_on(why, is_bare=True, override=override, force=force) is NOT_CHECKED
    verdict = verdict_on(why, replace(DEFAULT_POLICY, **rule), is_bare=True, override=override, force=force)
    assert told(verdict) == (Outcome.DENIED, Code.GUARD_CANNOT_READ)
    assert "AlertID" in str(verdict)
    assert "investigate id" in str(verdict)


@pytest.mark.parametrize(("override", "force"), MODES)
@pytest.mark.parametrize("is_strict", [False, True])
def test_any_other_id_that_is_not_there_is_not_found(is_strict: bool, override: bool, force: bool) -> None:
    policy = replace(DEFAULT_POLICY, is_strict=is_strict)
    assert told(verdict_on(Unreadable.ABSENT, policy, override=override, force=force)) == (Outcome.NOT_FOUND, None)


@pytest.mark.parametrize(("override", "force"), MODES)
@pytest.mark.parametrize("is_bare", [False, True])
@pytest.mark.parametrize("why", [Unreadable.FAILED, Unreadable.UNCLEAR])
def test_what_could_not_be_read_is_denied(why: Unreadable, is_bare: bool, override: bool, force: bool) -> None:
    verdict = verdict_on(why, is_bare=is_bare, override=override, force=force)
    assert told(verdict) == (Outcome.DENIED, Code.GUARD_UNAVAILABLE)


@pytest.mark.parametrize(("override", "force"), MODES)
@pytest.mark.parametrize("is_bare", [False, True])
def test_what_lies_among_too_much_to_list_is_denied_for_good(is_bare: bool, override: bool, force: bool) -> None:
    verdict = verdict_on(Unreadable.TOO_MANY, is_bare=is_bare, override=override, force=force)
    assert told(verdict) == (Outcome.DENIED, Code.GUARD_CANNOT_READ)
    assert "investigate id" in str(verdict)


@pytest.mark.parametrize("is_strict", [False, True])
def test_a_bare_id_that_was_read_is_judged_like_any_other(is_strict: bool) -> None:
    policy = replace(DEFAULT_POLICY, is_strict=is_strict)
    assert verdict_on(HELD, policy, is_bare=True) is PASSED
    assert told(verdict_on(replace(HELD, disposition="MALICIOUS"), policy, is_bare=True))[0] is Outcome.DENIED


# --- Whatever the message --------------------------------------------------------------------------------------------

times = st.datetimes(timezones=st.just(UTC))
texts = st.sampled_from([*sorted(DISPOSITIONS), "API", "DIRECT", "malicious"]) | st.text(max_size=8)
names = st.sampled_from(["a@b.example", "a@c.example", "a@d.example", "A@B.EXAMPLE", "", "@", "b.example"])
messages = st.builds(
    Details,
    st.just(FULL),
    is_quarantined=st.booleans(),
    disposition=st.none() | texts,
    delivery_mode=st.none() | texts,
    at=st.none() | times,
    recipients=st.lists(names, max_size=3).map(tuple),
    is_released=st.booleans(),
    is_doubtful=st.booleans(),
)
policies = st.builds(
    Policy,
    st.none() | st.frozensets(st.sampled_from(sorted(DISPOSITIONS))),
    st.none() | st.integers(1, 365).map(lambda days: timedelta(days=days)),
    st.none() | st.frozensets(st.sampled_from(["b.example", "c.example", "d.example"])),
    st.booleans(),
)
hows = st.fixed_dictionaries({"is_bare": st.booleans(), "override": st.booleans(), "force": st.booleans()})


@given(messages | st.sampled_from(Unreadable), policies, times, hows)
def test_whatever_the_message_only_what_the_policy_allows_ever_passes(
    details: Details | Unreadable, policy: Policy, now: datetime, how: dict[str, bool]
) -> None:
    verdict = judge(details, policy, now, **how)
    if isinstance(verdict, Ended):
        assert verdict.outcome in (Outcome.DENIED, Outcome.NOT_QUARANTINED, Outcome.NOT_FOUND)
        assert verdict.detail
        assert verdict.was_read is (isinstance(details, Details) and verdict.code is not Code.GUARD_UNAVAILABLE)
        told = details.disposition if isinstance(details, Details) else None
        is_name = bool(re.fullmatch(r"[A-Z_-]{1,40}", told or ""))
        assert verdict.disposition == (told if told in DISPOSITIONS or is_name else None)
        return
    if isinstance(details, Unreadable):
        assert details in (Unreadable.ABSENT, Unreadable.NOT_OFFERED)
        assert (verdict, how["is_bare"], policy.is_strict) == (NOT_CHECKED, True, False)
        assert (policy.max_age, policy.recipient_domains) == (None, None)
        return
    is_allowed = details.disposition in (DISPOSITIONS if policy.dispositions is None else policy.dispositions)
    assert is_allowed or how["override"]
    assert verdict is (PASSED if is_allowed else OVERRIDDEN)
    assert how["force"] or (details.is_quarantined and not details.is_released and not details.is_doubtful)
    assert policy.max_age is None or (details.at is not None and now - details.at <= policy.max_age)
    if policy.recipient_domains is not None:
        assert {name.rpartition("@")[2].lower() for name in details.recipients} <= policy.recipient_domains
        assert details.recipients


@given(messages | st.sampled_from(Unreadable), policies, policies, times, hows)
def test_two_policies_together_never_allow_more_than_either(
    details: Details | Unreadable, one: Policy, other: Policy, now: datetime, how: dict[str, bool]
) -> None:
    both = one.with_stricter(other)
    assert both == other.with_stricter(one)
    assert one.with_stricter(None) == one == one.with_stricter(one)
    verdicts = [judge(details, policy, now, **how) for policy in (both, one, other)]
    if verdicts[0] in (PASSED, NOT_CHECKED):
        assert verdicts == [verdicts[0]] * 3
    elif verdicts[0] is OVERRIDDEN:
        assert OVERRIDDEN in verdicts[1:]
        assert all(isinstance(verdict, Guarded) for verdict in verdicts)
    else:  # and never less than both
        assert how["override"] or any(isinstance(verdict, Ended) for verdict in verdicts[1:])


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (WEEK, ANYTHING, WEEK),
        (ANYTHING, WEEK, WEEK),
        (WEEK, Policy(max_age=timedelta(days=3)), Policy(max_age=timedelta(days=3))),
        (OURS, ANYTHING, OURS),
        (
            OURS,
            Policy(recipient_domains=frozenset({"b.example", "x.example"})),
            Policy(recipient_domains=frozenset({"b.example"})),
        ),
        (DEFAULT_POLICY, Policy(frozenset({"SPAM", "MALICIOUS"})), Policy(frozenset({"SPAM"}))),
        (ANYTHING, Policy(is_strict=True), Policy(is_strict=True)),
    ],
)
def test_of_two_policies_the_stricter_of_each_rule_counts(one: Policy, other: Policy, both: Policy) -> None:
    assert one.with_stricter(other) == both


# --- Policies as they are written ------------------------------------------------------------------------------------


@given(policies)
def test_a_policy_is_read_as_it_was_written(policy: Policy) -> None:
    assert parse_policy(policy_entry(policy)) == policy


def test_an_entry_with_every_member_is_a_policy() -> None:
    entry = {
        "dispositions": ["SPAM", "BULK"],
        "max_age_days": 7,
        "recipient_domains": ["Example.COM"],
        "strict": True,
    }
    assert parse_policy(entry) == Policy(
        frozenset({"SPAM", "BULK"}), timedelta(days=7), frozenset({"example.com"}), is_strict=True
    )
    assert (
        parse_policy({})
        == parse_policy({"dispositions": None, "max_age_days": None, "recipient_domains": None})
        == ANYTHING
    )


MEMBERS = "may hold dispositions, max_age_days, recipient_domains and strict, and nothing else"
NO_TEXTS: list[Any] = ["SPAM", {}, 7, False, [7], [""], [None], [["SPAM"]]]


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"disposition": ["SPAM"]}, MEMBERS),
        ({"Strict": True}, MEMBERS),
        *(
            ({"max_age_days": days}, "max_age_days must be a whole number from 1 to 365")
            for days in (0, 366, -1, 1.5, "7", True, [7])
        ),
        ({"strict": None}, "strict must be true or false"),
        *(({"strict": value}, "strict must be true or false") for value in NO_TEXTS if value is not False),
        *(
            ({name: value}, f"{name} must be a list of texts")
            for name in ("dispositions", "recipient_domains")
            for value in NO_TEXTS
        ),
        *(
            ({"dispositions": [value]}, f"dispositions must be of {', '.join(sorted(DISPOSITIONS))}")
            for value in ("spam", "canary")
        ),
    ],
)
def test_an_entry_that_is_no_policy_is_told_with_its_member_and_rule(entry: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=r"\Apolicy: ") as invalid:
        parse_policy(entry)
    assert str(invalid.value) == f"policy: {problem}"


def test_no_personal_data_is_in_a_repr() -> None:
    details = replace(HELD, recipients=("ann.canary",), sender="eve.canary", subject="canary")
    assert "canary" not in repr(details)
