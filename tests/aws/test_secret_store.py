"""The cached secrets, on moto and on a Secrets Manager that fails: how old they may be, how often they are fetched."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.stub import Stubber
from hypothesis import given
from hypothesis import strategies as st
from moto import mock_aws

from quarantine_release.aws.secret_store import FRESH, REFETCH_EVERY, STALE, CachedSecret
from quarantine_release.config.accounts import parse_accounts
from quarantine_release.config.secret import SecretMalformed, SecretUnavailable
from tests.support.fault_server import FaultServer, Play, answers, refusing_port, says_and_hangs
from tests.support.stand_ins import ACCOUNT, NOON

pytestmark = pytest.mark.outside

MOMENT = timedelta(milliseconds=1)
AWS: dict[str, Any] = {
    "region_name": "eu-central-1",
    "aws_access_key_id": "made-up",
    "aws_secret_access_key": "made-up",
}


def test_a_copy_can_be_given_a_shorter_time(vault: "Vault") -> None:
    secret = CachedSecret(vault, vault.name, parse, lambda: vault.now, timedelta(seconds=2))  # type: ignore[arg-type]
    assert secret.get() == 1
    vault.rotate(2)
    vault.now += timedelta(seconds=1)
    assert secret.get() == 1
    vault.now += timedelta(seconds=1)
    assert secret.get() == 2


def parse(document: str) -> int:
    """Read a secret that is a number."""
    if not document.isdigit():
        raise SecretMalformed("is no number")
    return int(document)


@dataclass
class Vault:
    """A secret in moto's Secrets Manager, the cache before it, and a clock that stands still unless moved."""

    client: Any
    now: datetime = NOON
    fetches: int = 0
    failure: Exception | None = None
    secret: CachedSecret[int] = field(init=False)

    def __post_init__(self) -> None:
        self.name = self.client.create_secret(Name=str(uuid4()), SecretString="1")["Name"]
        self.secret = CachedSecret(self, self.name, parse, lambda: self.now)  # type: ignore[arg-type]

    def get_secret_value(self, **arguments: Any) -> Any:
        self.fetches += 1
        if self.failure is not None:
            raise self.failure
        return self.client.get_secret_value(**arguments)

    def rotate(self, document: Any) -> None:
        self.client.put_secret_value(SecretId=self.name, SecretString=str(document))

    def pass_(self, time: timedelta) -> None:
        self.now += time


def failure() -> Exception:
    """Return what botocore raises when Secrets Manager throttles."""
    client = boto3.client("secretsmanager", **AWS)
    with Stubber(client) as stubber:
        stubber.add_client_error("get_secret_value", "ThrottlingException", "canary")
        try:
            client.get_secret_value(SecretId="ours")
        except ClientError as error:
            return error
    raise AssertionError


@pytest.fixture(scope="module")
def secrets_manager() -> Iterator[Any]:
    with mock_aws():
        yield boto3.client("secretsmanager", **AWS)


@pytest.fixture
def vault(secrets_manager: Any) -> Vault:
    return Vault(secrets_manager)


def test_nothing_is_fetched_before_it_is_asked_for(vault: Vault) -> None:
    assert vault.fetches == 0
    assert vault.secret.get() == 1
    assert vault.fetches == 1


def test_a_secret_is_fetched_again_after_five_minutes_and_not_before(vault: Vault) -> None:
    assert vault.secret.get() == 1
    vault.rotate(2)
    vault.pass_(FRESH - MOMENT)
    assert vault.secret.get() == 1
    assert vault.fetches == 1
    vault.pass_(MOMENT)
    assert vault.secret.get() == 2
    assert vault.secret.get() == 2
    assert vault.fetches == 2


def test_a_secret_is_parsed_once_a_fetch(vault: Vault) -> None:
    document = json.dumps({"account_id": ACCOUNT, "api_token": "t"})
    vault.rotate(document)
    secret = CachedSecret(vault.client, vault.name, parse_accounts, lambda: vault.now)
    assert secret.get() is secret.get()
    assert secret.refetch() is not None
    assert secret.get() is secret.get()


# --- Fetched again because its content was refused -----------------------------------------------------------------


def test_a_secret_that_proved_wrong_is_fetched_at_once(vault: Vault) -> None:
    assert vault.secret.get() == 1
    vault.rotate(2)
    assert vault.secret.refetch() == 2
    assert vault.secret.get() == 2
    assert vault.fetches == 2


def test_it_is_not_fetched_again_for_that_reason_within_thirty_seconds(vault: Vault) -> None:
    vault.secret.get()
    vault.secret.refetch()
    vault.rotate(2)
    vault.pass_(REFETCH_EVERY - MOMENT)
    assert [vault.secret.refetch() for _ in range(5)] == [1] * 5
    assert vault.fetches == 2
    vault.pass_(MOMENT)
    assert vault.secret.refetch() == 2
    assert vault.fetches == 3


