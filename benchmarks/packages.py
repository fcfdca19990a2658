"""Builds what is compared: our package as it is deployed, the peer's as `sam build` does by default, the floor's."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tools.trim_package import OPERATIONS, trim

ROOT: Final = Path(__file__).parent.parent
_PIP: Final = ("pip", "-qq", "--disable-pip-version-check", "install", "--require-hashes", "--no-deps", "--no-compile")


@dataclass(frozen=True, slots=True)
class Package:
    """A folder as Lambda unpacks it, the handler's module in it, and what its environment has beside the usual."""

    name: str
    folder: Path
    entry: str
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def megabytes(self) -> float:
        """Return its size, unpacked."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file()) / 1e6

    def trust(self, authority: bytes) -> None:
        """Have it trust one more authority, beside all that it reads anyway."""
        bundle = self.folder / "certifi" / "cacert.pem"
        bundle.write_bytes(bundle.read_bytes() + b"\n" + authority)


OURS: Final = "Quarantine Release"
GUARDED: Final = "Quarantine Release, guard on"
FLOOR: Final = "floor"
PEER: Final = "peer"
PEER_COMPILED: Final = "peer, with bytecode"


def lambda_python() -> str:
    """Return the Python of the functions."""
    found = _make("python", "PYTHON=python3.13")
    if found.returncode:
        raise SystemExit("This needs a python3.13, the version that the functions run on.")
    return found.stdout.split()[1]


def build(folder: Path) -> list[Package]:
    """Build all packages for this machine."""
    python = lambda_python()
    ours = Package(OURS, folder / "ours", "quarantine_release.webhook")
    wheels = [f"LAMBDA_PLATFORM=manylinux2014_{platform.machine()}"] if sys.platform == "linux" else []
    built = _make("build-WebhookFunction", f"ARTIFACTS_DIR={ours.folder}", *wheels)
    if built.returncode:
        raise SystemExit(built.stderr)

    floor = Package(FLOOR, folder / "floor", "floor")
    _install(python, ROOT / "src" / "requirements.txt", floor.folder)
    trim(floor.folder, {**OPERATIONS, "dynamodb": OPERATIONS["dynamodb"] | {"PutItem"}})
    shutil.rmtree(floor.folder / "aws_lambda_powertools")
    shutil.copy(ROOT / "benchmarks" / "floor.py", floor.folder)
    _compile(python, floor.folder)

    peer = Package(PEER, folder / "peer", "peer")
    _install(python, ROOT / "requirements" / "bench.txt", peer.folder)
    shutil.copy(ROOT / "benchmarks" / "peer.py", peer.folder)
    compiled = Package(PEER_COMPILED, folder / "compiled", "peer")
    shutil.copytree(peer.folder, compiled.folder)
    _compile(python, compiled.folder)
    return [ours, floor, peer, compiled]


def _install(python: str, lock: Path, folder: Path) -> None:
    command = [python, "-m", *_PIP, "--only-binary=:all:", "--requirement", str(lock), "--target", str(folder)]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def _compile(python: str, folder: Path) -> None:
    command = [python, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", str(folder)]
    subprocess.run(command, check=True)


def _make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make, not as a part of the make that started us."""
    inherited = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    environment = {name: value for name, value in os.environ.items() if name not in inherited}
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
