"""Each member of a request against its rule, through the one door they all come by: as callers really send them."""

from datetime import datetime
from typing import Any

import pytest

from quarantine_release.api.problems import InvalidRequest
from quarantine_release.api.request_fields import IDS_LIMIT, parse_account_id, parse_message_id, parse_request_id
from tests.support.release_bodies import HEADER, NARROWED, id_number, invalid, parse
from tests.support.stand_ins import ACCOUNT, BARE, FULL, OTHER


@pytest.mark.parametrize(
    "content",
    [
        [BARE, OTHER],
        {"ids": [BARE, OTHER]},
        {"ids": f"{BARE},{OTHER}"},
        {"ids": f" {BARE} ,, {OTHER} , "},
        {"postfix_ids": [BARE, OTHER]},
        {"postfix_id": f"{BARE},{OTHER}"},
        {"id": [BARE, OTHER, BARE]},
        {"ids": [BARE, OTHER], "id": None, "postfix_id": ""},
    ],
)
def test_ids_are_read_however_a_soar_writes_them(content: Any) -> None:
    assert parse(content).ids == (BARE, OTHER)


@pytest.mark.parametrize(
    ("value", "force"), [(True, True), ("true", True), ("True", True), (False, False), ("FALSE", False), (None, False)]
)
def test_booleans_may_come_as_text(value: Any, force: bool) -> None:
    assert parse({"ids": BARE, "force": value, "reason": "r"}, {"idempotency-key": ("k",)}).force is force


@pytest.mark.parametrize("empty", [None, "", "  "])
def test_an_empty_text_is_no_text(empty: Any) -> None:
    assert parse({"ids": BARE, "reason": empty}).reason is None


def test_an_empty_account_is_the_default_account() -> None:
    assert parse({"ids": BARE, "account_id": ""}).account_id is None


def test_texts_may_be_as_long_as_promised() -> None:
    wanted = parse({"ids": BARE, "reason": "r" * 500, "ticket": "t" * 100, "requested_by": "b" * 200})
    assert wanted.reason == "r" * 500


def test_unknown_members_are_ignored_and_told() -> None:
    content = {"ids": BARE, "severity": "high", "alert": {"a": ["b"]}, "with space": 1, "x" * 65: 1, "n\n": 1}
    assert parse(content).warnings == (
        "Unknown member ignored: alert",
        "Unknown member ignored: severity",
        "Further unknown members ignored: 3",
    )


def test_at_most_20_unknown_members_are_named() -> None:
    warnings = parse({"ids": BARE, **{f"m{n:02}": n for n in range(30)}}).warnings
    assert len(warnings) == 21
    assert warnings[-1] == "Further unknown members ignored: 10"


