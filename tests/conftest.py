"""Fixtures for every test: nothing is left of another test, and no connection leaves this machine.

How the tests run is in `tests/support/pytest_plugin.py`.
"""

import os
import socket
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
from moto import mock_aws

# Powertools reads these when telemetry.py is imported.
os.environ |= {
    "POWERTOOLS_SERVICE_NAME": "quarantine-release",
    "POWERTOOLS_METRICS_NAMESPACE": "QuarantineRelease",
    "POWERTOOLS_LOG_LEVEL": "INFO",
}

from quarantine_release import telemetry, wiring
from tests.support.deployment import Deployment, aws_session, deploy, deployed_template
from tests.support.model_dynamodb import Fault, ModelDynamoDB
from tests.support.small_cloudflare import Upstream, serve_upstream
from tests.support.stand_ins import World

pytest_plugins = ("tests.support.pytest_plugin",)

# The first example pays for imports: a time limit would measure the machine.
hypothesis.settings.register_profile("project", deadline=None)
hypothesis.settings.load_profile("project")


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
