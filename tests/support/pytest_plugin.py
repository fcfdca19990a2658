"""How the tests run: the order and spread over processes, what coverage traces, and the search for leaked canaries.

`tests/conftest.py` loads it. The fixtures are there.
"""

import os
import sys
import threading
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from tests.support.canaries import leaked

SIMULATION = "tests/simulation/test_simulation"
# Tests that start or call something, by the fixture that does it. Others have the mark `outside`.
OUTSIDE = {"upstream_server", "stack", "system", "story", "package", "running"}
FORBIDDEN = ("socket.connect", "socket.bind", "subprocess.Popen", "os.fork", "os.posix_spawn", "os.exec")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--unit", action="store_true", help="run the tests that need no process and no socket")


def pytest_configure(config: pytest.Config) -> None:
    if config.option.unit:
        sys.addaudithook(_forbid)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Hold each unit test to what `--unit` promises."""
    _at_work.append(item)
    try:
        return (yield)
    finally:
        _at_work.clear()


_at_work: list[pytest.Item] = []


def _forbid(event: str, _: tuple[Any, ...]) -> None:
    if _at_work and event.startswith(FORBIDDEN):
        raise AssertionError(f"{event}: mark the test as `outside`, so that `make check` leaves it out")


class _ByModule(LoadScopeScheduling):
    """Keeps a module or a class in one process, because it starts things once. Only simulations start nothing."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid if nodeid.startswith(SIMULATION) else super()._split_scope(nodeid.partition("[")[0])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Spread the tests over several processes, in their order."""
    config.option.loadscopereorder = False
    return _ByModule(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With several processes, begin with the tests that mostly wait, and end with the many short simulations."""
    if config.option.unit:
        items[:] = [item for item in items if _is_unit(item)]
        for item in items:
            _shorten(item)
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: 0 if "slow" in _names(item) else 2 if item.nodeid.startswith(SIMULATION) else 1)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Do not trace a test that covers no line of its own: tracing doubles its time.

    The mark `no_cover` of pytest-cov does not do: of the two tracers in a process of xdist it stops only one.
    """
    if not (_names(pyfuncitem) & {"slow", "simulation", "measured"} or _is_on_moto(pyfuncitem)):
        return (yield)
    tracers = sys.gettrace(), threading.gettrace()
    sys.settrace(None)
    threading.settrace(None)
    try:
        return (yield)
    finally:
        sys.settrace(tracers[0])
        threading.settrace(tracers[1])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test that printed a secret or a personal field, in metrics, logs or warnings."""
    report = yield
    if report.passed and (found := leaked(report.capstdout + report.capstderr + report.caplog)):
        report.outcome, report.longrepr = "failed", f"{item.nodeid} let out, while {call.when}: {found}"
    return report


def _names(item: pytest.Item) -> set[str]:
    return {mark.name for mark in item.iter_markers()}


def _shorten(item: pytest.Item) -> None:
    """Give a property test 20 examples at most. Hypothesis has no public way to change what a test says of itself."""
    test = getattr(item, "function", None)
    if own := getattr(test, "_hypothesis_internal_use_settings", None):
        test._hypothesis_internal_use_settings = settings(own, max_examples=min(20, own.max_examples))  # type: ignore[union-attr]


def _is_unit(item: pytest.Item) -> bool:
    needs = set(getattr(item, "fixturenames", ()))
    return not (needs & OUTSIDE or _names(item) & {"outside", "slow", "simulation", "measured"} or _is_on_moto(item))


def _is_on_moto(item: pytest.Item) -> bool:
    """The same test also runs on the model, which is traced."""
    return isinstance(item, pytest.Function) and "[moto" in item.name
