"""Misspelt names: each kind of slip is recognized, and names that mean something else are left alone."""

import time

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from quarantine_release.domain.resemblance import check_names, holds, resembles

CLIENT = ("name", "tokens", "scopes", "accounts", "max_ids", "signing_secrets", "require_signature", "policy")
BODY = ("ids", "id", "alert_ids", "account_id", "reason", "ticket", "force", "fail_on", "dry_run", "since", "recipient")
EVERY = tuple(dict.fromkeys((*CLIENT, *BODY)))
known_names = st.sampled_from(EVERY)
long_names = st.sampled_from([name for name in EVERY if len(name) >= 4])


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("account", "accounts"),
        ("Accounts", "accounts"),
        ("acounts", "accounts"),
        ("accuonts", "accounts"),
        ("max_id", "max_ids"),
        ("max-ids", "max_ids"),
        ("maxIds", "max_ids"),
        ("MAX_IDS", "max_ids"),
        ("scope", "scopes"),
        ("token", "tokens"),
        ("signing_secret", "signing_secrets"),
        ("polices", "policy"),
        ("policies", "policy"),
        ("Policy", "policy"),
        ("require_signatures", "require_signature"),
    ],
)
def test_a_misspelt_member_of_a_client_names_the_one_that_was_meant(name: str, meant: str) -> None:
    assert resembles(name, CLIENT) == meant


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("dryRun", "dry_run"),
        ("dry-run", "dry_run"),
        ("dry run", "dry_run"),
        ("alert_id", "alert_ids"),
        ("IDs", "ids"),
        ("Id", "id"),
        ("forc", "force"),
        ("accountId", "account_id"),
    ],
)
def test_a_misspelt_member_of_a_body_names_the_one_that_was_meant(name: str, meant: str) -> None:
    assert resembles(name, BODY) == meant


@pytest.mark.parametrize(
    "name", ["note", "comment", "owner", "contact", "description", "uid", "pid", "is", "", "s", "ü"]
)
def test_a_name_that_means_something_else_resembles_none(name: str) -> None:
    assert resembles(name, EVERY) is None


LIMITS = ("scopes", "accounts", "max_ids", "policy", "disabled", "expires_at")


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("allowed_accounts", "accounts"),
        ("allowedAccounts", "accounts"),
        ("only-account", "accounts"),
        ("AccountList", "accounts"),
        ("is_disabled", "disabled"),
        ("isDisabled", "disabled"),
        ("release_policy", "policy"),
        ("default policies", "policy"),
        ("maxIDs_inline", "max_ids"),
        ("the_max_id", "max_ids"),
        ("token.expires.at", "expires_at"),
    ],
)
def test_a_name_that_holds_the_name_of_a_limit_may_be_meant_for_it(name: str, limit: str) -> None:
    assert resembles(name, LIMITS) is None
    assert holds(name, LIMITS) == limit


@pytest.mark.parametrize("name", ["accountant", "accounting_note", "max", "ids_note", "undisabled", "", "_", "ü", "at"])
def test_a_name_that_holds_a_limit_only_as_part_of_a_word_is_left_alone(name: str) -> None:
    assert holds(name, LIMITS) is None


def test_a_long_name_costs_little() -> None:
    started = time.perf_counter()
    assert holds("a_" * 5_000, LIMITS) is None
    assert time.perf_counter() - started < 2


@given(known_names)
def test_a_known_name_resembles_none(name: str) -> None:
    assert resembles(name, EVERY) is None


@given(known_names, st.data())
def test_case_and_separators_do_not_hide_a_name(name: str, data: st.DataObject) -> None:
    letters = [data.draw(st.sampled_from([each.lower(), each.upper()])) for each in name if each != "_"]
    written = "".join(data.draw(st.sampled_from(["", "-", "_", "__"])) + letter for letter in letters)
    assume(written not in EVERY)
    assert resembles(written, EVERY) == name


# A letter such as `ß` is two in another case.
single_letters = st.characters().filter(lambda letter: len(letter.casefold()) == 1)


@given(long_names, st.integers(0, 20), single_letters, st.sampled_from(["insert", "drop", "replace", "swap"]))
def test_one_edit_does_not_hide_a_name(name: str, position: int, other: str, edit: str) -> None:
    at = position % len(name)
    changed = {
        "insert": name[:at] + other + name[at:],
        "drop": name[:at] + name[at + 1 :],
        "replace": name[:at] + other + name[at + 1 :],
        "swap": name[:at] + name[at : at + 2][::-1] + name[at + 2 :],
    }[edit]
    assume(changed not in EVERY)
    assert resembles(changed, EVERY) is not None
    assert resembles(changed, (name,)) == name


@given(st.text(max_size=40), st.lists(st.text(max_size=12), max_size=5).map(tuple))
def test_the_answer_is_a_known_name_or_none(name: str, known: tuple[str, ...]) -> None:
    assert resembles(name, known) in (None, *known)


@given(st.text("ab", min_size=4, max_size=7), st.text("ab", min_size=4, max_size=7))
def test_only_names_one_edit_apart_resemble_each_other(one: str, other: str) -> None:
    """Letters without `s`, so that number plays no part."""
    assert (resembles(one, (other,)) == other) == (one != other and other in _edits(one, "ab"))


def _edits(name: str, alphabet: str) -> set[str]:
    splits = [(name[:at], name[at:]) for at in range(len(name) + 1)]
    dropped = {head + tail[1:] for head, tail in splits if tail}
    swapped = {head + tail[1] + tail[0] + tail[2:] for head, tail in splits if len(tail) > 1}
    replaced = {head + letter + tail[1:] for head, tail in splits if tail for letter in alphabet}
    inserted = {head + letter + tail for head, tail in splits for letter in alphabet}
    return dropped | swapped | replaced | inserted


def test_names_mistaken_for_others_are_refused_like_those_that_resemble_them() -> None:
    check_names(["ids", "note"], BODY, {"dispositions": "policy"})
    with pytest.raises(ValueError, match=r"^tokens: Disposition: is not known; policy was probably meant$"):
        check_names(["ids", "Disposition"], BODY, {"dispositions": "policy"}, "tokens: ")
    with pytest.raises(ValueError, match=r"^forc: is not known; force was probably meant$"):
        check_names(["forc", "note"], BODY)


@pytest.mark.measured
def test_thousands_of_names_and_huge_ones_cost_little() -> None:
    names = [f"{number:x}" for number in range(8000)] + ["x" * 60_000, "_" * 60_000, "s" * 60_000]
    resembles("x", EVERY)
    began = time.process_time()
    assert not [name for name in names if resembles(name, EVERY)]
    assert time.process_time() - began < 0.5
