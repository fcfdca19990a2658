"""How a Message-ID is searched for, and which of the entries found are the message asked for."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from quarantine_release.cloudflare.matching import matches, query_of
from quarantine_release.domain.details import Details, Unclear, Unreadable
from quarantine_release.domain.lookup import Question, choose
from tests.support.cloudflare_entries import AT, ENTRY, HEADER, asking, full_id, read
from tests.support.stand_ins import NOON


def test_a_question_is_searched_for_from_its_window_on() -> None:
    assert query_of(asking()) == {"message_id": HEADER, "start": "2026-10-23T12:00:00Z"}
    assert query_of(asking(recipient="example.com", sender="a@news.example", expect_count=2)) == {
        "message_id": HEADER,
        "start": "2026-10-23T12:00:00Z",
        "recipient": "example.com",
        "sender": "a@news.example",
    }


@pytest.mark.parametrize(
    ("since", "start"),
    [
        (NOON - timedelta(days=40), "2026-10-13T12:00:00Z"),
        (NOON - timedelta(days=1), "2026-11-21T12:00:00Z"),
        (datetime(2026, 11, 21, 14, tzinfo=timezone(timedelta(hours=2))), "2026-11-21T12:00:00Z"),
    ],
)
def test_a_search_begins_when_it_is_asked_to(since: datetime, start: str) -> None:
    assert query_of(asking(since=since))["start"] == start


# --- Which entries are the ones asked for ----------------------------------------------------------------------------


def is_fitting(question: Question, **members: Any) -> bool:
    return matches([ENTRY | members], question, NOON) == [read(**members)]


@pytest.mark.parametrize("told", [HEADER, HEADER.strip("<>"), f" {HEADER} "])
def test_an_entry_fits_with_and_without_brackets(told: str) -> None:
    assert is_fitting(asking(), message_id=told)


@pytest.mark.parametrize("told", ["<another@news.example>", HEADER.upper(), f"{HEADER}x", "", None, 7, [HEADER]])
def test_an_entry_that_tells_another_message_id_or_none_fits_nothing(told: Any) -> None:
    """A server that knows no such parameter lists everything, and much spam has no Message-ID."""
    assert not is_fitting(asking(), message_id=told)


@pytest.mark.parametrize(("told", "expected"), [("<another@news.example>", [read()]), (HEADER, Unreadable.FAILED)])
def test_an_entry_without_an_id_counts_only_if_it_is_a_match(told: str, expected: Any) -> None:
    nameless = ENTRY | {"id": None, "postfix_id": None, "message_id": told}
    assert matches([nameless, ENTRY], asking(), NOON) == expected


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("ann@example.com", True),
        ("ANN@Example.com", True),
        ("example.com", True),
        ("bob@example.com", True),
        ("sub.example.com", False),
        ("com", False),
        ("nn@example.com", False),
        ("xample.com", False),
        ("list@example.com", True),
        ("tom@example.com", False),
    ],
)
def test_an_entry_fits_whose_recipients_hold_the_one_wanted(wanted: str, expected: bool) -> None:
    question = asking(recipient=wanted)
    assert is_fitting(question, client_recipients=["Ann <ann@EXAMPLE.com>", "<bob@example.com>"]) is expected
    assert not is_fitting(question, client_recipients=[], envelope_to=None)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("news@news.example", True),
        ("NEWS.example", True),
        ("bounce-17@mailer.example", True),
        ("mailer.example", True),
        ("eve@news.example", False),
        ("example", False),
    ],
)
def test_an_entry_fits_whose_sender_by_header_or_envelope_is_the_one_wanted(wanted: str, expected: bool) -> None:
    assert is_fitting(asking(sender=wanted)) is expected
    assert not is_fitting(asking(sender=wanted), **{"from": None, "envelope_from": 7})


@pytest.mark.parametrize(
    ("seconds", "expected"), [(timedelta(seconds=-1), False), (timedelta(), True), (timedelta(seconds=1), True)]
)
def test_an_entry_fits_that_was_scanned_since(seconds: timedelta, expected: bool) -> None:
    since = datetime(2026, 11, 22, 9, 0, 7, tzinfo=UTC)
    assert is_fitting(asking(since=since), scanned_at=(since + seconds).isoformat()) is expected


def test_of_an_entry_that_tells_no_time_cloudflare_is_believed_that_it_is_recent() -> None:
    assert is_fitting(asking(since=NOON), id="another.shape-1", scanned_at=None, ts=None)


# --- Several rows about one message ----------------------------------------------------------------------------------

OTHER = {**ENTRY, "client_recipients": ["bob@other.example"], "envelope_to": []}


def found_in(*entries: dict[str, Any], **narrowing: Any) -> list[Details]:
    told = matches(entries, asking(**narrowing), NOON)
    assert isinstance(told, list)
    return told


def test_rows_about_one_message_are_one_match_with_all_recipients() -> None:
    (one,) = found_in(ENTRY, OTHER)
    assert one.recipients == ("ann@example.com", "list@example.com", "bob@other.example")
    assert isinstance(choose([one], 1), Details)


@pytest.mark.parametrize("wanted", ["example.com", "other.example"])
def test_a_row_for_another_recipient_than_the_one_asked_for_counts_too(wanted: str) -> None:
    (one,) = found_in(ENTRY, {**OTHER, "final_disposition": "MALICIOUS"}, recipient=wanted)
    assert (one.disposition, len(one.recipients)) == ("MALICIOUS", 3)


def test_a_row_without_a_message_id_counts_with_those_that_have_it() -> None:
    (one,) = found_in(ENTRY, OTHER | {"message_id": None, "final_disposition": "SPOOF"})
    assert one.disposition == "SPOOF"


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ({"is_quarantined": False}, Unreadable.CONTRADICTED),
        ({"message_id": "<another@news.example>"}, Unreadable.CONTRADICTED),
        ({"is_quarantined": None}, Unreadable.FAILED),
        ({"is_quarantined": None, "message_id": None}, Unreadable.FAILED),
    ],
)
@pytest.mark.parametrize("is_first", [False, True])
def test_a_match_whose_rows_contradict_each_other_makes_the_search_tell_nothing(
    members: dict[str, Any], why: Unreadable, is_first: bool
) -> None:
    rows = [ENTRY, OTHER | members]
    assert matches(rows[::-1] if is_first else rows, asking(), NOON) == Unclear((full_id(AT),), why)


@pytest.mark.parametrize(
    ("narrowing", "fit"), [({}, True), ({"recipient": "bob@other.example"}, True), ({"sender": "x@y"}, False)]
)
def test_an_unclear_match_is_what_was_asked_for_if_one_of_its_rows_fits(narrowing: dict[str, Any], fit: bool) -> None:
    told = matches([ENTRY, OTHER | {"is_quarantined": False}], asking(**narrowing), NOON)
    assert isinstance(told, Unclear)
    assert told.only == (full_id(AT) if fit else None)


def test_every_match_of_a_search_is_told_of_though_one_is_unclear() -> None:
    other, third = full_id(AT - timedelta(hours=1)), full_id(AT - timedelta(hours=2))
    rows = [ENTRY, OTHER | {"is_quarantined": None}, ENTRY | {"id": other}, ENTRY | {"id": third, "is_quarantined": 1}]
    told = matches(rows, asking(), NOON)
    assert isinstance(told, Unclear)
    assert (set(told.unread), [each.message_id for each in told.clear]) == ({full_id(AT), third}, [other])