def test_having_been_fetched_for_another_reason_just_before_does_not_count(vault: Vault) -> None:
    assert vault.secret.get() == 1
    vault.rotate(2)
    vault.pass_(FRESH)
    assert vault.secret.get() == 2
    vault.rotate(3)
    assert vault.secret.refetch() == 3


def test_what_was_fetched_for_that_reason_is_good_for_five_minutes(vault: Vault) -> None:
    vault.secret.get()
    vault.pass_(FRESH - MOMENT)
    vault.secret.refetch()
    vault.pass_(FRESH - MOMENT)
    vault.secret.get()
    assert vault.fetches == 2


def test_it_is_fetched_in_any_case_where_nothing_is_cached(vault: Vault) -> None:
    assert vault.secret.refetch() == 1
    assert vault.fetches == 1


def test_a_stale_secret_is_fetched_even_if_it_may_not_be_for_being_wrong(vault: Vault) -> None:
    vault.secret.get()
    vault.pass_(FRESH - MOMENT)
    vault.failure = failure()
    assert vault.secret.refetch() == 1
    vault.failure = None
    vault.rotate(2)
    vault.pass_(REFETCH_EVERY - MOMENT)
    assert vault.secret.refetch() == 1
    vault.pass_(MOMENT)
    assert vault.secret.refetch() == 2
    assert vault.fetches == 3


# --- Secrets Manager fails -----------------------------------------------------------------------------------------


def test_a_copy_is_served_for_up_to_an_hour_and_then_no_more(vault: Vault) -> None:
    assert vault.secret.get() == 1
    vault.failure = failure()
    vault.pass_(STALE - MOMENT)
    assert vault.secret.get() == 1
    vault.pass_(MOMENT)
    for ask in (vault.secret.get, vault.secret.refetch, vault.secret.get):
        with pytest.raises(SecretUnavailable, match="ThrottlingException"):
            ask()


def test_a_copy_is_not_served_beyond_the_hour_because_the_last_try_was_just_before_it(vault: Vault) -> None:
    vault.secret.get()
    vault.failure = failure()
    vault.pass_(STALE - MOMENT)
    assert vault.secret.get() == 1
    assert vault.fetches == 2
    vault.pass_(MOMENT)
    with pytest.raises(SecretUnavailable):
        vault.secret.get()


def test_while_a_copy_is_served_it_is_tried_again_every_thirty_seconds(vault: Vault) -> None:
    vault.secret.get()
    vault.failure = failure()
    vault.pass_(FRESH)
    assert [vault.secret.get() for _ in range(5)] == [1] * 5
    assert vault.fetches == 2
    vault.failure = None
    vault.rotate(2)
    vault.pass_(REFETCH_EVERY - MOMENT)
    assert vault.secret.get() == 1
    vault.pass_(MOMENT)
    assert vault.secret.get() == 2
    assert vault.fetches == 3


def test_a_copy_that_was_refused_is_served_if_there_is_no_newer(vault: Vault) -> None:
    vault.secret.get()
    vault.failure = failure()
    assert vault.secret.refetch() == 1
    assert vault.secret.refetch() == 1
    assert vault.secret.get() == 1
    assert vault.fetches == 2


def test_without_a_copy_every_call_tries_and_says_why_it_failed(vault: Vault) -> None:
    vault.failure = failure()
    for _ in range(2):
        with pytest.raises(SecretUnavailable, match=r"\AThrottlingException\Z"):
            vault.secret.get()
    vault.failure = None
    assert vault.secret.get() == 1
    assert vault.fetches == 3


@pytest.mark.parametrize(
    ("play", "reason"),
    [
        (answers(400, b'{"__type": "AccessDeniedException", "message": "canary"}'), "AccessDeniedException"),
        (answers(500, b"canary"), "500"),
        (says_and_hangs(b""), "ReadTimeoutError"),
        (None, "EndpointConnectionError"),
    ],
)
def test_every_failure_of_botocore_is_told_by_its_code_or_class_and_nothing_else(
    play: Play | None, reason: str
) -> None:
    config = Config(connect_timeout=0.2, read_timeout=0.2, retries={"total_max_attempts": 1})
    with FaultServer([play or answers(200)]) as server, refusing_port() as nobody:
        url = f"http://127.0.0.1:{server.port if play else nobody}"
        client = boto3.client("secretsmanager", config=config, endpoint_url=url, **AWS)
        with pytest.raises(SecretUnavailable) as raised:
            CachedSecret(client, "ours", parse, lambda: NOON).get()
        client.close()
    assert str(raised.value) == reason


def test_a_secret_that_does_not_exist_is_unavailable(secrets_manager: Any) -> None:
    with pytest.raises(SecretUnavailable, match="ResourceNotFoundException"):
        CachedSecret(secrets_manager, "nowhere", parse, lambda: NOON).get()


