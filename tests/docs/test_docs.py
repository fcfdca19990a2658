"""What README.md and docs/ say equals what the code, the template and a running stack say."""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import pytest
from samtranslator.yaml_helper import yaml_parse

from local import options
from local.children import CannotStart
from local.stack import Stack
from local.template import Template
from quarantine_release.api.event import HttpRequest
from quarantine_release.api.problems import PROBLEMS, Problem, problem_body
from quarantine_release.api.release_answer import answer_body, result_body
from quarantine_release.api.release_request import BODY_LIMIT
from quarantine_release.api.request_fields import _MEMBERS, _TEXT_LIMITS, IDS_LIMIT
from quarantine_release.api.routes import _ROUTES, find_route
from quarantine_release.api.signature import Signed, check_signature
from quarantine_release.api.trace_answer import trace_body
from quarantine_release.config.accounts import parse_accounts
from quarantine_release.config.clients import Scope, parse_clients
from quarantine_release.domain.guard import Candidate, Ended, Guarded
from quarantine_release.domain.ids import AttemptId, PostfixPart
from quarantine_release.domain.results import derive_results
from quarantine_release.domain.rows import AttemptRow, AttemptState, MessageRow, Target, WireForm
from quarantine_release.domain.states import LETTERS, TRANSITIONS, Code, Outcome, State
from quarantine_release.domain.verdicts import Recipients
from quarantine_release.releasing.progress import Answer
from tests.support.stand_ins import ACCOUNT, BARE, DELIVERED, NOON, OK, TERMS, request_row
from tools.ops_arguments import parser

