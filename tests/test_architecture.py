"""Which package may import which, how large code may be, and that importing does nothing."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src"
PACKAGE = SOURCE / "quarantine_release"
OURS = "quarantine_release"


def _name(path: Path) -> str:
    """Return a module's name below our package: `domain.ids`, or `domain` for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {_name(path): ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}
ENTRY_POINTS = ("webhook", "worker", "reconciler")
# What each package, or a module beside the packages, may import of ours: packages, or single modules of them.
RULES = {
    "domain": "",
    "config": "domain",
    "releasing": "domain",
    "usecases": "releasing domain",
    "telemetry": "domain config",
    "ledger": "domain releasing.ports",
    "cloudflare": "domain releasing.ports config telemetry",
    "aws": "domain releasing.ports config telemetry",
    "api": "usecases releasing domain config telemetry",
    "wiring": "domain config releasing usecases telemetry ledger cloudflare aws",
    "webhook": "wiring telemetry init_phase api",
    "worker": "wiring telemetry init_phase usecases.release_queued",
    "reconciler": "wiring telemetry init_phase domain usecases.settle",
    "init_phase": "",
}
# What each may import from outside that is not pure: other people's packages, and those of Python's own modules that
# reach beyond the process or are different each time. A module that is not named here is pure.
OUTSIDE = {
    "config.settings": "os",
    "init_phase": "gc",
    "aws.service_clients": "botocore socket ssl time urllib3",
    "aws.secret_store": "botocore mypy_boto3_secretsmanager",
    "aws.hint_queue": "botocore mypy_boto3_sqs",
    "ledger.table": "botocore mypy_boto3_dynamodb",
    "cloudflare.connection": "socket ssl threading time urllib3",
    "cloudflare.client": "time",
    "cloudflare.search": "time",
    "telemetry": "aws_lambda_powertools",
    "wiring": "botocore certifi random secrets ssl time",
    "api.release_routes": "secrets",
    "webhook": "aws_lambda_powertools",  # for the type of the context alone
    "worker": "aws_lambda_powertools",
    "reconciler": "aws_lambda_powertools",
}
PURE = {
    "abc",
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
MOST_DECISIONS, MOST_LINES = 12, 250
BRANCHES = (
    ast.If,
    ast.IfExp,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.ExceptHandler,
    ast.Assert,
    ast.comprehension,
    ast.match_case,
)
# The init phase: none of it fails for anybody, and outside Lambda nothing is built.
CALLS_AT_IMPORT = {
    "init_phase": ["begin()"],
    "webhook": ["wiring.prime(wiring.clients, wiring.accounts)", "init_phase.end()"],
    "worker": ["wiring.prime(wiring.clients, wiring.accounts)", "init_phase.end()"],
    "reconciler": ["wiring.prime()", "init_phase.end()"],
}


def imports_of(tree: ast.Module) -> Iterator[str]:
    """Yield the full name of every module imported, wherever in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide who knows whom"
            module = node.module or ""
            below = module.removeprefix(OURS).lstrip(".")
            is_package = module.split(".")[0] == OURS and (PACKAGE / below.replace(".", "/")).is_dir()
            yield from (f"{module}.{alias.name}" for alias in node.names) if is_package else (module,)


def ours(tree: ast.Module) -> set[str]:
    names = {name for name in imports_of(tree) if name.split(".")[0] == OURS}
    return {name.removeprefix(f"{OURS}.") for name in names}


def outside(tree: ast.Module) -> set[str]:
    others = {name for name in imports_of(tree) if name.split(".")[0] != OURS}
    return {name.split(".")[0] for name in others if name not in PURE and name.split(".")[0] not in PURE}


def decisions(function: ast.AST) -> int:
    """Count the ways through a function, without its inner functions: its cyclomatic complexity."""
    total, todo = 1, list(ast.iter_child_nodes(function))
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            continue
        if isinstance(node, BRANCHES):
            total += 1 + (len(node.ifs) if isinstance(node, ast.comprehension) else 0)
        elif isinstance(node, ast.BoolOp):
            total += len(node.values) - 1
        todo += ast.iter_child_nodes(node)
    return total


def too_large(module: str, text: str) -> Iterator[str]:
    """Yield the module if it has too many lines, and each of its functions that has too many decisions."""
    if text.count("\n") > MOST_LINES:
        yield module
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and decisions(node) > MOST_DECISIONS:
            yield f"{module}.{node.name}"


def allows(allowed: set[str], name: str) -> bool:
    return name in allowed or name.split(".")[0] in allowed


@pytest.mark.parametrize("module", sorted(set(TREES) - {""}))
def test_a_module_imports_what_its_package_may(module: str) -> None:
    package = module.split(".")[0]
    assert package in RULES, "say in the table what it may import"
    allowed = {package, *RULES[package].split()}
    assert sorted(name for name in ours(TREES[module]) if not allows(allowed, name)) == []


@pytest.mark.parametrize("module", sorted(TREES))
def test_only_the_edges_reach_beyond_the_process(module: str) -> None:
    assert outside(TREES[module]) == set(OUTSIDE.get(module, "").split())


def test_the_tables_name_no_module_that_is_gone() -> None:
    assert RULES.keys() == {module.split(".")[0] for module in TREES} - {""}
    assert OUTSIDE.keys() <= TREES.keys()


def test_no_file_imports_itself_through_others() -> None:
    TopologicalSorter({module: ours(tree) for module, tree in TREES.items()}).prepare()


def test_no_function_has_too_many_decisions_and_no_module_too_many_lines() -> None:
    found = {name for path in PACKAGE.rglob("*.py") for name in too_large(_name(path), path.read_text())}
    assert sorted(found) == []


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ("pass", 1),
        ("if a and b or c: pass", 4),
        ("return 1 if a else 2", 2),
        ("return [x for x in y if x if z]", 4),
        ("try: pass\n    except A: pass\n    except B: pass", 3),
        ("while a: pass\n    with b: assert c", 3),
        ("match a:\n        case 1: pass\n        case _: pass", 3),
        ("def inner():\n        if a: pass\n    return lambda: b or c", 1),
    ],
)
def test_decisions_are_counted(body: str, count: int) -> None:
    assert decisions(ast.parse(f"def f():\n    {body}").body[0]) == count


def test_no_two_files_share_a_name() -> None:
    """The log names a file by its last part alone (`telemetry.unhandled`)."""
    names = [path.name for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]
    assert sorted(names) == sorted(set(names))


def test_an_import_within_a_function_counts_too() -> None:
    tree = ast.parse("def f():\n    import boto3.session\n    from quarantine_release import wiring\n")
    assert (ours(tree), outside(tree)) == ({"wiring"}, {"boto3"})


def test_a_module_of_a_package_is_told_from_a_name_in_a_module() -> None:
    tree = ast.parse("from quarantine_release.domain import ids\nfrom quarantine_release.domain.ids import MessageId\n")
    assert ours(tree) == {"domain.ids"}


def test_the_environment_is_read_in_settings_alone() -> None:
    readers = {
        module
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute | ast.Name)
        and ast.unparse(node) in ("os.environ", "os.environb", "os.getenv", "environ", "getenv")
    }
    assert readers == {"config.settings"}


def test_the_time_is_asked_in_wiring_alone() -> None:
    askers = {
        module
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and ast.unparse(node) in ("datetime.now", "datetime.utcnow", "datetime.today", "date.today")
    }
    assert askers == {"wiring"}


@pytest.mark.parametrize("module", sorted(TREES))
def test_every_module_says_what_lives_in_it(module: str) -> None:
    assert ast.get_docstring(TREES[module])


@pytest.mark.parametrize("module", sorted(TREES))
def test_a_module_consists_of_definitions(module: str) -> None:
    definitions = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    others = [node for node in TREES[module].body[1:] if not isinstance(node, definitions)]
    found = [ast.unparse(node).splitlines()[0] for node in others]
    assert [line for line in found if line != "if TYPE_CHECKING:"] == CALLS_AT_IMPORT.get(module, [])


def test_the_entry_points_load_first_what_spares_the_rest_the_search_for_garbage() -> None:
    for module in ENTRY_POINTS:
        first = next(name for name in imports_of(TREES[module]) if name.startswith(OURS))
        assert first == f"{OURS}.init_phase"
        assert {each for each in outside(TREES[module]) if each != "aws_lambda_powertools"} == set()


IMPORT_ALL = """
import sys

def forbid(event, arguments):
    if event.startswith(("socket.", "subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.system")):
        if event != "socket.__new__":
            raise AssertionError(f"{event} at import")

sys.path.insert(0, sys.argv[1])
sys.addaudithook(forbid)
for module in sys.argv[2:]:
    __import__(f"quarantine_release.{module}".rstrip("."))
"""


@pytest.mark.outside
def test_importing_needs_no_environment_and_opens_no_connection() -> None:
    command = [sys.executable, "-I", "-W", "error", "-c", IMPORT_ALL, str(SOURCE), *sorted(TREES)]
    run = subprocess.run(command, env={}, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
