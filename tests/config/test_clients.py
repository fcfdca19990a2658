"""The clients secret: what is wrong with an entry disables that client, and the value is never named."""

import json
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarantine_release.config.clients import Client, Clients, Scope, Token, parse_clients
from quarantine_release.config.secret import SecretMalformed
from quarantine_release.domain.ids import AccountId
from quarantine_release.domain.policy import DISPOSITIONS, Policy

DIGEST = sha256(b"one").hexdigest()
ANOTHER = sha256(b"two").hexdigest()
CANARY = "canary"
SECRET = f"whsec_{b64encode(b'k' * 24).decode()}"


def entry(**members: Any) -> dict[str, Any]:
    """Return a valid entry with some members changed."""
    return {"name": "soar", "tokens": [{"sha256": DIGEST}], "scopes": ["release"]} | members


def parse(*entries: Any) -> Clients:
    return parse_clients(json.dumps({"clients": list(entries)}))


def test_an_entry_with_every_member_is_a_client() -> None:
    tokens = [{"sha256": DIGEST}, {"sha256": ANOTHER, "expires_at": "2027-01-01T00:00:00Z"}]
    found = parse(entry(tokens=tokens, scopes=["release", "read", "read:all", "force"], accounts=["a" * 32], max_ids=5))
    assert found == Clients(
        (
            Client(
                "soar",
                (Token(bytes.fromhex(DIGEST)), Token(bytes.fromhex(ANOTHER), datetime(2027, 1, 1, tzinfo=UTC))),
                frozenset({Scope.RELEASE, Scope.READ, Scope.READ_ALL, Scope.FORCE}),
                frozenset({AccountId("a" * 32)}),
                5,
            ),
        ),
        {},
    )


def test_what_is_not_given_is_not_limited_and_what_is_not_known_is_ignored() -> None:
    ignored = {"note": "ours", "contact": "ann", "comment": "limits: none"}
    found = parse(entry(**ignored, require_signature=False, tokens=[{"sha256": DIGEST, "n": 1, "note": "ann"}]))
    assert found.clients == (Client("soar", (Token(bytes.fromhex(DIGEST)),), frozenset({Scope.RELEASE})),)
    assert found.problems == {}


@pytest.mark.parametrize(
    ("members", "is_disabled"), [({}, False), ({"disabled": False}, False), ({"disabled": True}, True)]
)
def test_a_client_can_be_disabled(members: dict[str, Any], is_disabled: bool) -> None:
    assert [one.is_disabled for one in parse(entry(**members)).clients] == [is_disabled]


@pytest.mark.parametrize("value", [None, "true", "false", 0, 1, [], {}])
def test_a_client_is_disabled_by_true_alone_and_whatever_else_makes_its_entry_invalid(value: Any) -> None:
    found = parse(entry(disabled=value))
    assert (found.clients, found.problems) == ((), {"soar": "disabled: must be true or false"})


def test_a_client_may_sign_with_either_of_two_secrets_and_may_have_to() -> None:
    longest = f"whsec_{b64encode(b'l' * 64).decode()}"
    client = parse(entry(signing_secrets=[SECRET, longest], require_signature=True)).clients[0]
    assert client.signing_keys == (b"k" * 24, b"l" * 64)
    assert client.requires_signature
    assert "kkkk" not in repr(client)


def test_a_client_may_have_a_policy_of_its_own() -> None:
    policy = {"dispositions": ["SPAM"], "max_age_days": 7, "recipient_domains": ["Example.com"], "strict": True}
    expected = Policy(frozenset({"SPAM"}), timedelta(days=7), frozenset({"example.com"}), is_strict=True)
    assert [client.policy for client in parse(entry(policy=policy)).clients] == [expected]
    assert [client.policy for client in parse(entry(policy=None)).clients] == [None]
    assert [client.policy for client in parse(entry(policy={})).clients] == [Policy()]


