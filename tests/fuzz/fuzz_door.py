"""From any headers and bytes through authentication and parsing, with what must hold of the outcome whatever was sent.

A case is written like HTTP: lines of headers, an empty line, the body. `python -m tests.fuzz.fuzz_door SECONDS`
searches with atheris, guided by coverage, from the corpus on; `make test` goes through it, and a little further.
"""

import hmac
import json
import re
import sys
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from string import ascii_letters, digits

from quarantine_release.api.authentication import Unauthenticated, authenticate
from quarantine_release.api.problems import PROBLEMS, InvalidRequest
from quarantine_release.api.release_request import accept, parse_release_request
from quarantine_release.config.clients import Client, Scope, Token
from quarantine_release.ledger.items import request_item
from tests.support.stand_ins import ACCOUNT, NOON, http_request

CORPUS = Path(__file__).parent / "corpus"
PLAIN, SIGNING = "plain-token-0123456789", "signing-token-0123456789"
KEYS = (b"K" * 32, b"L" * 32)
_CLIENT = Client("plain", (Token(sha256(PLAIN.encode()).digest()),), frozenset(Scope))
CLIENTS = (
    _CLIENT,
    replace(
        _CLIENT,
        name="signing",
        tokens=(Token(sha256(SIGNING.encode()).digest()),),
        signing_keys=KEYS,
        requires_signature=True,
    ),
)
NOW = int(NOON.timestamp())
Multi = Mapping[str, tuple[str, ...]]


def check(data: bytes) -> str:
    """Take a case through the door and say what came of it: a reason, a code, or "accepted"."""
    head, _, body = data.partition(b"\n\n")
    headers: dict[str, tuple[str, ...]] = {}
    for line in head.decode("utf-8", "surrogateescape").split("\n"):
        name, _, value = line.partition(": ")
        headers[name.lower()] = (*headers.get(name.lower(), ()), value)
    try:
        payload = authenticate(http_request(headers, body), CLIENTS, NOON)
    except Unauthenticated as error:
        payload, came_of_it = None, str(error.reason)
    assert may_enter(headers, body) == (payload is not None)
    if payload is None:
        return came_of_it
    try:
        wanted = parse_release_request(payload)
    except InvalidRequest as error:
        return checked(error)
    assert 1 <= len(wanted.ids) <= 1000
    assert all(is_fit(each) for each in wanted.ids)
    assert payload.signed_id in (None, wanted.idempotency_key)
    assert not wanted.force or (wanted.reason and wanted.idempotency_key)
    assert not wanted.override or wanted.reason
    row = accept(wanted, ACCOUNT, NOON, bytes(20))
    json.dumps(request_item(row), default=repr).encode()
    return "accepted"


def checked(invalid: InvalidRequest) -> str:
    """Return the code of a refusal that may be told."""
    assert PROBLEMS[invalid.code].status == 400
    assert invalid.detail.isascii()
    return invalid.code


def is_fit(given: str) -> bool:
    """Say whether an id may go on, in other words than `states.py` says it."""
    if set(given) <= set(ascii_letters + digits + "._:-"):
        return 8 <= len(given) <= 128
    inner = given[1:-1] if given[0] == "<" and given[-1] == ">" else given
    is_plain = inner.isascii() and inner.isprintable() and not set(inner) & set("<> ")
    return is_plain and 1 <= len(inner) <= 250 and (inner != given or "@" in inner)


def may_enter(headers: Multi, body: bytes) -> bool:
    """Say who may enter, in other words than `authentication.py` and `signature.py` say it."""
    schemes = [value.strip(" ") for value in headers.get("authorization", ())]
    tokens = {each[7:].strip(" ") if each[:7].lower() == "bearer " else None for each in schemes}
    tokens |= set(headers.get("x-api-key", ()))
    if tokens == {PLAIN}:
        return True
    if tokens != {SIGNING}:
        return False
    sent = [headers.get(f"webhook-{name}", ()) for name in ("id", "timestamp", "signature")]
    if [len(each) for each in sent] != [1, 1, 1]:
        return False
    (message_id,), (timestamp,), (signatures,) = sent
    if not re.fullmatch(r"[!-~]{1,255}", message_id, re.ASCII) or set(message_id) & set('."\\'):
        return False
    if timestamp not in {str(NOW + seconds) for seconds in range(-300, 301)}:
        return False
    content = f"{message_id}.{timestamp}.".encode() + body
    right = {f"v1,{b64encode(hmac.new(key, content, sha256).digest()).decode()}" for key in KEYS}
    return bool(right & set(signatures.split(" "))) and signatures.count(" ") < 4


def main() -> None:
    """Search for so many seconds; atheris ends the process, with status 77 and the case if something does not hold."""
    import atheris

    atheris.instrument_all()
    folder = Path(sys.argv[2] if len(sys.argv) > 2 else ".local/fuzz")
    folder.mkdir(parents=True, exist_ok=True)
    limits = [f"-max_total_time={sys.argv[1]}", "-max_len=4096", f"-artifact_prefix={folder}/"]
    options = [*limits, str(folder), str(CORPUS)]
    atheris.Setup([sys.argv[0], *options], lambda data: check(data) and None)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
