"""Making a client: the token is printed once and in clear, the secret gets its hash, and the two belong together."""

import json
import subprocess
import sys
from base64 import b64decode
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from quarantine_release.api.authentication import Unauthenticated, authenticate
from quarantine_release.config.clients import Client, Scope, parse_clients
from tests.support.stand_ins import http_request, sign
from tools.new_client import main

CHECKOUT = Path(__file__).parent.parent.parent


def made(output: str) -> tuple[str, Client]:
    """Return the token and the client that were printed."""
    _, token, _, entry = output.split("\n\n", 3)
    assert token not in entry
    found = parse_clients(f'{{"clients": [{entry}]}}')
    assert found.problems == {}
    return token, found.clients[0]


def test_the_printed_entry_lets_the_printed_token_in(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["soar"]) == 0
    printed = capsys.readouterr()
    token, client = made(printed.out)
    assert client.scopes == {Scope.RELEASE, Scope.READ}
    assert client.tokens[0].expires_at is None
    headers = {"authorization": (f"Bearer {token}",)}
    assert authenticate(http_request(headers, b""), [client], datetime.now(UTC)).client.name == "soar"
    assert printed.out.count(token) == 1
    assert printed.err == ""


def test_scopes_are_those_given(capsys: pytest.CaptureFixture[str]) -> None:
    main(["soar", "--scope", "read", "--scope", "read:all", "--scope", "read"])
    assert made(capsys.readouterr().out)[1].scopes == {Scope.READ, Scope.READ_ALL}


def test_a_token_may_expire(capsys: pytest.CaptureFixture[str]) -> None:
    main(["soar", "--expires-in-days", "30"])
    token, client = made(capsys.readouterr().out)
    headers, now = {"x-api-key": (token,)}, datetime.now(UTC)
    assert authenticate(http_request(headers, b""), [client], now + timedelta(days=29, hours=23))
    with pytest.raises(Unauthenticated):
        authenticate(http_request(headers, b""), [client], now + timedelta(days=30))


@pytest.mark.parametrize(("how", "must"), [("may", False), ("must", True)])
def test_a_client_may_get_a_signing_secret(how: str, must: bool, capsys: pytest.CaptureFixture[str]) -> None:
    main(["soar", "--sign", how])
    printed = capsys.readouterr().out
    _, token, _, secret, _, entry = printed.split("\n\n", 5)
    (client,) = parse_clients(f'{{"clients": [{entry}]}}').clients
    now = datetime.now(UTC)
    timestamp = str(int(now.timestamp()))
    headers = {
        "authorization": (f"Bearer {token}",),
        "webhook-id": ("msg_1",),
        "webhook-timestamp": (timestamp,),
        "webhook-signature": (sign(b64decode(secret.removeprefix("whsec_")), "msg_1", timestamp, b"[]"),),
    }
    assert authenticate(http_request(headers, b"[]"), [client], now).signed_id == "msg_1"
    assert client.requires_signature is must
    assert len(client.signing_keys[0]) == 32


def test_no_two_tokens_are_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    tokens = set()
    for _ in range(3):
        main(["soar"])
        tokens.add(made(capsys.readouterr().out)[0])
    assert len(tokens) == 3
    assert all(len(token) >= 43 for token in tokens)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["so ar"], "name: must be 1 to 64 of A-Z a-z 0-9 . _ -, beginning with one of A-Z a-z 0-9"),
        ([""], "name: must be 1 to 64"),
        (["söar"], "name: must be 1 to 64"),
        (["s" * 65], "name: must be 1 to 64"),
        (["soar", "--scope", "admin"], "argument --scope: invalid choice: 'admin'"),
        (["soar", "--expires-in-days", "0"], "argument --expires-in-days: must be a whole number from 1 to 3650"),
        (["soar", "--expires-in-days", "3651"], "must be a whole number from 1 to 3650"),
        (["soar", "--expires-in-days", "soon"], "must be a whole number from 1 to 3650"),
        ([], "the following arguments are required: name"),
    ],
)
def test_what_cannot_be_made_is_told_in_a_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert sentence in printed.err
    assert printed.out == ""


def test_it_runs_as_a_module_from_the_checkout() -> None:
    command = [sys.executable, "-m", "tools.new_client", "soar", "--scope", "release"]
    run = subprocess.run(command, cwd=CHECKOUT, env={"PYTHONPATH": "src"}, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    assert made(run.stdout)[1].scopes == {Scope.RELEASE}
    assert json.loads(run.stdout.split("\n\n", 3)[3])["name"] == "soar"
