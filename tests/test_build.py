"""The package that Lambda gets, built by the Makefile's recipe, with wheels for this machine to import it here."""

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
UNCHECKED_HASH = (1).to_bytes(4, "little")  # PEP 552: the second word of a .pyc
PARTS_OF_BOTOCORE_IN_USE = {"dynamodb", "secretsmanager", "sqs"}
pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Package:
    """The built package, and the Python it is for."""

    folder: Path
    python: str

    def run(self, code: str) -> str:
        """Run code that finds the package and the standard library, and nothing that is installed on this machine."""
        code = f"import sys; sys.path.insert(0, {str(self.folder)!r})\n{code}"
        done = subprocess.run(
            [self.python, "-I", "-S", "-W", "error", "-c", code], capture_output=True, text=True, check=False
        )
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
    wheels = f"LAMBDA_PLATFORM=manylinux2014_{platform.machine()}"
    built = make("build-WebhookFunction", f"ARTIFACTS_DIR={folder}", wheels)
    assert built.returncode == 0, built.stderr
    assert built.stdout == ""
    return Package(folder, python=found.stdout.split()[1])


@pytest.mark.parametrize("function", ["WebhookFunction", "WorkerFunction", "ReconcilerFunction"])
def test_what_is_deployed_is_built_for_the_machine_it_runs_on(package: Package, function: str) -> None:
    recipe = make("--dry-run", f"build-{function}", "ARTIFACTS_DIR=there").stdout
    assert f"{package.python} -m pip " in recipe
    assert "--platform manylinux2014_aarch64 " in recipe
    assert "--python-version 3.13 " in recipe


def test_the_three_clients_can_be_made_from_what_is_left_of_botocore(package: Package) -> None:
    code = """
import boto3
for service in ("dynamodb", "secretsmanager", "sqs"):
    client = boto3.client(service, region_name="eu-central-1", aws_access_key_id="a", aws_secret_access_key="b")
    print(client.meta.endpoint_url)
"""
    assert package.run(code).split() == [
        "https://dynamodb.eu-central-1.amazonaws.com",
        "https://secretsmanager.eu-central-1.amazonaws.com",
        "https://sqs.eu-central-1.amazonaws.com",
    ]


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


def test_the_package_holds_nothing_that_is_not_used(package: Package) -> None:
    services = {path.name for path in (package.folder / "botocore" / "data").iterdir() if path.is_dir()}
    assert services == PARTS_OF_BOTOCORE_IN_USE
    assert not [path for pattern in ("*.dist-info", "*/tests", "bin") for path in package.folder.glob(pattern)]
    assert {path.suffix for path in package.folder.rglob("__pycache__/*")} == {".pyc"}
    assert sum(path.stat().st_size for path in package.folder.rglob("*") if path.is_file()) < 20_000_000