CHECKOUT: Final = Path(__file__).parent.parent.parent
PAGES: Final = (CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md")))
README: Final = PAGES[0].read_text("utf-8")
LOCAL: Final = "http://127.0.0.1:8080"
ENDING: Final = ("domain/guard", "domain/lookup", "releasing/resolving", "domain/reuse", "releasing/vet")
# Made by the commands, or by the reader.
MADE: Final = (".venv", ".local", ".aws-sam", "cloudflare.json", "clients.json")


def table(*head: str) -> list[list[str]]:
    """Return the rows of the README's tables with this head, cell by cell."""
    lines = iter(README.splitlines())
    rows: list[list[str]] = []
    for line in lines:
        if line == f"| {' | '.join(head)} |":
            assert next(lines) == "|---" * len(head) + "|"
            for row in lines:
                if not row.startswith("|"):
                    break
                rows.append([cell.strip() for cell in row[1:-1].split("|")])
    assert rows, f"no table with the head {head}"
    assert all(len(row) == len(head) for row in rows)
    return rows


def named(cell: str) -> list[str]:
    """Return what stands in a cell as code."""
    return re.findall(r"`([^`]+)`", cell)


def names(*head: str) -> list[str]:
    """Return every name in the first column of a table."""
    return [name for row in table(*head) for name in named(row[0])]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def shell_lines() -> list[str]:
    return "\n".join(blocks("sh")).splitlines()


def template() -> dict[str, Any]:
    return dict(yaml_parse((CHECKOUT / "template.yaml").read_text("utf-8")))


# --- Tables -----------------------------------------------------------------------------------------------------------


def test_the_error_table_is_the_codes() -> None:
    ours, gateway = len(PROBLEMS), table("code", "status", "retryable", "what to do")[len(PROBLEMS) :]
    told = {
        named(code)[0]: (int(status), retryable == "yes")
        for code, status, retryable, _ in table("code", "status", "retryable", "what to do")[:ours]
    }
    assert told == {code: (problem.status, problem.is_retryable) for code, problem in PROBLEMS.items()}
    assert all(problem.retry_after for problem in PROBLEMS.values() if problem.is_retryable)
    assert {
        named(code)[0]: (None if "xx" in status else int(status), retryable == "yes")
        for code, status, retryable, _ in gateway
    } == {
        body["code"]: (body.get("status"), body["retryable"])
        for _, text in Template.read(CHECKOUT / "template.yaml").gateway_responses().values()
        for body in [json.loads(text)]
    }


def test_the_outcome_table_is_the_codes() -> None:
    told = {named(name)[0]: end == "yes" for name, end, _ in table("outcome", "end", "meaning")}
    assert told == {outcome.value: outcome.is_end for outcome in Outcome}


def test_the_code_table_is_the_codes() -> None:
    told = [
        (Outcome(named(outcome)[0]), Code(named(code)[0]))
        for code, outcome, *_ in table("code", "outcome", "meaning", "what to do")
    ]
    assert sorted(code for _, code in told) == sorted(Code)
    # Of what ends before a claim the code stands in the request, and where it ends in the source.
    sources = [(CHECKOUT / "src" / "quarantine_release" / f"{name}.py").read_text() for name in ENDING]
    ended = {
        (Outcome[outcome], Code[code])
        for source in sources
        for outcome, code in re.findall(r"Ended\(\s*Outcome\.(\w+),\s*Code\.(\w+)", source)
    }
    assert len(ended) == 10
    assert {pair for pair in told if pair[0].is_end} == ended | {pair for pair in LETTERS.values() if pair[1]}
    assert {outcome for outcome, _ in told if not outcome.is_end} == {Outcome.UNCONFIRMED}


def test_the_diagram_has_exactly_the_legal_transitions() -> None:
    (diagram,) = blocks("mermaid")
    edges = re.findall(r"^ +(\S+) --> (\w+): \S.*$", diagram, re.MULTILINE)
    assert len(edges) == len(set(edges)) == diagram.count("-->")
    assert set(edges) == {(before or "[*]", after) for before, afters in TRANSITIONS.items() for after in afters}


def test_the_request_members_and_their_limits_are_the_parsers() -> None:
    assert sorted(names("member", "what it is")) == sorted([*_MEMBERS, *answer_body(answer())])
    rules = {named(row[0])[0]: row[1] for row in table("member", "what it is")}
    assert all(f"at most {limit} characters" in rules[name] for name, limit in _TEXT_LIMITS.items())
    assert f"1 to {IDS_LIMIT}:" in rules["ids"]
    assert f"more than {BODY_LIMIT // 1024} KB" in README


def test_the_result_members_are_the_answers() -> None:
    assert names("member of a result", "what it is") != []
    first_column = [name for row in table("member of a result", "what it is") for name in named(row[0])]
    found = Ended(Outcome.AMBIGUOUS, Code.SEVERAL_MATCHES, "several", (Candidate(BARE, NOON, "SPAM", True),))
    result = answer().results[0]
    bodies = (
        result_body(replace(result, resolved=BARE), is_to_be_confirmed=True),
        result_body(replace(result, row=None, ended=found)),
    )
    assert sorted(first_column) == sorted({name for body in bodies for name in body})
    (lists,) = (row[1] for row in table("member of a result", "what it is") if "`delivered`" in row[0])
    assert named(lists) == ["recipients_truncated", "recipient_counts"]
    many = answer(Recipients.of(f"{number}@example.com" for number in range(21)))
    assert result_body(many.results[0]).keys() - set(first_column) == set(named(lists))


def test_every_route_and_its_scope_is_named() -> None:
    told = []
    for cell, scope, _ in table("route", "scope", "does"):
        method, _, address = named(cell)[0].partition(" ")
        path = re.sub(r"\{\w+\}", "some-name", address.partition("?")[0])
        handler, _ = find_route(HttpRequest(method, path, {}, {}, None, "", ""))
        told.append(handler)
        assert scope == "any" or Scope(named(scope)[0])
    assert set(told) == {handler for _, methods in _ROUTES for handler in methods.values()}
    assert all(f"`{scope}`" in README for scope in Scope)


def test_every_parameter_is_named_with_its_default() -> None:
    told = {named(name)[0]: default for name, default, _ in table("parameter", "default", "what it is")}
    assert told == {name: str(spec["Default"]) for name, spec in template()["Parameters"].items()}
    outputs = re.findall(r"\$\(output (\w+)\)", README)
    assert outputs
    assert set(outputs) <= set(template()["Outputs"])


def test_every_variable_of_make_run_is_named_and_no_other() -> None:
    source = ast.parse(Path(options.__file__).read_text("utf-8"))
    texts = (node.value for node in ast.walk(source) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    read = {name for text in texts for name in re.findall(r"(?<![A-Z_])(?:PORT|[A-Z]+(?:_[A-Z]+)+)(?![A-Z_])", text)}
    assert set(names("variable", "default", "what it is")) == read
    exported = re.findall(r"\bexport (\w+)", "\n".join(shell_lines()))
    assert exported
    assert set(exported) <= read


def test_each_named_variable_of_make_run_has_an_effect() -> None:
    given = {
        "PORT": "8081",
        "CLOUDFLARE_API_BASE_URL": "https://example.com/client/v4",
        "CLOUDFLARE_ACCOUNT_ID": "b" * 32,
        "CLOUDFLARE_API_TOKEN": "a-token",
        "CLOUDFLARE_API_EMAIL": "ann@example.com",
        "CLOUDFLARE_API_KEY": "a-key",
        "CLOUDFLARE_WIRE_FORM": "object",
        "QUARANTINE_RELEASE_TOKEN": "our-own-token",
        "QUARANTINE_RELEASE_SIGNING_SECRET": f"whsec_{b64encode(b's' * 24).decode()}",
        "LEASE_SECONDS": "2",
        "SETTLE_SECONDS": "3",
        "EXPIRE_AFTER": "90s",
        "SECRET_SECONDS": "7",
        "BUDGET_INLINE_CALLS": "5",
        "BUDGET_CALLS": "6",
        "SEARCH_LAG_SECONDS": "8",
        "GUARD_MODE": "strict",
        "RECONCILE_EVERY_SECONDS": "4",
    }
    assert set(given) == set(names("variable", "default", "what it is"))

    def read(environment: Mapping[str, str]) -> object:
        try:
            return options.Options.from_environment({"QUARANTINE_RELEASE_TOKEN": "another-token"} | dict(environment))
        except CannotStart as problem:
            return str(problem)

    assert all(read({name: value}) != read({}) for name, value in given.items())


# --- Examples ---------------------------------------------------------------------------------------------------------


def answer(recipients: Recipients = DELIVERED.recipients) -> Answer:
    request = request_row()
    return Answer(request, derive_results(request, {row.part: row for row in [message(recipients)]}, NOON))


def message(recipients: Recipients = DELIVERED.recipients) -> MessageRow:
    return MessageRow(
        account_id=ACCOUNT,
        part=PostfixPart(BARE),
        state=State.RELEASED,
        attempt=AttemptId("1"),
        message_id=BARE,
        updated_at=NOON,
        owner=request_row().request_id,
        evidence=OK,
        recipients=recipients,
        guard=Guarded.NOT_CHECKED,
    )


def trace() -> dict[str, Any]:
    request, row = request_row(), message()
    attempt = AttemptRow(
        account_id=ACCOUNT,
        attempt=row.attempt,
        wire_form=WireForm.ARRAY,
        targets=(Target(row.part, BARE),),
        owners={row.part: request.request_id},
        sent_at=NOON,
        deadline=NOON + TERMS.lease,
        state=AttemptState.ANSWERED,
        evidence=OK,
        verdicts={row.part: DELIVERED},
    )
    return trace_body(
        row, {request.request_id: request}, [attempt], account_id=ACCOUNT, part=row.part, visible_to=None, now=NOON
    )


def shape(value: Any) -> Any:
    """Return the members of a value, and those of its objects and of the first of its lists' objects."""
    if isinstance(value, dict):
        return {name: shape(item) for name, item in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        assert all(item.keys() == value[0].keys() for item in value)
        return [shape(value[0])]
    return None


def test_each_example_has_exactly_the_members_that_the_code_gives() -> None:
    kinds = []
    for text in blocks("json"):
        example = json.loads(text)
        match example:
            case {"results": _}:
                kinds.append("answer")
                expected = answer_body(answer())
            case {"requests": _}:
                kinds.append("trace")
                expected = trace()
            case {"outcome": _}:
                kinds.append("result")
                expected = {**result_body(answer().results[0]), "released_by": {"request_id": None, "at": None}}
            case {"title": _}:
                kinds.append("problem")
                expected = problem_body(Problem(example["code"], example["detail"]), example["request_id"])
                assert example == expected
            case {"clients": _}:
                kinds.append("clients")
                found = parse_clients(text)
                assert found.clients
                assert not found.problems
                continue
            case {"api_token": _}:
                kinds.append("cloudflare")
                assert parse_accounts(text).default
                continue
            case {"checks": _}:  # compared with a real one below
                kinds.append("health")
                continue
            case _:
                pytest.fail(f"an example of nothing: {text}")
        assert shape(example) == shape(expected)
    assert sorted(kinds) == ["answer", "clients", "cloudflare", "health", "problem", "result", "trace"]


CHANGING: Final = re.compile(
    r"rq_[a-z2-7]{26}|\d{4}-\d\d-\d\dT[\d:.]+Z|[0-9a-f]{16}-SIM|1-[0-9a-f]{8}-[0-9a-f]{24}|\b[0-9A-HJKMNP-TV-Z]{26}\b"
)


def commands_and_answers() -> Iterator[tuple[str, Any]]:
    """Return each command of the README that calls the local stack, and the answer printed below it."""
    for text, shown in re.findall(r"^```sh\n([^`]*?)^```\n+^```json\n(.*?)^```$", README, re.DOTALL | re.MULTILINE):
        if LOCAL in text:
            yield text, json.loads(shown)


def test_what_the_lines_of_python_sign_is_believed() -> None:
    (block,) = blocks("python")
    made: dict[str, Any] = {}
    exec(block, made)  # noqa: S102  the README's own lines
    headers = made["signature_headers"](f"whsec_{b64encode(b'k' * 32).decode()}", b'{"ids": []}')
    multi = {name: (value,) for name, value in headers.items()}
    signed, message_id = check_signature(multi, b'{"ids": []}', [b"k" * 32], datetime.now(UTC))
    assert (signed, message_id) == (Signed.YES, headers["webhook-id"])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is what is being tried")
def test_the_commands_give_the_answers_that_are_printed_below_them(tmp_path: Path) -> None:
    examples = list(commands_and_answers())
    assert len(examples) == sum(LOCAL in line for line in shell_lines()) == 4
    with Stack({"PORT": "0"}, folder=tmp_path / ".local", processes=2) as stack:
        for command, shown in examples:
            done = subprocess.run(
                ["sh", "-ec", command.replace(LOCAL, stack.base_url)],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
            )
            got = json.loads(done.stdout)
            if "results" in got and "results" not in shown:
                (got,) = got["results"]
            assert CHANGING.sub("...", json.dumps(got)) == CHANGING.sub("...", json.dumps(shown))


def test_a_client_is_made_as_told_with_nothing_installed() -> None:
    (command,) = (line for line in shell_lines() if "tools.new_client" in line)
    alone = command.replace("python3 ", f"{shlex.quote(sys.executable)} -S ")
    done = subprocess.run(["sh", "-ec", alone], cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=True)
    entry = json.loads(done.stdout[done.stdout.index("{") :])
    (shown,) = (json.loads(text)["clients"][0] for text in blocks("json") if '"clients":' in text)
    assert shape(entry) == shape(shown)
    assert (entry["name"], entry["scopes"]) == (shown["name"], shown["scopes"])


# --- Links, paths, commands -------------------------------------------------------------------------------------------


def anchors_of(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_whatever_a_page_names_is_there(page: Path) -> None:
    text = page.read_text("utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if "://" not in target:
            file, _, anchor = target.partition("#")
            linked = page.parent / file if file else page
            assert linked.is_file(), target
            assert not anchor or anchor in anchors_of(linked.read_text("utf-8")), target
    known = {path.name for folder in ("src", "local", "tests", "tools") for path in (CHECKOUT / folder).rglob("*.py")}
    for name in re.findall(r"`([\w.-]+(?:/[\w.-]+)*/?)`", text):
        if name.startswith(MADE) or not re.search(r"/|\.(?:py|md|yaml|toml|json|txt)$", name):
            continue
        places = (CHECKOUT, CHECKOUT / "src" / "quarantine_release")
        assert any((place / name).exists() for place in places) or name in known, name
    for module in re.findall(r"python3? -m ([\w.]+)", text):
        assert module in sys.stdlib_module_names or list(CHECKOUT.glob(f"{module.replace('.', '/')}*")), module
    targets = re.findall(r"^([\w.-]+(?: [\w.-]+)*):", (CHECKOUT / "Makefile").read_text("utf-8"), re.MULTILINE)
    targets = " ".join(targets).split()
    assert set(re.findall(r"`(?:ARGS=\S+ )?make ([\w-]+)", text)) <= set(targets)
    assert set(re.findall(r"^(?:ARGS=\S+ )?make ([\w-]+)", text, re.MULTILINE)) <= set(targets)


def test_every_command_of_the_operations_tool_can_be_run_as_it_stands() -> None:
    text = "\n".join(page.read_text("utf-8") for page in PAGES)
    commands = re.findall(r"python3? -m tools\.ops ((?!COMMAND)[^`\n]+)", text)
    commands += re.findall(r"make ops ARGS='([^'\n]+)'", text)
    assert len(commands) == len(re.findall(r"-m tools\.ops (?!COMMAND)|make ops ARGS=", text)) > 10
    for command in commands:
        told = parser().parse_args(shlex.split(command))
        assert told.stack or told.table or told.local, command


STUB_OF_AWS: Final = """#!/bin/sh
case "$*" in
*describe-stacks*ClientsSecretArn*) echo arn:of:the:secret ;;
*get-secret-value*arn:of:the:secret*) cat secret.json ;;
*put-secret-value*arn:of:the:secret*file://clients.json) cp clients.json secret.json ;;
*) exit 2 ;;
esac
"""


@pytest.mark.parametrize("name", ["playbooks", "unknown"])
def test_the_lines_that_disable_a_client_disable_that_client_alone(tmp_path: Path, name: str) -> None:
    text = (CHECKOUT / "docs" / "operations.md").read_text("utf-8")
    (lines,) = (
        block for block in re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE) if '["disabled"]' in block
    )
    entries = [
        {"name": each, "tokens": [{"sha256": sha256(each.encode()).hexdigest()}], "scopes": ["release"]}
        for each in ("playbooks", "other")
    ]
    (tmp_path / "secret.json").write_text(json.dumps({"clients": entries}))
    stub = tmp_path / "aws"
    stub.write_text(STUB_OF_AWS)
    stub.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    commands = lines.replace("client=playbooks", f"client={name}")
    subprocess.run(
        ["sh", "-c", commands], cwd=tmp_path, env={"PATH": path}, timeout=60, check=False, capture_output=True
    )
    found = parse_clients((tmp_path / "secret.json").read_text())
    assert found.problems == {}
    assert {client.name: client.is_disabled for client in found.clients} == {
        "playbooks": name == "playbooks",
        "other": False,
    }
    assert not (tmp_path / "clients.json").exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_names_a_machine(page: Path) -> None:
    text = page.read_text("utf-8")
    assert not re.search(r"(?<![\w.}])/(?:home|root|tmp|usr|opt|etc|work|Users)/", text)
    assert not re.search(r"index-url|pypi\.|/simple\b", text, re.IGNORECASE)