def test_no_clients_yet_is_not_a_fault() -> None:
    assert parse() == Clients((), {})


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("{}", "is empty: it was never set"),
        ("[]", "clients: must be a list"),
        ("null", "clients: must be a list"),
        ('{"client": []}', "clients: must be a list"),
        ('{"clients": {}}', "clients: must be a list"),
    ],
)
def test_a_document_that_cannot_be_read_is_told_with_its_rule(document: str, problem: str) -> None:
    with pytest.raises(SecretMalformed) as malformed:
        parse_clients(document)
    assert str(malformed.value) == problem


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ({"tokens": None}, "tokens: must be a list with at least one entry"),
        ({"tokens": []}, "tokens: must be a list with at least one entry"),
        ({"tokens": {"sha256": DIGEST}}, "tokens: must be a list with at least one entry"),
        ({"tokens": [CANARY]}, "tokens: sha256 must be 64 lower-case hexadecimal digits"),
        ({"tokens": [{}]}, "tokens: sha256 must be 64 lower-case hexadecimal digits"),
        ({"tokens": [{"sha256": DIGEST.upper()}]}, "tokens: sha256 must be 64 lower-case hexadecimal digits"),
        ({"tokens": [{"sha256": f"{DIGEST}\n"}]}, "tokens: sha256 must be 64 lower-case hexadecimal digits"),
        ({"tokens": [{"sha256": 5}]}, "tokens: sha256 must be 64 lower-case hexadecimal digits"),
        (
            {"tokens": [{"sha256": DIGEST, "expires_at": CANARY}]},
            "tokens: expires_at must be an ISO 8601 time with its offset from UTC",
        ),
        (
            {"tokens": [{"sha256": DIGEST, "expires_at": "2027-01-01T00:00:00"}]},
            "tokens: expires_at must be an ISO 8601 time with its offset from UTC",
        ),
        (
            {"tokens": [{"sha256": DIGEST, "expires_at": 1798761600}]},
            "tokens: expires_at must be an ISO 8601 time with its offset from UTC",
        ),
        ({"scopes": []}, "scopes: must be a list with at least one entry"),
        ({"scopes": "release"}, "scopes: must be a list with at least one entry"),
        ({"scopes": [CANARY]}, "scopes: must be of release, read, read:all, force, override"),
        ({"scopes": [["release"]]}, "scopes: must be of release, read, read:all, force, override"),
        ({"accounts": None}, "accounts: must be a list with at least one entry"),
        ({"accounts": [CANARY]}, "accounts: must be 32 lower-case hexadecimal digits each"),
        ({"accounts": ["A" * 32]}, "accounts: must be 32 lower-case hexadecimal digits each"),
        ({"accounts": [5]}, "accounts: must be 32 lower-case hexadecimal digits each"),
        ({"max_ids": 0}, "max_ids: must be a whole number of at least 1"),
        ({"max_ids": True}, "max_ids: must be a whole number of at least 1"),
        ({"max_ids": "5"}, "max_ids: must be a whole number of at least 1"),
        ({"policy": []}, "policy: must be an object"),
        ({"policy": CANARY}, "policy: must be an object"),
        ({"policy": {"dispositions": [CANARY]}}, f"policy: dispositions must be of {', '.join(sorted(DISPOSITIONS))}"),
        ({"policy": {"max_age_days": 0}}, "policy: max_age_days must be a whole number from 1 to 365"),
        (
            {"policy": {CANARY: True}},
            "policy: may hold dispositions, max_age_days, recipient_domains and strict, and nothing else",
        ),
        ({"require_signature": True}, "require_signature: needs signing_secrets"),
        ({"require_signature": "true", "signing_secrets": [SECRET]}, "require_signature: must be true or false"),
        ({"require_signature": None}, "require_signature: must be true or false"),
        ({"signing_secrets": None}, "signing_secrets: must be a list with at least one entry"),
        ({"signing_secrets": []}, "signing_secrets: must be a list with at least one entry"),
        ({"signing_secrets": SECRET}, "signing_secrets: must be a list with at least one entry"),
        ({"signing_secrets": [SECRET] * 3}, "signing_secrets: must be at most 2"),
        *(
            ({"signing_secrets": [wrong]}, "signing_secrets: must be whsec_ and base64 of 24 to 64 bytes each")
            for wrong in (
                CANARY,
                None,
                5,
                SECRET.removeprefix("whsec_"),
                SECRET.upper(),
                SECRET[:-1],
                f"{SECRET}\n",
                f"whsec_{b64encode(b'k' * 23).decode()}",
                f"whsec_{b64encode(b'k' * 65).decode()}",
                "whsec_ü",
            )
        ),
    ],
)
def test_an_invalid_entry_disables_that_client_alone(members: dict[str, Any], problem: str) -> None:
    found = parse(entry(**members), entry(name="other", tokens=[{"sha256": ANOTHER}]))
    assert [client.name for client in found.clients] == ["other"]
    assert found.problems == {"soar": problem}