# --- The secret itself is wrong ------------------------------------------------------------------------------------


def test_a_malformed_secret_is_never_served_as_it_was_and_is_read_as_soon_as_it_is_mended(vault: Vault) -> None:
    assert vault.secret.get() == 1
    vault.rotate("broken")
    vault.pass_(FRESH)
    for _ in range(3):
        with pytest.raises(SecretMalformed):
            vault.secret.get()
        vault.pass_(MOMENT)
    vault.rotate(2)
    assert vault.secret.get() == 2


def test_a_malformed_secret_takes_nothing_from_the_copy_that_is_still_good(vault: Vault) -> None:
    assert vault.secret.get() == 1
    vault.rotate("broken")
    with pytest.raises(SecretMalformed):
        vault.secret.refetch()
    vault.pass_(FRESH - MOMENT)
    assert vault.secret.get() == 1
    vault.pass_(MOMENT)
    with pytest.raises(SecretMalformed):
        vault.secret.get()


def test_a_copy_from_before_is_served_when_the_malformed_secret_cannot_be_fetched_either(vault: Vault) -> None:
    assert vault.secret.get() == 1
    vault.rotate("broken")
    vault.pass_(FRESH)
    with pytest.raises(SecretMalformed):
        vault.secret.get()
    vault.failure = failure()
    assert vault.secret.get() == 1


def test_a_malformed_first_secret_is_read_as_soon_as_it_is_mended(vault: Vault) -> None:
    vault.rotate("broken")
    for ask in (vault.secret.get, vault.secret.refetch, vault.secret.refetch):
        with pytest.raises(SecretMalformed):
            ask()
    vault.rotate(2)
    assert vault.secret.get() == 2


def test_a_binary_secret_is_malformed(vault: Vault) -> None:
    vault.client.put_secret_value(SecretId=vault.name, SecretBinary=b"1")
    with pytest.raises(SecretMalformed):
        vault.secret.get()


# --- Whatever happens ----------------------------------------------------------------------------------------------

Step = tuple[str, Any]
steps = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.sampled_from(["get", "refetch"])),
        st.tuples(st.just("ask"), st.sampled_from(["get", "refetch"])),
        st.tuples(st.just("pass"), st.sampled_from([0.001, 1, 29.999, 30, 299.999, 300, 1800, 3600])),
        st.tuples(st.just("rotate"), st.sampled_from(["good", "good", "broken"])),
        st.tuples(st.just("outage"), st.booleans()),
    ),
    max_size=40,
)


@dataclass
class Store:
    """A Secrets Manager whose every state and every fetch is remembered."""

    failing: Exception
    now: datetime = NOON
    is_down: bool = False
    versions: list[tuple[datetime, str]] = field(default_factory=lambda: [(NOON, "0")])
    fetches: list[datetime] = field(default_factory=list)

    def get_secret_value(self, **_: Any) -> dict[str, str]:
        self.fetches.append(self.now)
        if self.is_down:
            raise self.failing
        return {"SecretString": self.versions[-1][1]}

    def age(self, content: int) -> timedelta:
        """Return for how long this content has not been the secret any more."""
        position = [document for _, document in self.versions].index(str(content))
        later = [began for began, _ in self.versions[position + 1 :]]
        return self.now - later[0] if later else timedelta(0)


FAILING = failure()


@given(steps)
def test_in_any_order_of_rotations_and_outages_a_secret_is_recent_and_rarely_fetched(sequence: list[Step]) -> None:
    store = Store(FAILING)
    secret = CachedSecret(store, "ours", parse, lambda: store.now)  # type: ignore[arg-type]
    has_been_down = False
    for step, what in sequence:
        if step == "pass":
            store.now += timedelta(seconds=what)
        elif step == "rotate":
            store.versions.append((store.now, "broken" if what == "broken" else str(len(store.versions))))
        elif step == "outage":
            store.is_down = what
            has_been_down = has_been_down or what
        else:
            before = len(store.fetches)
            ask: Callable[[], int] = secret.get if what == "get" else secret.refetch
            try:
                content = ask()
            except SecretUnavailable:
                assert store.is_down
                continue
            except SecretMalformed:
                assert not store.is_down
                assert store.versions[-1][1] == "broken"
                continue
            finally:
                assert len(store.fetches) - before <= 1
            assert store.age(content) < (STALE if has_been_down else FRESH)
            was_fetched = len(store.fetches) > before and not store.is_down
            assert not was_fetched or str(content) == store.versions[-1][1]
    if "broken" not in {document for _, document in store.versions} and not has_been_down:
        windows = [[at for at in store.fetches if start <= at < start + REFETCH_EVERY] for start in store.fetches]
        assert all(len(window) <= 2 for window in windows), "one as it is due, one more as it proved wrong"
