"""A thousand messages whose calls were all answered 502 after the effect: settled by reading, in packs."""

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

from local.services import Service, start_simulated_cloudflare
from quarantine_release.cloudflare.after_release import CloudflareReader
from quarantine_release.cloudflare.client import CloudflareClient
from quarantine_release.cloudflare.connection import DeadlineSession
from quarantine_release.cloudflare.search import SearchApi
from quarantine_release.config.accounts import Accounts, Credential
from quarantine_release.domain.states import Outcome
from quarantine_release.releasing.progress import Answer
from quarantine_release.usecases.accepted_request import status_of
from quarantine_release.usecases.release_now import release
from quarantine_release.usecases.settle import Summary, reconcile
from tests.support.model_dynamodb import ModelDynamoDB
from tests.support.stand_ins import ACCOUNT, Clock, World, request_row

REQUESTS, IDS_EACH = 40, 25
READS_ALLOWED = 30


class _Secret:
    def get(self) -> Accounts:
        return Accounts({ACCOUNT: Credential(ACCOUNT, {"Authorization": "Bearer simulated"})})

    refetch = get


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[Service]:
    settings: dict[str, Any] = {"account_id": ACCOUNT, "tokens": ["simulated"], "keys": {}}
    with start_simulated_cloudflare(settings, tmp_path / "simulator.log") as service:
        yield service


@pytest.mark.slow
def test_a_thousand_lost_answers_are_settled_in_packs(simulator: Service) -> None:
    script = {"behaviour": "502", "effect": True, "id": "*"}
    requests.post(f"{simulator.url}/_simulator/script", json=script, timeout=10).raise_for_status()
    started = datetime.now(UTC).replace(microsecond=0)
    world = World(ModelDynamoDB(), clock=Clock(started))
    session = DeadlineSession(ssl.create_default_context())
    base_url = f"{simulator.url}/client/v4"
    ports = world.ports(
        cloudflare=CloudflareClient(base_url, _Secret(), session, world.clock),
        reader=CloudflareReader(SearchApi(base_url, _Secret(), session, world.clock)),
    )
    asked = []
    for number in range(REQUESTS):
        at = started - timedelta(hours=2, seconds=number)
        ids = [f"4Njp3P0S{number:03d}{n:03d}-{at:%Y-%m-%dT%H:%M:%S}-{n}" for n in range(IDS_EACH)]
        request = request_row(*ids, name=str(number), created_at=world.clock())
        answer = release(request, ports)
        assert isinstance(answer, Answer)
        assert {result.outcome for result in answer.results} == {Outcome.UNCONFIRMED}
        asked.append(request)
    while world.clock.now < started + timedelta(minutes=15) and any(
        "open_kind" in item for item in world.dynamodb.items.values()
    ):
        world.clock.move(seconds=60)
        reconcile(ports, Summary())
    session.close()
    for request in asked:
        assert {result.outcome for result in status_of(request, ports).results} == {Outcome.RELEASED}
    calls = requests.get(f"{simulator.url}/_simulator/calls", timeout=10).json()
    methods = [call["method"] for call in calls]
    assert methods.count("POST") == REQUESTS
    assert 1 <= methods.count("GET") <= READS_ALLOWED
