"""What each function loads in its init phase, and how many calls outside each case takes: no stop-watch, but its cause.

`tests/deployment/test_build.py` looks at the same in the package that is deployed.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from quarantine_release import wiring
from tests.support.deployment import MESSAGE, OTHER_ACCOUNT, Deployment, path_of
from tests.support.small_cloudflare import Reply

pytestmark = pytest.mark.outside

SOURCE: Final = Path(__file__).parent.parent.parent / "src"
# The packages that each function loads, and the use cases that it is there for. The HTTP side is the webhook's alone.
COMMON: Final = frozenset(
    {"aws", "cloudflare", "config", "domain", "init_phase", "ledger", "releasing", "telemetry", "usecases", "wiring"}
)
PACKAGES: Final = {
    "webhook": COMMON | {"api", "webhook"},
    "worker": COMMON | {"worker"},
    "reconciler": COMMON | {"reconciler"},
}
USE_CASES: Final = {
    "webhook": {"accepted_request", "admission", "rehearse", "release_now"},
    "worker": {"account_turns", "postponement", "release_queued"},
    "reconciler": {"settle", "sweep"},
}
# Whatever else is loaded at first level, beside Python's own modules.
OTHERS: Final = {
    "aws_lambda_powertools",
    "botocore",
    "certifi",
    "dateutil",
    "jmespath",
    "six",
    "typing_extensions",
    "urllib3",
}
# Of Python's own those that cost, and that only a library nobody needs here would load.
NEVER: Final = {"asyncio", "ctypes", "multiprocessing", "sqlite3", "unittest", "xmlrpc"}
# Botocore's lowest layers bring them; a figure that grows says that something came along unseen.
MOST_MODULES: Final = 380
LIST_MODULES: Final = """
import sys
sys.path.insert(0, sys.argv[1])
__import__(f"quarantine_release.{sys.argv[2]}")
import json
print(json.dumps(sorted(sys.modules)))
"""


def loaded_by(function: str) -> set[str]:
    command = [sys.executable, "-W", "error", "-c", LIST_MODULES, str(SOURCE), function]
    run = subprocess.run(command, env={}, capture_output=True, text=True, check=True)
    return set(json.loads(run.stdout))


@pytest.mark.parametrize("function", PACKAGES)
def test_a_function_loads_what_it_needs_and_nothing_of_the_others(function: str) -> None:
    loaded = loaded_by(function)
    ours = {name.removeprefix("quarantine_release.") for name in loaded if name.startswith("quarantine_release.")}
    assert {name.partition(".")[0] for name in ours} == PACKAGES[function]
    assert {name.removeprefix("usecases.") for name in ours if name.startswith("usecases.")} == USE_CASES[function]
    firsts = {name.partition(".")[0] for name in loaded}
    assert firsts >= OTHERS
    foreign = firsts - OTHERS - set(sys.stdlib_module_names) - {"quarantine_release"}
    assert {name for name in foreign if not name.startswith(("__", "_distutils_hack"))} == set()
    assert loaded & NEVER == set()
    assert len(loaded) - len(ours) <= MOST_MODULES


# --- Calls ------------------------------------------------------------------------------------------------------------

CLAIM, RECORD = "TransactWriteItems", "TransactWriteItems"
BUDGET, READ = "UpdateItem", "BatchGetItem"
SECRETS: Final = ["GetSecretValue", "GetSecretValue"]


def calls_of(deployment: Deployment) -> tuple[list[str], int]:
    """Return the calls to AWS and the number of those to Cloudflare since this was last asked."""
    calls = list(deployment.aws_calls), len(deployment.upstream.requests)
    deployment.aws_calls.clear()
    deployment.upstream.requests.clear()
    wiring.budget.cache_clear()  # as after a second without calls: nothing of what was bought is left
    return calls


@pytest.fixture
def warm(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """Return a deployment past its init phase."""
    monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand")
    wiring.prime(wiring.clients, wiring.accounts)
    assert calls_of(deployment) == ([*SECRETS, READ], 0)
    return deployment


def test_a_new_message_takes_three_calls_to_aws_and_one_to_cloudflare(warm: Deployment) -> None:
    assert warm.post().status == 200
    assert calls_of(warm) == ([BUDGET, CLAIM, RECORD], 1)


def test_25_new_messages_take_no_more(warm: Deployment) -> None:
    assert warm.post([f"4Njp3P0STMz2c0{number:02d}" for number in range(25)]).status == 200
    assert calls_of(warm) == ([BUDGET, CLAIM, RECORD], 1)


def test_what_is_released_already_takes_no_call_to_cloudflare(warm: Deployment) -> None:
    warm.post()
    calls_of(warm)
    assert warm.post().result["outcome"] == "already_released"
    assert calls_of(warm) == ([BUDGET, CLAIM, RECORD], 0)


def test_a_replay_takes_two_calls_to_aws_and_none_to_cloudflare(warm: Deployment) -> None:
    key = [("Idempotency-Key", "a-key")]
    warm.post(headers=key)
    calls_of(warm)
    assert warm.post(headers=key).body["replayed"] is True
    assert calls_of(warm) == ([BUDGET, CLAIM], 0)


def test_what_is_refused_takes_no_call(warm: Deployment) -> None:
    for answer in (
        warm.post("{"),
        warm.post(["?"]),
        warm.get("/v1/nowhere"),
        warm.get("/v1/releases"),
        warm.send("DELETE", "/v1/releases"),
        warm.post(b"\xff"),
        warm.post({"ids": [MESSAGE], "force": True}),
    ):
        assert 400 <= answer.status < 500
    assert calls_of(warm) == ([], 0)


def test_who_is_unknown_makes_the_secret_be_fetched_once(warm: Deployment) -> None:
    for _ in range(5):
        assert warm.post(client="nobody").status == 401
    assert calls_of(warm) == (["GetSecretValue"], 0)


def test_another_account_makes_the_other_secret_be_fetched_once(warm: Deployment) -> None:
    for _ in range(5):
        assert warm.post({"ids": [MESSAGE], "account_id": OTHER_ACCOUNT}).status == 403
    assert calls_of(warm) == (["GetSecretValue"], 0)


def test_a_look_takes_two_reads(warm: Deployment) -> None:
    path = path_of(warm.post())
    calls_of(warm)
    assert warm.get(path).status == 200
    assert calls_of(warm) == ([READ, READ], 0)


def test_a_refusal_of_cloudflare_takes_no_second_call_within_the_request(warm: Deployment) -> None:
    pause = "UpdateItem"
    warm.upstream.answers.append(Reply(429, headers={"Retry-After": "60"}))
    assert warm.post().status == 202
    assert calls_of(warm) == ([BUDGET, CLAIM, pause, RECORD, "SendMessageBatch"], 1)


def test_what_is_queued_takes_three_calls_and_its_worker_six(warm: Deployment) -> None:
    assert warm.post(headers=[("Prefer", "respond-async")]).status == 202
    # No call is bought that would bring the account's row along: whether releases are paused is read.
    assert calls_of(warm) == ([READ, CLAIM, "SendMessageBatch"], 0)
    warm.work()
    close = "UpdateItem"
    assert calls_of(warm) == ([READ, READ, BUDGET, CLAIM, RECORD, close], 1)
