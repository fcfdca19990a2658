"""What one entry of the search tells of a message before its release."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarantine_release.cloudflare.entries import RELEASE, parse_details
from quarantine_release.cloudflare.matching import matches
from quarantine_release.domain.details import Details
from tests.support.cloudflare_entries import AT, ENTRY, HEADER, anything, asking, full_id, lacking, read
from tests.support.stand_ins import BARE, FULL, NOON


def test_an_entry_tells_what_the_guard_wants_to_know() -> None:
    assert read() == Details(
        full_id(AT),
        is_quarantined=True,
        disposition="SPAM",
        delivery_mode="DIRECT",
        at=datetime(2026, 11, 22, 8, tzinfo=UTC),
        recipients=("ann@example.com", "list@example.com"),
        sender="News <news@news.example>",
        subject="Your order",
        is_released=False,
        header="20261122.1200@news.example",
    )


def test_an_entry_that_tells_only_an_id_and_where_it_is_tells_nothing_else_but_the_time_in_it() -> None:
    held = {"is_quarantined": True}
    assert parse_details({"id": full_id(AT)} | held, NOON) == Details(full_id(AT), is_quarantined=True, at=AT)
    long_ago = datetime(2024, 1, 5, 10, tzinfo=UTC)
    assert parse_details({"postfix_id": FULL} | held, NOON) == Details(FULL, is_quarantined=True, at=long_ago)
    nulls: dict[str, Any] = dict.fromkeys(ENTRY) | {"postfix_id": BARE, "is_quarantined": False}
    assert parse_details(nulls, NOON) == Details(BARE, is_quarantined=False)


@pytest.mark.parametrize("entry", [{}, {"id": None}, {"id": 7, "postfix_id": "x"}, {"id": "a/../b", "subject": "s"}])
def test_an_entry_without_an_id_is_none(entry: dict[str, Any]) -> None:
    assert parse_details(entry, NOON) is None


@pytest.mark.parametrize("value", ["true", 1, None, [True], {}])
def test_an_entry_that_does_not_tell_whether_it_is_held_is_none(value: Any) -> None:
    """Else an answer to something else would be taken for mail that was delivered."""
    assert parse_details(ENTRY | {"is_quarantined": value}, NOON) is None
    assert not read(is_quarantined=False).is_quarantined


@pytest.mark.parametrize("value", [None, 7, True, "", [], ["SPAM"], {"SPAM": 1}])
def test_what_is_no_text_tells_nothing(value: Any) -> None:
    assert read(final_disposition=value).disposition is None
    assert read(delivery_mode=value).delivery_mode is None
    assert read(subject=value).subject is None
    assert read(**{"from": value}).sender == "bounce-17@mailer.example"
    assert read(**{"from": value, "envelope_from": value}).sender is None


@pytest.mark.parametrize("value", ["ann@example.com", {"ann@example.com": 1}, 7, [7], ["ann@example.com", None]])
def test_recipients_that_are_no_list_of_texts_are_unknown_and_none_of_them_is_left_out(value: Any) -> None:
    assert read(client_recipients=value).recipients == ()
    assert read(envelope_to=value).recipients == ()


@pytest.mark.parametrize("value", [None, []])
def test_recipients_of_header_and_envelope_are_all_whom_it_is_for(value: Any) -> None:
    assert read(client_recipients=value).recipients == ("list@example.com",)
    assert read(envelope_to=value).recipients == ("ann@example.com",)
    assert read(client_recipients=value, envelope_to=value).recipients == ()
    both = ["ann@example.com", "bob@example.com"]
    assert read(client_recipients=both, envelope_to=both[::-1]).recipients == tuple(both)


@pytest.mark.parametrize(
    ("value", "at"),
    [
        ("2026-11-22T07:00:07", datetime(2026, 11, 22, 7, 0, 7, tzinfo=UTC)),
        ("2026-11-22T08:00:07.5+01:00", datetime(2026, 11, 22, 7, 0, 7, 500_000, tzinfo=UTC)),
    ],
)
def test_a_time_without_an_offset_is_utc(value: str, at: datetime) -> None:
    assert read(scanned_at=value).at == at
    assert read(scanned_at=None, ts=value).at == at


def test_mail_that_was_scanned_again_is_as_old_as_its_oldest_time() -> None:
    again = {"scanned_at": "2026-11-22T11:00:00Z", "ts": None}
    assert read(**again).at == AT
    assert read(**again, id=FULL).at == datetime(2024, 1, 5, 10, tzinfo=UTC)


@pytest.mark.parametrize("value", [None, "", "yesterday", "2026-02-30T00:00:00Z", 20261122, 1795348807, True, [], {}])
def test_what_is_no_time_is_looked_for_elsewhere(value: Any) -> None:
    assert read(scanned_at=value).at == datetime(2026, 11, 22, 8, tzinfo=UTC)
    assert read(scanned_at=value, ts=value).at == AT
    assert read(scanned_at=value, ts=value, id="another.shape-1").at is None
    assert lacking("scanned_at", "ts").at == AT


@pytest.mark.parametrize(
    ("value", "is_released"),
    [
        ([RELEASE], True),
        (["MOVE", RELEASE], True),
        (["MOVE"], False),
        ([], False),
        (None, False),
        (RELEASE, False),
        ([[RELEASE]], False),
        ({RELEASE: True}, False),
    ],
)
def test_only_the_documented_operation_in_a_list_is_a_release(value: Any, is_released: bool) -> None:
    assert read(post_delivery_operations=value, is_quarantined=False).is_released is is_released


@pytest.mark.parametrize(
    ("members", "is_doubtful"),
    [
        ({}, False),
        ({"post_delivery_operations": ["MOVE"]}, False),
        ({"post_delivery_operations": [RELEASE]}, True),
        ({"post_delivery_operations": "quarantineRelease"}, True),
        ({"properties": {"whitelisted_pattern_type": "quarantine_release"}}, True),
        ({"delivery_status": ["delivered"]}, True),
    ],
)
def test_a_held_message_that_may_be_released_is_doubtful_and_not_released(
    members: dict[str, Any], is_doubtful: bool
) -> None:
    held, gone = read(**members), read(**members, is_quarantined=False)
    assert (held.is_quarantined, held.is_doubtful, held.is_released) == (True, is_doubtful, False)
    assert not gone.is_doubtful


def test_of_what_has_no_end_so_much_is_kept_that_it_can_be_written_and_told() -> None:
    long = read(subject="s" * 100_000, final_disposition="SPAM" * 100_000, **{"from": "f" * 100_000})
    assert [len(text or "") for text in (long.subject, long.sender, long.disposition)] == [998, 998, 40]


@given(st.dictionaries(st.sampled_from(sorted(ENTRY)), anything))
def test_whatever_an_entry_holds_nothing_is_raised(members: dict[str, Any]) -> None:
    entry = ENTRY | members
    details = parse_details(entry, NOON)
    if details is not None:
        assert details.is_quarantined is (entry["is_quarantined"] is True)
        told = entry["final_disposition"]
        assert details.disposition in (told[:40] if isinstance(told, str) else None, None)
        assert matches([entry], asking(), NOON) == ([details] if entry["message_id"] == HEADER else [])
        matches([entry], asking(recipient="example.com", sender="news.example", since=AT), NOON)
