"""Which module may know which: every import of the package stands in the tables here, and importing does nothing."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "quarantine_release"
TREES = {path.stem: ast.parse(path.read_text()) for path in PACKAGE.glob("*.py") if path.stem != "__init__"}

# What each module may import of ours, from the vocabulary outwards.
OURS = {
    "outcome": "",
    "guard": "outcome",
    "trace": "facts guard outcome",
    "identity": "outcome trace",
    "results": "guard outcome trace",
    "transitions": "guard identity outcome results trace",
    "search_rows": "guard outcome",
    "search_lag": "guard outcome reading",
    "lookup": "guard outcome reading release_traces search_rows trace",
    "permit": "clients guard trace",
    "ports": "facts guard lookup outcome permit trace transitions",
    "calls": "facts guard outcome trace",
    "run": "calls facts guard outcome ports results reuse trace transitions",
    "asking": "calls facts outcome ports run trace transitions",
    "attempt": "asking calls identity outcome ports results run trace transitions",
    "findings": "asking calls facts guard lookup outcome ports reading run search_lag trace",
    "read_back": "identity outcome ports trace",
    "reuse": "guard lookup outcome reading results trace",
    "vetting": "calls facts findings guard lookup outcome ports resolving reuse run search_lag trace",
    "facts": "guard outcome",
    "proof": "identity outcome ports read_back run trace",
    "release": "attempt calls guard outcome ports proof resolving results run trace vetting",
    "batch": (
        "asking attempt calls guard merging outcome permit ports proof release resolving results run trace"
        " transitions vetting"
    ),
    "sweep": "asking attempt outcome permit ports release run trace transitions",
    "settle": "outcome ports read_back sweep trace transitions",
    "resolving": "facts findings guard lookup outcome ports run trace",
    "merging": "calls outcome trace",
    "visibility": "outcome trace",
    "answer": "guard outcome results run trace visibility",
    "trace_answer": "answer outcome results trace visibility",
    "allowance": "outcome",
    "known_calls": "allowance",
    # From bytes to a request.
    "http_event": "",
    "resemblance": "",
    "json_body": "",
    "problem": "",
    "credentials": "outcome resemblance",
    "signature": "",
    "clients": "credentials guard outcome resemblance signature",
    "authentication": "clients signature",
    "request_members": "json_body outcome trace",
    "release_request": "authentication clients json_body outcome request_members trace",
    # The edges.
    "settings": "guard ports trace transitions",
    "init_phase": "",
    "aws_clients": "",
    "secret_store": "",
    "current_clients": "clients credentials permit secret_store telemetry trace",
    "ledger_codecs": "facts guard outcome trace",
    "ledger_version": "ledger_codecs ports",
    "ledger_keys": "ledger_codecs outcome",
    "ledger_account": "allowance ledger_codecs ledger_version outcome",
    "ledger_items": "facts guard ledger_codecs ledger_keys ledger_version lookup outcome trace",
    "update_expression": "ledger_codecs ledger_version",
    "table": "ledger_codecs ledger_keys ports",
    "ledger_reads": (
        "allowance facts ledger_account ledger_codecs ledger_items ledger_keys lookup outcome ports table trace"
    ),
    "ledger_writes": (
        "allowance facts identity ledger_account ledger_codecs ledger_items ledger_keys ledger_version outcome"
        " ports trace update_expression"
    ),
    "ledger": "facts ledger_codecs ledger_items ledger_keys ledger_reads ledger_writes outcome ports table trace",
    "budget": "allowance known_calls ledger_account ledger_codecs ledger_keys outcome ports table update_expression",
    "release_queue": "outcome ports telemetry",
    "cloudflare_answer": "outcome reading",
    "deadline": "cloudflare_answer",
    "cloudflare": "cloudflare_answer credentials deadline outcome ports secret_store telemetry trace",
    "release_traces": "",
    "reading": "outcome release_traces",
    "action_log": "guard outcome reading release_traces",
    "cloudflare_calls": (
        "cloudflare cloudflare_answer credentials deadline guard outcome ports reading secret_store telemetry"
    ),
    "cloudflare_log": "action_log cloudflare_calls guard outcome reading",
    "cloudflare_reading": "action_log cloudflare cloudflare_calls cloudflare_log deadline guard outcome ports reading",
    "cloudflare_look": "cloudflare_calls guard lookup outcome reading search_rows",
    "cloudflare_lookup": (
        "cloudflare cloudflare_calls cloudflare_log cloudflare_look deadline guard lookup outcome ports search_rows"
    ),
    "telemetry": "ledger_keys outcome ports results settings trace",
    # What puts it together, and the entry points.
    "wiring": (
        "aws_clients budget clients cloudflare cloudflare_lookup cloudflare_reading credentials current_clients"
        " deadline ledger outcome permit ports release_queue secret_store settings table telemetry trace"
    ),
    "routes": (
        "answer authentication clients credentials guard http_event outcome ports problem release release_request"
        " request_members run secret_store telemetry trace trace_answer wiring"
    ),
    "webhook": (
        "authentication http_event init_phase ports problem release_request request_members routes telemetry wiring"
    ),
    "worker": "batch init_phase release_queue telemetry wiring",
    "reconciler": "init_phase outcome ports settle telemetry trace wiring",
}
# What each may import from outside that is not pure: other people's packages, and those of Python's own modules that
# reach beyond the process or are different each time. A module that is not named here is pure.
OUTSIDE = {
    "settings": "os",
    "init_phase": "gc",
    "aws_clients": "botocore socket ssl time urllib3",
    "secret_store": "botocore mypy_boto3_secretsmanager",
    "table": "botocore mypy_boto3_dynamodb",
    "release_queue": "botocore mypy_boto3_sqs",
    "deadline": "socket ssl threading time urllib3",
    "cloudflare": "time",
    "cloudflare_calls": "time",
    "cloudflare_lookup": "time",
    "cloudflare_reading": "time",
    "telemetry": "aws_lambda_powertools",
    "wiring": "botocore certifi random secrets ssl time",
    "routes": "secrets",
    "webhook": "aws_lambda_powertools",  # for the type of the context alone
    "worker": "aws_lambda_powertools",
    "reconciler": "aws_lambda_powertools",
}
PURE = {
    "base64",
    "binascii",
    "collections",
    "contextlib",
    "dataclasses",
    "datetime",
    "email",
    "enum",
    "functools",
    "hashlib",
    "hmac",
    "itertools",
    "json",
    "math",
    "operator",
    "re",
    "traceback",
    "types",
    "typing",
    "unicodedata",
    "urllib.parse",
    "zlib",
}


def imports_of(tree: ast.Module) -> Iterator[str]:
    """Yield the full name of every module imported, wherever in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide who knows whom"
            module = node.module or ""
            is_package = module == "quarantine_release"
            yield from (f"{module}.{alias.name}" for alias in node.names) if is_package else (module,)


