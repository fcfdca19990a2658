"""Several rows about one message: the strictest of what they tell, and nothing where they contradict each other."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarantine_release.domain.details import Details, Several, Unreadable
from quarantine_release.domain.guard import Ended, Guarded, judge
from quarantine_release.domain.ids import MessageId
from quarantine_release.domain.policy import DISPOSITIONS, Policy
from quarantine_release.domain.search_rows import meant_by, merged
from quarantine_release.domain.states import Code
from tests.support.stand_ins import BARE, FULL, NOON

ALERT = MessageId(FULL.rpartition("-")[0])
TWIN = MessageId(f"{ALERT}-7")
ROW = Details(
    FULL,
    is_quarantined=True,
    disposition="SPAM",
    delivery_mode="DIRECT",
    at=NOON,
    recipients=("ann@example.com",),
    sender="a@news.example",
    subject="Your order",
    header="1@news.example",
)
details = st.builds(
    replace,
    st.just(ROW),
    is_quarantined=st.booleans(),
    disposition=st.sampled_from([*sorted(DISPOSITIONS), "PHISHING", None]),
    at=st.sampled_from([None, NOON, NOON - timedelta(days=3)]),
    recipients=st.sampled_from([(), ("ann@example.com",), ("bob@other.example",), ("ann@example.com", "x")]),
    is_released=st.booleans(),
    is_doubtful=st.booleans(),
)


def merge(*rows: Details) -> Details:
    message = merged(rows)
    assert message is not None
    return message


def test_one_row_is_what_it_is() -> None:
    assert merge(ROW) == merge(ROW, ROW) == ROW


@pytest.mark.parametrize(
    ("told", "worst", "others"),
    [
        (["SPAM", "MALICIOUS"], "MALICIOUS", ("SPAM",)),
        (["MALICIOUS-BEC", "MALICIOUS"], "MALICIOUS", ("MALICIOUS-BEC",)),
        (["BULK", "SPAM", "BULK"], "SPAM", ("BULK",)),
        (["SPAM", None], None, ("SPAM",)),
        (["SPAM", None, "PHISHING", "MALICIOUS"], "MALICIOUS", ("PHISHING", None, "SPAM")),
    ],
)
def test_the_worst_disposition_is_shown_and_all_are_kept(
    told: list[str | None], worst: str | None, others: Sequence[str | None]
) -> None:
    rows = [replace(ROW, disposition=each) for each in told]
    for each in (rows, rows[::-1]):
        assert (merge(*each).disposition, merge(*each).other_dispositions) == (worst, others)
    assert merge(merge(*rows[:-1]), rows[-1]) == merge(*rows)


def test_recipients_are_those_of_all_rows_or_unknown() -> None:
    other = replace(ROW, recipients=("bob@other.example", "ann@example.com"))
    assert merge(ROW, other).recipients == ("ann@example.com", "bob@other.example")
    assert merge(ROW, other, replace(ROW, recipients=())).recipients == ()


def test_the_oldest_scan_counts_and_one_that_is_not_told_makes_it_unknown() -> None:
    older = replace(ROW, at=NOON - timedelta(days=3))
    assert merge(ROW, older).at == older.at
    assert merge(ROW, replace(ROW, at=None)).at is None


def test_what_rows_tell_differently_is_not_known() -> None:
    other = replace(ROW, sender="b@news.example", subject="Other", delivery_mode="API")
    message = merge(ROW, other)
    assert (message.sender, message.subject, message.delivery_mode) == (None, None, None)
    assert merge(ROW, replace(ROW, is_released=True)).is_released
    assert merge(ROW, replace(ROW, is_doubtful=True)).is_doubtful


@pytest.mark.parametrize("members", [{"is_quarantined": False}, {"message_id": TWIN}, {"header": "2@news.example"}])
def test_rows_that_contradict_each_other_are_not_reconciled(members: dict[str, object]) -> None:
    other = replace(ROW, **members)  # type: ignore[arg-type]
    assert merged([ROW, other]) is merged([other, ROW]) is None
    assert merge(ROW, replace(ROW, header=None)).header == merge(replace(ROW, header=None), ROW).header == ROW.header


@pytest.mark.parametrize("given", [BARE, ALERT, FULL])
def test_rows_of_one_message_are_meant_by_all_its_ids(given: MessageId) -> None:
    assert meant_by(given, [ROW, ROW]) == ROW
    assert meant_by(given, []) is None
    assert meant_by(given, [ROW, replace(ROW, is_quarantined=False)]) is Unreadable.CONTRADICTED


def test_an_id_that_several_messages_go_by_means_them_all_and_a_full_one_its_own() -> None:
    twin = replace(ROW, message_id=TWIN)
    assert meant_by(BARE, [ROW, twin, ROW]) == meant_by(ALERT, [ROW, twin]) == Several((ROW, twin))
    assert meant_by(FULL, [ROW, twin]) == ROW
    assert meant_by(MessageId(f"{ALERT}-9"), [ROW, twin]) is None


@pytest.mark.parametrize("partial", [BARE, ALERT])
@pytest.mark.parametrize("given", [BARE, ALERT, FULL])
def test_rows_under_a_partial_and_a_full_id_tell_nothing(partial: MessageId, given: MessageId) -> None:
    assert (
        meant_by(given, [replace(ROW, message_id=TWIN), ROW, replace(ROW, message_id=partial)])
        is Unreadable.CONTRADICTED
    )
    assert meant_by(partial, [replace(ROW, message_id=partial)]) == replace(ROW, message_id=partial)


POLICIES = [
    Policy(),
    Policy(dispositions=frozenset({"SPAM"})),
    Policy(dispositions=frozenset({"SPAM", "BULK", "MALICIOUS"})),
    Policy(max_age=timedelta(days=1)),
    Policy(recipient_domains=frozenset({"example.com"})),
]


@given(st.lists(details, min_size=1, max_size=4), st.sampled_from(POLICIES), st.booleans())
def test_a_merged_message_passes_only_where_each_of_its_rows_does(
    rows: list[Details], policy: Policy, override: bool
) -> None:
    message = merged(rows)
    if message is None:
        return
    verdict = judge(message, policy, NOON, is_bare=False, override=override)
    alone = [judge(row, policy, NOON, is_bare=False, override=override) for row in rows]
    if isinstance(verdict, Ended):
        assert any(isinstance(each, Ended) for each in alone)
        assert verdict.disposition == message.disposition
    else:
        assert all(isinstance(each, Guarded) for each in alone)
        assert (verdict is Guarded.PASSED) == all(each is Guarded.PASSED for each in alone)


def test_the_rule_names_the_disposition_that_it_refuses() -> None:
    message = merge(replace(ROW, disposition="SPAM"), replace(ROW, disposition="BULK"))
    verdict = judge(message, Policy(dispositions=frozenset({"SPAM"})), NOON, is_bare=False)
    assert isinstance(verdict, Ended)
    assert (verdict.code, verdict.disposition) == (Code.DISPOSITION_NOT_ALLOWED, "SPAM")
    assert "BULK" in verdict.detail
