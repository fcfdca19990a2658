"""The package that Lambda gets, built by the Makefile's recipe, with wheels for this machine to import it here."""

import ast
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from benchmarks import packages
from benchmarks.certificate import Certificate
from benchmarks.lambda_process import release_event, services
from tools.trim_package import OPERATIONS

ROOT = Path(__file__).parent.parent.parent
UNCHECKED_HASH = (1).to_bytes(4, "little")  # PEP 552: the second word of a .pyc
FOLDERS = {
    "aws_lambda_powertools",
    "botocore",
    "certifi",
    "dateutil",
    "jmespath",
    "quarantine_release",
    "urllib3",
}
FILES = {"six", "typing_extensions"}
MOST_BYTES = 7_700_000
pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Package:
    """The built package, and the Python it is for."""

    folder: Path
    python: str

    def run(self, code: str, environment: Mapping[str, str] | None = None) -> str:
        """Run code that finds the package and the standard library, and nothing that is installed on this machine."""
        code = f"import sys; sys.path.insert(0, {str(self.folder)!r})\n{code}"
        command = [self.python, "-I", "-S", "-B", "-W", "error", "-c", code]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    # Not as a part of the `make test` that runs this, whose PYTHON may be another.
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    }
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    found = make("python", "PYTHON=python3.13")
    if found.returncode:
        pytest.skip("no python3.13 runs here, and nothing else builds the package")
    if sys.platform != "linux":
        pytest.skip("the recipe takes Linux wheels, which cannot be imported here")
    folder = tmp_path_factory.mktemp("package")
    build_into(folder)
    return Package(folder, python=found.stdout.split()[1])