@pytest.mark.parametrize(
    ("content", "code", "field"),
    [
        ([], "ids_missing", "ids"),
        ({}, "ids_missing", "ids"),
        ({"ids": None}, "ids_missing", "ids"),
        ({"ids": []}, "ids_missing", "ids"),
        ({"ids": " , "}, "ids_missing", "ids"),
        ({"postfix_id": ""}, "ids_missing", "ids"),
        ({"ids": BARE, "id": BARE}, "ids_ambiguous", "ids"),
        ({"ids": 5}, "invalid_id", "ids"),
        ({"ids": True}, "invalid_id", "ids"),
        ({"ids": {"id": BARE}}, "invalid_id", "ids"),
        ([[BARE]], "invalid_id", "ids"),
        ([BARE, None], "invalid_id", "ids"),
        ([BARE, 12345678901], "invalid_id", "ids"),
        ([BARE, ""], "invalid_id", "ids"),
        ([f" {BARE}"], "invalid_id", "ids"),
        ({"postfix_ids": ["a/../b/.."]}, "invalid_id", "postfix_ids"),
        ([f"{BARE}\n"], "invalid_id", "ids"),
        (["4Njp3P0STMz2c02\u00b2"], "invalid_id", "ids"),
        (["\ud8004Njp3P0STMz2c02Q"], "invalid_id", "ids"),
        (["a" * 9], "invalid_id", "ids"),
        (["a" * 26], "invalid_id", "ids"),
        ([f"{'a' * 9}-2024-01-05T10:00:00"], "invalid_id", "ids"),
        ({"id": f"{'a' * 26}-2024-01-05T10:00:00-12345678"}, "invalid_id", "id"),
        ([id_number(n) for n in range(IDS_LIMIT + 1)], "too_many_ids", "ids"),
        ({"ids": BARE, "account_id": "A" * 32}, "invalid_field", "account_id"),
        ({"ids": BARE, "account_id": 5}, "invalid_field", "account_id"),
        ({"ids": BARE, "reason": "r" * 501}, "field_too_long", "reason"),
        ({"ids": BARE, "ticket": "t" * 101}, "field_too_long", "ticket"),
        ({"ids": BARE, "requested_by": "b" * 201}, "field_too_long", "requested_by"),
        ({"ids": BARE, "reason": ["r"]}, "invalid_field", "reason"),
        ({"ids": BARE, "ticket": 1234}, "invalid_field", "ticket"),
        ({"ids": BARE, "reason": "two\nlines"}, "invalid_field", "reason"),
        ({"ids": BARE, "reason": "esc\x1b[0m"}, "invalid_field", "reason"),
        ({"ids": BARE, "reason": "\x7f"}, "invalid_field", "reason"),
        ({"ids": BARE, "reason": "\u2028"}, "invalid_field", "reason"),
        ({"ids": BARE, "reason": "\u2029"}, "invalid_field", "reason"),
        ({"ids": BARE, "reason": "\ud800"}, "invalid_field", "reason"),
        ({"ids": BARE, "force": "yes"}, "invalid_field", "force"),
        ({"ids": BARE, "force": 1}, "invalid_field", "force"),
        ({"ids": BARE, "fail_on": "always"}, "invalid_field", "fail_on"),
        ({"ids": BARE, "fail_on": ["none"]}, "invalid_field", "fail_on"),
    ],
)
def test_what_breaks_a_rule_is_told_by_code_and_field(content: Any, code: str, field: str) -> None:
    assert invalid(content) == (code, field)


RULES: list[tuple[Any, str]] = [
    (["short"], "Id 1 must be 8 to 128 of A-Z a-z 0-9 . _ : -."),
    ({"ids": f"{BARE}, short"}, "Id 2 must be 8 to 128 of A-Z a-z 0-9 . _ : -."),
    ([BARE, "<>"], "Id 2 is a Message-ID, which must be 1 to 250 printable ASCII characters, in < >."),
    (
        [BARE, OTHER, "4Njp3P0ST"],
        "Id 3 must have 10 to 24 letters and digits, alone or before its timestamp.",
    ),
    ({}, "ids must hold at least one id."),
    ([], "ids must hold at least one id."),
    ({"ids": 5}, "ids must be an array of strings, or one comma-separated string."),
    (
        {"ids": BARE, "id": BARE},
        "Only one of ids, postfix_ids, postfix_id, id, alert_ids, message_ids may be given, and these are: ids, id.",
    ),
    ({"ids": BARE, "account_id": 5}, "account_id must be 32 lower-case hexadecimal digits."),
    ({"ids": BARE, "reason": 5}, "reason must be a string."),
    ({"ids": BARE, "reason": "\n"}, "reason must not hold control characters."),
    ({"ids": BARE, "ticket": "t" * 101}, "ticket must have at most 100 characters."),
    ({"ids": BARE, "force": 1}, "force must be true or false."),
    ({"ids": BARE, "fail_on": 1}, "fail_on must be one of never, none, partial."),
    ({"ids": BARE, "sender": "a b"}, "sender must be an e-mail address or a domain."),
    ({"ids": BARE, "since": "now"}, "since must be an ISO 8601 time with its offset from UTC."),
    ({"ids": BARE, "expect_count": 0}, "expect_count must be a whole number from 1 to 999."),
]