def ours(tree: ast.Module) -> set[str]:
    return {name.split(".")[1] for name in imports_of(tree) if name.startswith("quarantine_release")}


def outside(tree: ast.Module) -> set[str]:
    others = {name for name in imports_of(tree) if not name.startswith("quarantine_release")}
    return {name.split(".")[0] for name in others if name not in PURE and name.split(".")[0] not in PURE}


@pytest.mark.parametrize("module", sorted(TREES))
def test_a_module_imports_what_stands_in_the_tables_and_nothing_else(module: str) -> None:
    assert module in OURS, "say in the table what it may import"
    assert ours(TREES[module]) == set(OURS[module].split())
    assert outside(TREES[module]) == set(OUTSIDE.get(module, "").split())


def test_the_tables_speak_of_no_module_that_is_gone() -> None:
    assert OURS.keys() == TREES.keys()
    assert OUTSIDE.keys() <= TREES.keys()


def test_no_module_knows_itself_through_others() -> None:
    TopologicalSorter({module: names.split() for module, names in OURS.items()}).prepare()


def test_an_import_within_a_function_counts_too() -> None:
    tree = ast.parse("def f():\n    import boto3.session\n    from quarantine_release import wiring\n")
    assert (ours(tree), outside(tree)) == ({"wiring"}, {"boto3"})


def test_the_environment_is_read_in_settings_alone() -> None:
    readers = {
        module
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute | ast.Name)
        and ast.unparse(node) in ("os.environ", "os.environb", "os.getenv", "environ", "getenv")
    }
    assert readers == {"settings"}


def test_the_time_is_asked_in_wiring_alone() -> None:
    askers = {
        module
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and ast.unparse(node) in ("datetime.now", "datetime.utcnow", "datetime.today", "date.today")
    }
    assert askers == {"wiring"}


@pytest.mark.parametrize("module", ["__init__", *sorted(TREES)])
def test_every_module_says_what_lives_in_it(module: str) -> None:
    assert ast.get_docstring(ast.parse((PACKAGE / f"{module}.py").read_text()))


@pytest.mark.parametrize("module", sorted(TREES))
def test_a_module_consists_of_definitions(module: str) -> None:
    definitions = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    others = [node for node in TREES[module].body[1:] if not isinstance(node, definitions)]
    found = [ast.unparse(node).splitlines()[0] for node in others]
    assert [line for line in found if line != "if TYPE_CHECKING:"] == CALLS_AT_IMPORT.get(module, [])


def test_the_entry_points_load_first_what_spares_the_rest_the_search_for_garbage() -> None:
    for module in ("webhook", "worker", "reconciler"):
        first = next(name for name in imports_of(TREES[module]) if name.startswith("quarantine_release"))
        assert first == "quarantine_release.init_phase"
        assert {each for each in outside(TREES[module]) if each != "aws_lambda_powertools"} == set()


# The init phase: none of it fails for anybody, and outside Lambda nothing is built.
CALLS_AT_IMPORT = {
    "init_phase": ["begin()"],
    "webhook": ["wiring.prime(wiring.clients, wiring.accounts)", "init_phase.end()"],
    "worker": ["wiring.prime(wiring.clients, wiring.accounts)", "init_phase.end()"],
    "reconciler": ["wiring.prime()", "init_phase.end()"],
}
IMPORT_ALL = """
import sys

def forbid(event, arguments):
    if event.startswith(("socket.", "subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.system")):
        if event != "socket.__new__":
            raise AssertionError(f"{event} at import")

sys.path.insert(0, sys.argv[1])
sys.addaudithook(forbid)
for module in sys.argv[2:]:
    __import__(f"quarantine_release.{module}")
"""


def test_importing_needs_no_environment_and_opens_no_connection() -> None:
    command = [sys.executable, "-I", "-W", "error", "-c", IMPORT_ALL, str(PACKAGE.parent), *sorted(TREES)]
    run = subprocess.run(command, env={}, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