def build_into(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    wheels = f"LAMBDA_PLATFORM=manylinux2014_{platform.machine()}"
    built = make("build-WebhookFunction", f"ARTIFACTS_DIR={folder}", wheels, *arguments)
    assert built.returncode == 0, built.stderr
    assert built.stdout == ""
    return built


def content_of(folder: Path) -> dict[str, str]:
    """Return the hash of each file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("function", ["WebhookFunction", "WorkerFunction", "ReconcilerFunction"])
def test_what_is_deployed_is_built_for_the_machine_it_runs_on(package: Package, function: str) -> None:
    recipe = make("--dry-run", f"build-{function}", "ARTIFACTS_DIR=there").stdout
    assert f"{package.python} -m pip " in recipe
    assert "--platform manylinux2014_aarch64 " in recipe
    assert "--python-version 3.13 " in recipe


def test_two_builds_are_the_same_to_the_byte(package: Package, tmp_path: Path) -> None:
    build_into(tmp_path)
    assert content_of(tmp_path) == content_of(package.folder)


def test_without_a_3_13_the_same_is_built_but_for_the_bytecode(package: Package, tmp_path: Path) -> None:
    if make("python", "PYTHON=python3.11").returncode:
        pytest.skip("no python3.11 runs here")
    built = build_into(tmp_path, "PYTHON=python3.11")
    assert built.stderr.startswith("WARNING: no python3.13 runs here, so the package has no bytecode")
    whole = content_of(package.folder)
    assert content_of(tmp_path) == {name: digest for name, digest in whole.items() if not name.endswith(".pyc")}


def test_which_wheels_are_installed_depends_on_no_python() -> None:
    assert " ; " not in (ROOT / "src" / "requirements.txt").read_text(), "a marker, which pip reads for itself"


def test_the_operations_that_are_left_are_those_that_are_called() -> None:
    called = {
        node.func.attr
        for path in (ROOT / "src" / "quarantine_release").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if ast.unparse(node.func.value) == "self._client"
    }
    left = [name for names in OPERATIONS.values() for name in names]
    assert sorted(re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower() for name in left) == sorted(called)


def test_what_is_left_of_botocore_makes_the_same_request_of_each_operation(package: Package) -> None:
    code = """
import json
from botocore.session import Session
session = Session()
found = {}
for service, names in OPERATIONS.items():
    model = session.get_service_model(service)
    if CHECKS_NAMES:
        assert sorted(model.operation_names) == sorted(names)
    for name in names:
        operation = model.operation_model(name)
        shapes = [operation.input_shape, operation.output_shape, *operation.error_shapes]
        found[name] = [operation.http, operation.idempotent_members, [sorted(each.members) for each in shapes]]
print(json.dumps(found))
"""
    operations = {service: sorted(names) for service, names in OPERATIONS.items()}
    whole = f"OPERATIONS, CHECKS_NAMES = {operations}, False\n{code}"
    command = [sys.executable, "-c", whole]
    known = subprocess.run(command, env={}, capture_output=True, text=True, check=True)
    assert json.loads(package.run(whole.replace("False", "True", 1), {})) == json.loads(known.stdout)


ENDPOINTS = """
import json
from botocore.exceptions import BotoCoreError
from botocore.session import Session
session = Session()
session.set_credentials("a", "b")
found = {}
for service in ("dynamodb", "secretsmanager", "sqs"):
    for partition in session.get_available_partitions():
        for region in session.get_available_regions(service, partition):
            found[f"{service} {region}"] = session.create_client(service, region).meta.endpoint_url
print(json.dumps(found))
"""


def test_what_is_left_of_botocore_finds_every_endpoint_that_the_whole_one_finds(package: Package) -> None:
    whole = subprocess.run([sys.executable, "-c", ENDPOINTS], env={}, capture_output=True, text=True, check=True)
    endpoints = json.loads(package.run(ENDPOINTS, {}))
    assert endpoints == json.loads(whole.stdout)
    assert endpoints["dynamodb eu-central-1"] == "https://dynamodb.eu-central-1.amazonaws.com"
    assert endpoints["sqs cn-north-1"] == "https://sqs.cn-north-1.amazonaws.com.cn"
    assert len(endpoints) > 90


@pytest.mark.parametrize("name", ["webhook", "worker", "reconciler"])
def test_every_handler_can_be_imported_from_the_package(package: Package, name: str) -> None:
    code = f"import quarantine_release.{name} as entry; print(entry.__file__, callable(entry.lambda_handler))"
    assert package.run(code) == f"{package.folder}/quarantine_release/{name}.py True\n"


def test_every_module_has_bytecode_that_lambda_takes_without_a_check(package: Package) -> None:
    magic = package.run("from importlib.util import MAGIC_NUMBER; print(MAGIC_NUMBER.hex())")
    for source in package.folder.rglob("*.py"):
        compiled = (source.parent / "__pycache__" / f"{source.stem}.cpython-313.pyc").read_bytes()
        assert compiled[:8] == bytes.fromhex(magic) + UNCHECKED_HASH, source
        assert f"/var/task/{source.relative_to(package.folder)}".encode() in compiled


RUN = """
import importlib, io, json
from contextlib import redirect_stdout

class Context:
    function_name, function_version, memory_limit_in_mb, aws_request_id = "f", "1", 512, "a"
    invoked_function_arn = "arn:aws:lambda:us-east-1:123456789012:function:f"

    def get_remaining_time_in_millis(self):
        return 20_000

name, events = GIVEN
answers = []
with redirect_stdout(io.StringIO()) as log:
    handler = importlib.import_module(f"quarantine_release.{name}").lambda_handler
    primed = set(sys.modules)
    for event in events:
        answers.append(handler(event, Context()))
loaded = [getattr(module, "__file__", None) or "" for module in list(sys.modules.values())]
files = [file.removeprefix(sys.path[0] + "/") for file in loaded if file.startswith(sys.path[0])]
late = sorted(set(sys.modules) - primed)
print(json.dumps({"answers": answers, "late": late, "files": files, "log": log.getvalue()}))
"""


@pytest.fixture(scope="module")
def runs(package: Package, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Run each function from a copy of the package, which trusts this machine's own DynamoDB and Cloudflare too."""
    folder = tmp_path_factory.mktemp("trusting")
    shutil.copytree(package.folder, folder, dirs_exist_ok=True)
    certificate = Certificate.make(tmp_path_factory.mktemp("certificate"))
    copy = Package(folder, package.python)
    packages.Package("ours", folder, "").trust(certificate.authority)
    one = release_event()
    ids = json.loads(one["body"])["ids"]
    ended = {"body": json.dumps({"v": 1, "request_id": f"rq_{'a' * 26}", "chunk": None}), "messageId": "1"}
    events: dict[str, list[Any]] = {
        "webhook": [
            one,
            release_event(body=json.dumps({"ids": ids})),
            release_event(25),
            release_event(key="a-key"),
            release_event(body="{"),
            {**one, "path": "/v1/nowhere"},
        ],
        "worker": [{"Records": [ended]}, {"Records": [{"body": "?", "messageId": "2"}]}],
        "reconciler": [{}],
    }
    with services(certificate) as around:
        return {
            name: json.loads(copy.run(f"GIVEN = {(name, each)!r}\n{RUN}", around.environment))
            for name, each in events.items()
        }


def test_every_function_runs_from_the_package(runs: Mapping[str, Mapping[str, Any]]) -> None:
    assert [answer["statusCode"] for answer in runs["webhook"]["answers"]] == [200, 200, 200, 200, 400, 404]
    outcomes = [json.loads(answer["body"]).get("outcome") for answer in runs["webhook"]["answers"]]
    assert outcomes == ["released", "released", "released", "released", None, None]
    assert runs["worker"]["answers"] == [{"batchItemFailures": []}] * 2
    assert runs["reconciler"]["answers"] == [{"attempts": 0, "settled": 0, "requests": 0, "hints": 0}]
    for run in runs.values():
        assert "priming_failed" not in run["log"]


def test_no_request_loads_a_module(runs: Mapping[str, Mapping[str, Any]]) -> None:
    assert {name: run["late"] for name, run in runs.items()} == {"webhook": [], "worker": [], "reconciler": []}


def test_the_package_holds_what_is_used_and_little_else(
    package: Package, runs: Mapping[str, Mapping[str, Any]]
) -> None:
    assert {path.name for path in package.folder.iterdir()} == FOLDERS | {f"{name}.py" for name in FILES} | {
        "__pycache__"
    }
    data = package.folder / "botocore" / "data"
    assert {path.name for path in data.iterdir() if path.is_dir()} == OPERATIONS.keys()
    assert {path.name for path in data.rglob("*") if path.is_file()} == {
        "_retry.json",
        "endpoint-rule-set-1.json.gz",
        "endpoints.json",
        "partitions.json",
        "sdk-default-configuration.json",
        "service-2.json",
        "service-2.sdk-extras.json",
    }
    assert {path.suffix for path in package.folder.rglob("*") if path.is_file()} == {
        ".gz",
        ".json",
        ".pem",
        ".py",
        ".pyc",
    }
    assert sum(path.stat().st_size for path in package.folder.rglob("*") if path.is_file()) < MOST_BYTES
    loaded = {file for run in runs.values() for file in run["files"]}
    modules = list(package.folder.rglob("*.py"))
    sources = {path.relative_to(package.folder).as_posix(): path.stat().st_size for path in modules}
    assert {name.partition("/")[0].removesuffix(".py") for name in loaded & sources.keys()} == FOLDERS | FILES
    assert {name for name in sources.keys() - loaded if name.startswith("quarantine_release/")} == set()
    unused = sum(size for name, size in sources.items() if name not in loaded)
    assert unused < sum(sources.values()) / 4
