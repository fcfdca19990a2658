"""The cloudflare secret: one credential for each account, one form for each credential, and no value in a complaint."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarantine_release.config.accounts import Credential, parse_accounts
from quarantine_release.config.secret import SecretMalformed
from quarantine_release.domain.ids import AccountId

FIRST, SECOND = AccountId("a" * 32), AccountId("b" * 32)
TOKEN = {"account_id": FIRST, "api_token": "token-canary"}
KEY = {"account_id": SECOND, "api_email": "ann@example.com", "api_key": "key-canary"}


def test_a_token_is_sent_as_bearer_and_nothing_else() -> None:
    accounts = parse_accounts(json.dumps(TOKEN))
    assert accounts.default == FIRST
    assert accounts.credentials == {FIRST: Credential(FIRST, {"Authorization": "Bearer token-canary"})}
    assert accounts.credentials[FIRST].is_token


def test_a_global_key_is_sent_with_its_e_mail_address_and_nothing_else() -> None:
    accounts = parse_accounts(json.dumps(KEY))
    headers = {"X-Auth-Email": "ann@example.com", "X-Auth-Key": "key-canary"}
    assert accounts.credentials == {SECOND: Credential(SECOND, headers)}
    assert not accounts.credentials[SECOND].is_token


def test_the_first_of_several_accounts_is_the_default() -> None:
    accounts = parse_accounts(json.dumps({"accounts": [KEY, TOKEN]}))
    assert accounts.default == SECOND
    assert accounts.credentials.keys() == {FIRST, SECOND}


def test_unknown_members_and_empty_ones_are_ignored() -> None:
    document = json.dumps({**TOKEN, "note": "ours", "api_email": "", "api_key": None})
    assert parse_accounts(document) == parse_accounts(json.dumps(TOKEN))


def test_a_credential_does_not_show_what_it_holds() -> None:
    assert "canary" not in repr(parse_accounts(json.dumps(TOKEN)))


ONE_OF = "needs either api_token, or api_email and api_key, and not both"
PRINTABLE = "must be 1 to 1024 printable ASCII characters without spaces"
ID = "account_id: must be 32 lower-case hexadecimal digits"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([], "is not a JSON object"),
        (None, "is not a JSON object"),
        ({}, "is empty: it was never set"),
        ({"accounts": []}, "accounts: must be a list with at least one account"),
        ({"accounts": TOKEN}, "accounts: must be a list with at least one account"),
        ({"accounts": [TOKEN, "canary"]}, "accounts[1]: must be an object"),
        ({"accounts": [TOKEN, {**KEY, "account_id": "canary"}]}, f"accounts[1]: {ID}"),
        ({"accounts": [TOKEN, TOKEN]}, "accounts: an account_id stands there twice"),
        ({"api_token": "canary"}, ID),
        ({**TOKEN, "account_id": "A" * 32}, ID),
        ({**TOKEN, "account_id": f"{FIRST}\n"}, ID),
        ({**TOKEN, "account_id": 5}, ID),
        ({"account_id": FIRST}, ONE_OF),
        ({**KEY, **TOKEN}, ONE_OF),
        ({**TOKEN, "api_email": "canary@example.com"}, ONE_OF),
        ({"account_id": FIRST, "api_key": "canary"}, ONE_OF),
        ({"account_id": FIRST, "api_email": "canary@example.com"}, ONE_OF),
        ({**TOKEN, "api_token": "can ary"}, f"api_token: {PRINTABLE}"),
        ({**TOKEN, "api_token": "canary\r\nX-Other: 1"}, f"api_token: {PRINTABLE}"),
        ({**TOKEN, "api_token": "canäry"}, f"api_token: {PRINTABLE}"),
        ({**TOKEN, "api_token": "c" * 1025}, f"api_token: {PRINTABLE}"),
        ({**TOKEN, "api_token": ["canary"]}, f"api_token: {PRINTABLE}"),
        ({**KEY, "api_key": 5}, f"api_key: {PRINTABLE}"),
        ({"account_id": FIRST, "api_tokens": "canary"}, "api_tokens: is not known; api_token was probably meant"),
        ({**KEY, "apiToken": "canary"}, "apiToken: is not known; api_token was probably meant"),
        ({**TOKEN, "account": [KEY]}, "account: is not known; accounts was probably meant"),
        ({"accounts": [TOKEN], "account": [KEY]}, "account: is not known; accounts was probably meant"),
        (
            {"accounts": [TOKEN, {**KEY, "accountid": "canary"}]},
            "accounts[1]: accountid: is not known; account_id was probably meant",
        ),
    ],
)
def test_what_cannot_be_used_is_told_with_its_rule(content: Any, problem: str) -> None:
    with pytest.raises(SecretMalformed) as malformed:
        parse_accounts(json.dumps(content))
    assert str(malformed.value) == problem


@pytest.mark.parametrize("document", ["", "canary", "{", '{"a":' * 100_000, "\ud800"])
def test_what_is_no_json_is_told_so(document: str) -> None:
    with pytest.raises(SecretMalformed, match=r"^is not JSON$"):
        parse_accounts(document)


values = st.none() | st.integers() | st.text(max_size=6) | st.lists(st.text(max_size=3), max_size=2)
members = st.sampled_from(["account_id", "api_token", "api_email", "api_key", "accounts", "note"])


@given(
    st.text(max_size=30)
    | values.map(json.dumps)
    | st.dictionaries(members, st.just(FIRST) | values, max_size=5).map(json.dumps)
)
def test_any_document_is_accounts_with_one_credential_form_or_malformed(document: str) -> None:
    try:
        accounts = parse_accounts(document)
    except SecretMalformed:
        return
    for credential in accounts.credentials.values():
        assert credential.headers.keys() in ({"Authorization"}, {"X-Auth-Email", "X-Auth-Key"})