@pytest.mark.parametrize(
    ("member", "meant"),
    [
        ("account", "accounts"),
        ("Accounts", "accounts"),
        ("account_id", "accounts"),
        ("accountId", "accounts"),
        ("max_id", "max_ids"),
        ("allowed_accounts", "accounts"),
        ("is_disabled", "disabled"),
        ("isEnabled", "disabled"),
        ("default_max_ids", "max_ids"),
        ("recipientDomainsAllowed", "recipient_domains of policy"),
        ("max-ids", "max_ids"),
        ("scope", "scopes"),
        ("token", "tokens"),
        ("signing_secret", "signing_secrets"),
        ("require_signatures", "require_signature"),
        ("polices", "policy"),
        ("expires_at", "expires_at of a token"),
        ("enabled", "disabled"),
        ("Disable", "disabled"),
        ("recipient_domain", "recipient_domains of policy"),
    ],
)
def test_a_member_that_resembles_a_known_one_disables_that_client_alone(member: str, meant: str) -> None:
    found = parse(entry(**{member: ["canary"]}), entry(name="other", tokens=[{"sha256": ANOTHER}]))
    assert [client.name for client in found.clients] == ["other"]
    assert found.problems == {"soar": f"{member}: is not known; {meant} was probably meant"}


@pytest.mark.parametrize("member", ["expire_at", "expiresAt", "expires", "expiry", "Expires_At"])
def test_a_misspelt_end_of_a_token_disables_the_client_instead_of_lasting_for_ever(member: str) -> None:
    found = parse(entry(tokens=[{"sha256": DIGEST, member: "2020-01-01T00:00:00Z"}]))
    assert found.problems == {"soar": f"tokens: {member}: is not known; expires_at was probably meant"}


def test_a_misspelt_name_that_cannot_be_shown_is_told_by_the_one_that_was_meant() -> None:
    found = parse(entry(**{"max_ids\n": 5}))
    assert found.problems == {"soar": "a misspelt member: is not known; max_ids was probably meant"}


@pytest.mark.parametrize("name", [None, 5, "", "-soar", "so ar", "soar\n", "s" * 65, "sö", "a/b"])
def test_an_entry_whose_name_cannot_be_said_is_told_by_its_place(name: Any) -> None:
    found = parse(entry(), entry(name=name))
    assert [client.name for client in found.clients] == ["soar"]
    assert found.problems == {
        "clients[1]": "name: must be 1 to 64 of A-Z a-z 0-9 . _ -, beginning with one of A-Z a-z 0-9"
    }


def test_an_entry_that_is_no_object_is_told_by_its_place() -> None:
    assert list(parse(CANARY).problems) == ["clients[0]"]


def test_a_name_belongs_to_the_first_who_has_it_even_if_that_entry_is_invalid() -> None:
    again = entry(tokens=[{"sha256": ANOTHER}])
    assert parse(entry(), again).problems == {"clients[1]": "name: another client has it"}
    assert parse(entry(scopes=[]), again).clients == ()


def test_a_token_belongs_to_the_first_who_has_it() -> None:
    found = parse(entry(), entry(name="thief"))
    assert [client.name for client in found.clients] == ["soar"]
    assert found.problems == {"thief": "tokens: another client has one of them"}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(DIGEST) | st.just("soar"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
entries = st.fixed_dictionaries(
    {"name": st.just("soar") | json_values, "tokens": json_values, "scopes": st.just(["read"]) | json_values},
    optional={
        "accounts": json_values,
        "max_ids": json_values,
        "require_signature": json_values,
        "policy": json_values
        | st.dictionaries(st.sampled_from(["dispositions", "max_age_days", "strict"]), json_values),
    },
)


@given(
    st.text(max_size=40)
    | json_values.map(json.dumps)
    | st.lists(entries, max_size=3).map(lambda e: json.dumps({"clients": e}))
)
def test_any_document_is_clients_or_malformed(document: str) -> None:
    try:
        found = parse_clients(document)
    except SecretMalformed:
        return
    assert all(client.tokens and client.scopes for client in found.clients)


@given(
    st.text("xyzXYZ#+*", min_size=4, max_size=12),
    st.sampled_from(["name", "tokens", "scopes", "accounts", "max_ids", "policy"]),
)
def test_what_is_wrong_is_told_without_the_value(value: str, member: str) -> None:
    for wrong in (
        value,
        [value],
        [{"sha256": value}],
        [{"sha256": DIGEST, "expires_at": value}],
        {value: value},
        {"dispositions": [value]},
    ):
        found = parse(entry(**{member: wrong}))
        said = " ".join(f"{name} {problem}" for name, problem in found.problems.items())
        assert value not in said
