"""The *cloudflare* secret: which accounts there are, and the one credential of each. Pure."""

import json
import re
from dataclasses import dataclass, field
from typing import Any, Final

from quarantine_release.config.secret import SecretMalformed
from quarantine_release.domain.ids import ACCOUNT_ID, AccountId
from quarantine_release.domain.resemblance import check_names

_MEMBERS: Final = ("account_id", "api_token", "api_email", "api_key")

# What may stand in an HTTP header value without changing the request around it.
_HEADER_SAFE: Final = re.compile(r"\A[\x21-\x7e]{1,1024}\Z")


@dataclass(frozen=True, slots=True)
class Credential:
    """One account's credential, as the headers that carry it: one form only: which of two would win is unknown."""

    account_id: AccountId
    headers: dict[str, str] = field(repr=False)

    @property
    def is_token(self) -> bool:
        """Say whether this is an API token and not a person's global key."""
        return "Authorization" in self.headers


@dataclass(frozen=True, slots=True)
class Accounts:
    """The configured accounts; the first is the default."""

    credentials: dict[AccountId, Credential]

    @property
    def default(self) -> AccountId:
        """Return the account that is meant where none is named."""
        return next(iter(self.credentials))


def parse_accounts(document: str) -> Accounts:
    """Read the *cloudflare* secret. Raises SecretMalformed.

    Unknown members are ignored, but one that resembles a known one is refused: it may be the account or the
    credential that was meant.
    """
    try:
        content = json.loads(document)
    except (ValueError, RecursionError):
        raise SecretMalformed("is not JSON") from None
    if not isinstance(content, dict):
        raise SecretMalformed("is not a JSON object")
    if not content:
        raise SecretMalformed("is empty: it was never set")
    _check_names(content, ("accounts", *_MEMBERS), "")
    entries = content.get("accounts", [content])
    if not isinstance(entries, list) or not entries:
        raise SecretMalformed("accounts: must be a list with at least one account")
    credentials = [
        _credential(entry, f"accounts[{n}]: " if "accounts" in content else "") for n, entry in enumerate(entries)
    ]
    if len({credential.account_id for credential in credentials}) != len(credentials):
        raise SecretMalformed("accounts: an account_id stands there twice")
    return Accounts({credential.account_id: credential for credential in credentials})


def _check_names(entry: dict[str, Any], known: tuple[str, ...], place: str) -> None:
    try:
        check_names(entry, known, place=place)
    except ValueError as error:
        raise SecretMalformed(str(error)) from None


def _credential(entry: Any, place: str) -> Credential:
    if not isinstance(entry, dict):
        raise SecretMalformed(f"{place}must be an object")
    if place:
        _check_names(entry, _MEMBERS, place)
    account_id = entry.get("account_id")
    if not isinstance(account_id, str) or not ACCOUNT_ID.match(account_id):
        raise SecretMalformed(f"{place}account_id: must be 32 lower-case hexadecimal digits")
    values = {name: entry[name] for name in ("api_token", "api_email", "api_key") if entry.get(name)}
    for name, value in values.items():
        if not isinstance(value, str) or not _HEADER_SAFE.match(value):
            raise SecretMalformed(f"{place}{name}: must be 1 to 1024 printable ASCII characters without spaces")
    if set(values) == {"api_token"}:
        return Credential(AccountId(account_id), {"Authorization": f"Bearer {values['api_token']}"})
    if set(values) == {"api_email", "api_key"}:
        return Credential(AccountId(account_id), {"X-Auth-Email": values["api_email"], "X-Auth-Key": values["api_key"]})
    raise SecretMalformed(f"{place}needs either api_token, or api_email and api_key, and not both")