@pytest.mark.parametrize(("content", "rule"), RULES)
def test_the_rule_that_was_broken_is_told_in_words(content: Any, rule: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse(content)
    assert refusal.value.detail == rule


@pytest.mark.parametrize(
    "given_id",
    ["", "rq_", "rq_" + "a" * 25, "rq_" + "a" * 27, "rq_" + "A" * 26, "rq_" + "1" * 26, "rq_" + "a" * 26 + "\n"],
)
def test_what_cannot_be_a_request_id_is_none(given_id: str) -> None:
    assert parse_request_id(given_id) is None


def test_an_id_in_a_path_is_refused_with_its_rule() -> None:
    assert parse_message_id(FULL) == FULL
    with pytest.raises(InvalidRequest, match=r"^invalid_id$") as refusal:
        parse_message_id("short")
    assert (refusal.value.field, refusal.value.detail) == ("id", RULES[0][1].replace("Id 1", "An id"))
    with pytest.raises(InvalidRequest, match=r"^invalid_id$") as refusal:
        parse_message_id("a" * 26)
    assert (refusal.value.field, refusal.value.detail) == ("id", RULES[3][1].replace("Id 3", "An id"))
    assert parse_account_id(ACCOUNT) == ACCOUNT


@pytest.mark.parametrize(
    ("content", "ids"),
    [
        ([HEADER], (HEADER,)),
        ({"ids": f"{HEADER}, {BARE} ,{OTHER}"}, (HEADER, BARE, OTHER)),
        ({"message_ids": [HEADER, "a@b"]}, (HEADER, "a@b")),
        (["<no-at-sign>"], ("<no-at-sign>",)),
        ([f"<{'a' * 250}>"], (f"<{'a' * 250}>",)),
    ],
)
def test_a_message_id_is_taken_as_it_is_given(content: Any, ids: tuple[str, ...]) -> None:
    assert parse(content).ids == ids


@pytest.mark.parametrize("given_id", ["<>", "<a b@c>", f"<{'a' * 251}>", "a@b>", "<a@b", "<a@b><c@d>", "ä@b", "a@b\n"])
def test_what_is_no_message_id_is_refused(given_id: str) -> None:
    assert invalid([given_id]) == ("invalid_id", "ids")
    assert invalid({"message_ids": [given_id]}) == ("invalid_id", "message_ids")


def test_what_narrows_nothing_down_is_told_to_be_without_effect() -> None:
    named = ("recipient", "sender", "since", "expect_count")
    told = tuple(f"Without effect, since no id is a Message-ID: {name}" for name in named)
    assert parse(NARROWED | {"ids": [BARE]}).warnings == told
    assert parse(NARROWED | {"ids": [BARE], "sender": None, "x": 1}).warnings == (
        "Unknown member ignored: x",
        *(line for line in told if "sender" not in line),
    )


@pytest.mark.parametrize("at", ["2000-01-01T00:00:00Z", "2100-01-01T00:00:00+00:00", "2026-W45-1T00:00Z"])
def test_since_may_be_any_time_of_this_century_in_any_spelling_of_iso_8601(at: str) -> None:
    assert parse({"ids": HEADER, "since": at}).narrowing.since == datetime.fromisoformat(at)


@pytest.mark.parametrize(("count", "read"), [(1, 1), ("1", 1), (999, 999), ("10", 10)])
def test_a_count_may_come_as_a_number_or_as_text(count: Any, read: int) -> None:
    assert parse({"ids": HEADER, "expect_count": count}).narrowing.expect_count == read


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("recipient", "a b@c.de"),
        ("recipient", "Ann <ann@example.com>"),
        ("recipient", "ann@"),
        ("recipient", ["ann@example.com"]),
        ("sender", 5),
        ("sender", ""),
        ("sender", "ä.example"),
        ("sender", "example.com\n"),
        ("since", "1999-12-31T23:59:59Z"),
        ("since", "2100-01-01T00:00:01Z"),
        ("since", "2026-11-01T00:00:00"),
        ("since", "\uff12\uff10\uff12\uff16-11-01T00:00:00Z"),
        ("since", 1),
        ("since", ""),
        ("expect_count", 0),
        ("expect_count", -1),
        ("expect_count", 1000),
        ("expect_count", 1.0),
        ("expect_count", "01"),
        ("expect_count", "\u0661"),
        ("expect_count", True),
        ("expect_count", [1]),
        ("override", 1),
        ("dry_run", "yes"),
        ("confirm", []),
    ],
)
def test_what_narrows_or_says_how_is_refused_if_it_is_not_what_it_should_be(member: str, value: Any) -> None:
    assert invalid({"ids": HEADER, member: value}) == ("invalid_field", member)
