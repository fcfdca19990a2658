"""The locks hold what pyproject.toml asks for, one version of it everywhere, and nothing of the writing machine."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RUNTIME = "src/requirements.txt"
RUN, DEV, SAM = "requirements/run.txt", "requirements/dev.txt", "requirements/sam.txt"
FUZZ, MUTANTS, BENCH = "requirements/fuzz.txt", "requirements/mutants.txt", "requirements/bench.txt"
# A pin, perhaps for some machines only, and its hashes. An index, an option, an address or a path looks like neither.
PIN = re.compile(r"(?P<name>[a-z0-9-]+)==(?P<version>[0-9][0-9a-z.]*)(?: ; (?P<marker>[a-zA-Z_0-9.*<>=!' ]+))? \\")
HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}(?P<more> \\)?")


def pins(lock: str) -> dict[str, set[str]]:
    """The versions of each package: several only where they are for different machines."""
    found: dict[str, set[str]] = {}
    for line in (ROOT / lock).read_text().splitlines():
        if pin := PIN.fullmatch(line):
            found.setdefault(pin["name"], set()).add(pin["version"])
    return found


def group(name: str) -> list[Requirement]:
    members: list[Any] = PROJECT["dependency-groups"][name]
    return [
        requirement
        for member in members
        for requirement in ([Requirement(member)] if isinstance(member, str) else group(member["include-group"]))
    ]


RUNTIME_NEEDS = [Requirement(text) for text in PROJECT["project"]["dependencies"]]
NEEDS = {
    RUNTIME: RUNTIME_NEEDS,
    RUN: RUNTIME_NEEDS + group("run"),
    DEV: RUNTIME_NEEDS + group("dev"),
    FUZZ: RUNTIME_NEEDS + group("fuzz"),
    MUTANTS: RUNTIME_NEEDS + group("mutants"),
    BENCH: group("bench"),
    SAM: group("sam"),
}


def test_every_lock_is_checked_here() -> None:
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "requirements").iterdir()} | {RUNTIME} == NEEDS.keys()


@pytest.mark.parametrize("lock", NEEDS)
def test_a_lock_is_pins_with_hashes_and_nothing_else(lock: str) -> None:
    hashes_follow = False
    for line in (ROOT / lock).read_text().splitlines():
        pattern = HASH if hashes_follow else PIN
        match = pattern.fullmatch(line)
        assert match, f"{lock}: {line}"
        hashes_follow = pattern is PIN or bool(match["more"])
    assert not hashes_follow


@pytest.mark.parametrize("lock", NEEDS)
def test_a_lock_holds_every_direct_dependency_in_a_version_that_is_asked_for(lock: str) -> None:
    locked = pins(lock)
    for need in NEEDS[lock]:
        versions = locked.get(canonicalize_name(need.name), set())
        assert versions, f"{need.name} is not in {lock}"
        assert all(need.specifier.contains(version) for version in versions), f"{need} in {lock}: {versions}"


@pytest.mark.parametrize(("smaller", "larger"), [(RUNTIME, RUN), (RUN, DEV)])
def test_what_is_tested_is_what_runs(smaller: str, larger: str) -> None:
    larger_pins = pins(larger)
    for name, versions in pins(smaller).items():
        assert larger_pins[name] == versions
