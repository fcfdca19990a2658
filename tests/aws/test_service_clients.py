"""The clients of AWS, against HTTPS servers of this machine: which connections they open, and what these cost."""

import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError, SSLError
from botocore.session import Session

from benchmarks.certificate import Certificate
from benchmarks.loopback import Answer, Server
from quarantine_release import wiring
from quarantine_release.aws.service_clients import IDLE_SECONDS, AwsClients

pytestmark = pytest.mark.outside


class Context(ssl.SSLContext):
    """Counts what it costs most to do."""

    bundles_read = 0

    def load_verify_locations(self, *args: Any, **kwargs: Any) -> None:
        self.bundles_read += 1
        super().load_verify_locations(*args, **kwargs)


class Clock:
    """Tells the time that it is set to."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Region(Server):
    """DynamoDB, SQS and Secrets Manager, which have nothing."""

    def __init__(self, certificate: Certificate) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.file)
        self.calls: list[str] = []
        self.failures = 0
        super().__init__(context, self.answer)

    def answer(self, headers: Mapping[str, str], _: str, __: bytes) -> Answer:
        self.calls.append(headers["x-amz-target"])
        if self.failures:
            self.failures -= 1
            return 500, {"__type": "InternalServerError"}
        return 200, {}


@pytest.fixture(autouse=True)
def _no_bundle_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate.make(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def region(certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> Iterator[Region]:
    server = Region(certificate)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://localhost:{server.port}")
    yield server
    server.close()


@pytest.fixture
def context(certificate: Certificate) -> Context:
    context = Context(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=certificate.authority.decode())
    return context


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def session() -> Session:
    session = Session()
    session.set_credentials("made-up", "made-up")
    session.set_config_variable("region", "us-east-1")
    return session


@pytest.fixture
def clients(session: Session, context: Context, clock: Clock) -> Iterator[AwsClients]:
    clients = AwsClients(session, context, clock)
    yield clients
    clients.close()


def read(clients: AwsClients) -> None:
    clients.client("dynamodb").batch_get_item(RequestItems={"table": {"Keys": [{"pk": {"S": "R#1"}}]}})


def test_each_client_is_made_once(clients: AwsClients) -> None:
    assert clients.client("sqs") is clients.client("sqs")


def test_one_connection_serves_every_client_and_the_bundle_is_read_once(
    clients: AwsClients, region: Region, context: Context
) -> None:
    read(clients)
    read(clients)
    clients.client("secretsmanager").get_secret_value(SecretId="a")
    assert len(region.calls) == 3
    assert region.accepted == 1
    assert context.bundles_read == 1


def test_a_new_connection_reads_no_bundle(clients: AwsClients, region: Region, context: Context) -> None:
    for _ in range(3):
        read(clients)
        clients.close()
    assert region.accepted == 3
    assert context.bundles_read == 1


def test_a_connection_that_was_idle_for_long_is_not_used_again(
    clients: AwsClients, region: Region, clock: Clock
) -> None:
    read(clients)
    clock.now += IDLE_SECONDS
    read(clients)
    assert region.accepted == 1
    clock.now += IDLE_SECONDS + 0.1
    read(clients)
    assert region.accepted == 2
    clock.now -= 60  # a clock that was set tells nothing
    read(clients)
    assert (len(region.calls), region.accepted) == (4, 3)


def test_after_a_loss_the_same_call_goes_out_on_a_new_connection(clients: AwsClients, region: Region) -> None:
    read(clients)
    region.lose_connections()
    read(clients)
    assert len(region.calls) == 2


@pytest.mark.usefixtures("region")
def test_who_is_not_vouched_for_is_not_talked_to(session: Session) -> None:
    clients = AwsClients(session, ssl.create_default_context())
    clients.client("dynamodb")
    with clients.tried_once(), pytest.raises(SSLError):
        read(clients)
    clients.close()


@pytest.mark.usefixtures("region")
def test_a_bundle_that_the_environment_names_is_used_for_aws(
    session: Session, certificate: Certificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "authority.pem"
    bundle.write_bytes(certificate.authority)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
    clients = AwsClients(session, ssl.create_default_context())
    read(clients)
    clients.close()


def test_what_fails_is_tried_again_but_for_what_gets_no_answer_where_once_is_enough(
    clients: AwsClients, region: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    region.failures = 1
    read(clients)
    assert len(region.calls) == 2
    tries: list[object] = []
    clients.client("dynamodb").meta.events.register("before-send", lambda request, **_: tries.append(request))
    region.close()
    with pytest.raises(EndpointConnectionError):
        read(clients)
    assert len(tries) == 3
    with clients.tried_once(), pytest.raises(EndpointConnectionError):
        read(clients)
    assert len(tries) == 4
    with pytest.raises(EndpointConnectionError):
        read(clients)
    assert len(tries) == 7


def test_an_answer_is_waited_for_again_also_where_once_is_enough(
    clients: AwsClients, region: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    clients.client("dynamodb")
    region.failures = 1
    with clients.tried_once():
        read(clients)
    assert len(region.calls) == 2


def test_cloudflare_and_aws_share_the_one_tls_context(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[ssl.SSLContext] = []
    create = ssl.create_default_context

    def create_and_count(**given: Any) -> ssl.SSLContext:
        made.append(create(**given))
        return made[-1]

    monkeypatch.setattr(ssl, "create_default_context", create_and_count)
    wiring._aws()
    wiring._session()
    assert len(made) == 1
    assert made[0].cert_store_stats()["x509_ca"] > 50
