"""What holds for every test: nothing left of another test, no way off this machine, no stop-watch on property tests.

And which tests are measured without a look at their lines, and how `pytest --numprocesses` spreads them.
"""

import os
import socket
import sys
import threading
from collections.abc import Generator, Iterator
from typing import Any

import hypothesis
import pytest
from moto import mock_aws
from xdist.scheduler import LoadScopeScheduling

# Powertools reads these when telemetry.py is imported.
os.environ |= {
    "POWERTOOLS_SERVICE_NAME": "quarantine-release",
    "POWERTOOLS_METRICS_NAMESPACE": "QuarantineRelease",
    "POWERTOOLS_LOG_LEVEL": "INFO",
}

from quarantine_release import telemetry, wiring
from tests.support.canaries import leaked
from tests.support.deployment import Deployment, aws_session, deploy, deployed_template
from tests.support.model_dynamodb import Fault, ModelDynamoDB
from tests.support.small_cloudflare import Upstream, serve_upstream
from tests.support.stand_ins import World

# The first example pays for imports: a time limit would measure the machine.
hypothesis.settings.register_profile("project", deadline=None)
hypothesis.settings.load_profile("project")


class _ByModule(LoadScopeScheduling):
    """Keeps a module or a class in one process, for what it starts once; only simulations start nothing."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid if nodeid.startswith("tests/test_simulation") else super()._split_scope(nodeid.partition("[")[0])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Spread the tests over several processes, in their order."""
    config.option.loadscopereorder = False
    return _ByModule(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what mostly waits, among several processes."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        # The many short runs come last, so that all processes end together.
        items.sort(key=lambda item: 0 if "slow" in _names(item) else 2 if item.path.stem == "test_simulation" else 1)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Trace no test whose lines others go through too: it doubles its time, also where it is not in src/.

    Not the mark `no_cover` of pytest-cov, which leaves one of the two tracers that it starts in a process of xdist.
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
    """Fail a test that left a secret or a personal field in what it printed: metrics, logs, warnings."""
    report = yield
    if report.passed and (found := leaked(report.capstdout + report.capstderr + report.caplog)):
        report.outcome, report.longrepr = "failed", f"{item.nodeid} let out, while {call.when}: {found}"
    return report


def _names(item: pytest.Item) -> set[str]:
    return {mark.name for mark in item.iter_markers()}


def _is_on_moto(item: pytest.Item) -> bool:
    """Say whether the same test also runs on the model."""
    return isinstance(item, pytest.Function) and "[moto" in item.name


_connect = socket.socket.connect


def _connect_here(self: socket.socket, address: Any) -> None:
    if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise AssertionError(f"a test reached out to {address[0]}")
    _connect(self, address)


@pytest.fixture(autouse=True)
def _from_nothing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(socket.socket, "connect", _connect_here)
    yield
    for builder in vars(wiring).values():
        if hasattr(builder, "cache_clear"):
            builder.cache_clear()
    telemetry.metrics.clear_metrics()


@pytest.fixture(scope="session")
def upstream_server() -> Iterator[Upstream]:
    with serve_upstream() as upstream:
        yield upstream


@pytest.fixture
def upstream(upstream_server: Upstream) -> Upstream:
    """Return the small Cloudflare, knowing nothing yet."""
    upstream_server.reset()
    return upstream_server


@pytest.fixture
def deployment(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    """Return the webhook deployed beside the small Cloudflare, both secrets filled."""
    with deploy(upstream, monkeypatch) as deployment:
        yield deployment


@pytest.fixture(params=["moto", "model"])
def dynamodb(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Return DynamoDB with the template's table: moto's and, beside it, the model that simulations use."""
    if request.param == "model":
        yield ModelDynamoDB()
        return
    with mock_aws(config={"core": {"reset_boto3_session": False}}):
        client = aws_session().client("dynamodb")
        (table,) = deployed_template().tables()
        names = ("KeySchema", "AttributeDefinitions", "GlobalSecondaryIndexes", "BillingMode")
        client.create_table(TableName="ledger", **{name: table[name] for name in names})
        yield client


@pytest.fixture
def faults() -> list[Fault | None]:
    """What goes wrong with the next calls of DynamoDB's model, one by one."""
    return []


@pytest.fixture
def world(faults: list[Fault | None]) -> World:
    """Stand in for everything outside the core."""
    return World(ModelDynamoDB(lambda _: faults.pop(0) if faults else None))
