"""Makes a client: prints a new token, once, and the entry for the *clients* secret, which holds only its hash.

`python -m tools.new_client NAME [--scope SCOPE ...] [--expires-in-days N] [--sign may|must]`
"""

import argparse
import json
import secrets
import sys
from base64 import b64encode
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from quarantine_release.config.clients import Scope, parse_clients

DEFAULT_SCOPES = (Scope.RELEASE, Scope.READ)
LONGEST_DAYS = 3650


def main(arguments: Sequence[str] | None = None) -> int:
    """Print token and entry; complain on stderr and return 2 if they cannot be made."""
    parser = argparse.ArgumentParser(prog="python -m tools.new_client", description="Make a client of the webhook.")
    parser.add_argument("name", help="shown in the trace: 1 to 64 of A-Z a-z 0-9 . _ -")
    parser.add_argument(
        "--scope",
        action="append",
        choices=[scope.value for scope in Scope],
        help="may be repeated; default: release, read",
    )
    parser.add_argument("--expires-in-days", type=_days, metavar="N", help="default: the token does not expire")
    parser.add_argument(
        "--sign", choices=["may", "must"], help="make a signing secret too; must: nothing unsigned is taken"
    )
    given = parser.parse_args(arguments)
    expires_at = datetime.now(UTC) + timedelta(days=given.expires_in_days) if given.expires_in_days else None
    token = secrets.token_urlsafe(32)
    signing_secret = f"whsec_{b64encode(secrets.token_bytes(32)).decode()}" if given.sign else None
    entry = client_entry(given.name, token, given.scope or DEFAULT_SCOPES, expires_at)
    if signing_secret:
        entry |= {"signing_secrets": [signing_secret], "require_signature": given.sign == "must"}
    for problem in parse_clients(json.dumps({"clients": [entry]})).problems.values():
        parser.error(problem)
    print(f"Token, shown only now; give it to the client:\n\n{token}\n")
    if signing_secret:
        print(f"Signing secret; give it to the client too, and to nobody else:\n\n{signing_secret}\n")
    print(f'Entry for the list "clients" of the clients secret:\n\n{json.dumps(entry, indent=2)}')
    return 0


def client_entry(name: str, token: str, scopes: Sequence[str], expires_at: datetime | None) -> dict[str, Any]:
    """Return the entry of a client with this token."""
    known = {"sha256": sha256(token.encode("ascii")).hexdigest()}
    if expires_at is not None:
        known["expires_at"] = expires_at.isoformat(timespec="seconds")
    return {"name": name, "tokens": [known], "scopes": list(dict.fromkeys(scopes))}


def _days(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= LONGEST_DAYS):
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {LONGEST_DAYS}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
