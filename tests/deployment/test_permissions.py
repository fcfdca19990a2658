"""Every call that a function makes to AWS in its main cases is allowed to it, and it is allowed nothing else.

Of the transformed template's policies this understands what they hold: actions, resources, and the partition keys of
items. A call or a condition of another kind fails the test, so that nobody takes it for checked.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import pytest

from quarantine_release import wiring
from quarantine_release.domain.ids import AccountId, OperationId, PostfixPart
from quarantine_release.domain.verdicts import Seen
from quarantine_release.ledger.table import Table
from quarantine_release.ledger.transactions import DynamoLedger
from tests.deployment.test_template import allowed, listed, role_of, stack_with, statements
from tests.support.deployment import ACCOUNT, MESSAGE, Deployment, listening, path_of
from tests.support.small_cloudflare import NO_REPLY, Reply
from tests.support.stand_ins import TERMS, Clock
from tools.operations import Person, pause, settle

WEBHOOK, WORKER, RECONCILER = "WebhookFunction", "WorkerFunction", "ReconcilerFunction"
# Transactions have no permission of their own: each of their actions needs that of the call it stands for (DynamoDB
# developer guide, "Using IAM with DynamoDB transactions").
ACTIONS_OF_TRANSACTIONS = {
    "ConditionCheck": "ConditionCheckItem",
    "Delete": "DeleteItem",
    "Put": "PutItem",
    "Update": "UpdateItem",
}
SERVICES = ("dynamodb:", "secretsmanager:", "sqs:")
LEDGER, INDEX = "${Ledger.Arn}", "${Ledger.Arn}/index/open-index"
QUEUE, DEAD_LETTERS = "${ReleaseQueue.Arn}", "${ReleaseDeadLetterQueue.Arn}"


@dataclass(frozen=True)
class Need:
    """What a call asks permission for; `keys` are the partition keys that it names, dynamodb:LeadingKeys for IAM."""

    action: str
    resource: str
    keys: frozenset[str] = frozenset()


# What Lambda calls with the role of a function that takes from a queue (Lambda developer guide, "Using Lambda with
# Amazon SQS", execution role permissions).
RECEIVING = tuple(Need(f"sqs:{action}", QUEUE) for action in ("DeleteMessage", "GetQueueAttributes", "ReceiveMessage"))


def needs_of(operation: str, params: Mapping[str, Any]) -> Iterator[Need]:
    """Return what one call to AWS needs."""
    match operation:
        case "GetSecretValue":
            yield Need("secretsmanager:GetSecretValue", f"${{{params['SecretId']}}}")
        case "TransactWriteItems":
            for action in params["TransactItems"]:
                ((kind, item),) = action.items()
                yield _need(ACTIONS_OF_TRANSACTIONS[kind], item["TableName"], [item.get("Key") or item["Item"]])
        case "BatchGetItem":
            for table, wanted in params["RequestItems"].items():
                yield _need(operation, table, wanted["Keys"])
        case "UpdateItem":
            yield _need(operation, params["TableName"], [params["Key"]])
        case "Query":
            # Of an index the leading key is the index's own.
            name = re.match(r"open_kind = (:\w+) AND ", params["KeyConditionExpression"])
            assert name
            kind = params["ExpressionAttributeValues"][name[1]]["S"]
            resource = f"${{{params['TableName']}.Arn}}/index/{params['IndexName']}"
            yield Need("dynamodb:Query", resource, frozenset({kind}))
        case "SendMessage" | "SendMessageBatch":  # there is no permission of its own for a batch
            yield Need("sqs:SendMessage", _queue_at(params["QueueUrl"]))
        case _:
            raise NotImplementedError(operation)


def _queue_at(url: str) -> str:
    """Return the ARN of the queue whose URL ends in its name; where the template gives none, that is its logical id."""
    name = url.rpartition("/")[2]
    queues = stack_with().of_type("AWS::SQS::Queue")
    (found,) = (
        logical_id for logical_id, properties in queues.items() if properties.get("QueueName", logical_id) == name
    )
    return f"${{{found}.Arn}}"


def _need(operation: str, table: str, keys: Sequence[Mapping[str, Any]]) -> Need:
    return Need(f"dynamodb:{operation}", f"${{{table}.Arn}}", frozenset(key["pk"]["S"] for key in keys))


def is_allowed(function: str, need: Need) -> bool:
    """Say what IAM would: one statement must allow it, none may deny it."""
    effects = {one["Effect"] for one in statements(role_of(stack_with(), function)) if _covers(one, need)}
    return effects == {"Allow"}


def _covers(statement: Mapping[str, Any], need: Need) -> bool:
    return (
        need.action in listed(statement["Action"])
        and any(fnmatchcase(need.resource, pattern) for pattern in listed(statement["Resource"]))
        and _holds(statement.get("Condition"), need)
    )


def _holds(condition: Mapping[str, Any] | None, need: Need) -> bool:
    if condition is None:
        return True
    assert condition.keys() == {"ForAllValues:StringLike"}
    assert condition["ForAllValues:StringLike"].keys() == {"dynamodb:LeadingKeys"}
    patterns = condition["ForAllValues:StringLike"]["dynamodb:LeadingKeys"]
    return all(any(fnmatchcase(key, pattern) for pattern in patterns) for key in need.keys)


@dataclass
class Stage:
    """The functions on one table; what each of them needs is kept. Every run of the reconciler is a new process."""

    deployment: Deployment
    clock: Clock
    needs: dict[str, set[Need]] = field(
        default_factory=lambda: {WEBHOOK: set(), WORKER: set(RECEIVING), RECONCILER: set()}
    )
    _function: str = WEBHOOK

    def hear(self, model: Any, params: Mapping[str, Any], **_: Any) -> None:
        self.needs[self._function].update(needs_of(model.name, params))

    def lose_an_answer(self, message_id: str) -> str:
        """Ask for a release that is unconfirmed then; return where its request can be looked up."""
        self.deployment.upstream.answers.append(NO_REPLY)
        answer = self.deployment.post([message_id])
        assert answer.result["outcome"] == "unconfirmed"
        return path_of(answer)

    def reconcile(self, *answers: Reply, **ahead: float) -> None:
        self.clock.move(**ahead)
        self.deployment.upstream.answers += answers
        self._run(RECONCILER, self.deployment.reconcile)

    def work(self) -> None:
        self._run(WORKER, self.deployment.work)

    def _run(self, function: str, run: Callable[[], object]) -> None:
        self.deployment.start_afresh()
        self._function = function
        run()
        self._function = WEBHOOK
        self.deployment.start_afresh()
        assert not self.deployment.upstream.answers

    def outcome_at(self, path: str) -> str:
        return str(self.deployment.get(path).result["outcome"])


@pytest.fixture
def needs(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> dict[str, set[Need]]:
    """Play the main cases of the functions; return what each of them needs."""
    stage = Stage(deployment, Clock(wiring.clock()))
    monkeypatch.setattr(wiring, "clock", stage.clock)
    with listening(stage.hear):
        play_releases(deployment)
        play_what_goes_wrong(deployment)
        play_what_is_settled_later(stage)
    return stage.needs


def play_releases(deployment: Deployment) -> None:
    key = [("Idempotency-Key", "one")]
    first = deployment.post(headers=key)
    assert first.result["outcome"] == "released"
    assert deployment.post(headers=key).body["replayed"] is True
    assert deployment.post().result["outcome"] == "already_released"
    forced = {"ids": [MESSAGE], "force": True, "reason": "the recipient lost it"}
    assert deployment.post(forced, client="admin", headers=key).result["attempts"] == 2
    # Both wire forms: the second call is claimed for a request that was accepted with the first.
    assert deployment.post(["4WtWkr6nlBz9sNA", "4WtWkr6nlBz9sNB-2024-01-05T10:00:00-1"]).status == 200
    assert deployment.get(path_of(first)).status == 200
    assert deployment.get("/v1/releases", query=[("ids", first.body["request_id"])]).status == 200
    assert deployment.get(f"/v1/messages/{MESSAGE}").body["state"] == "RELEASED"
    assert deployment.get("/v1/health").status == 200


def play_what_goes_wrong(deployment: Deployment) -> None:
    deployment.upstream.answers.append(Reply(403))
    assert deployment.post(["4WtWkr6nlBz9sNC"]).code == "cloudflare_credentials_refused"
    deployment.upstream.answers.append(Reply(400))
    assert deployment.post(["4WtWkr6nlBz9sND"]).result["code"] == "cloudflare_rejected"
    assert deployment.post(client="nobody").code == "unauthenticated"
    assert deployment.post([]).status == 400


def play_what_is_settled_later(stage: Stage) -> None:
    def details(message_id: str, **members: Any) -> Reply:
        return Reply(result={"id": message_id, "is_quarantined": False, **members})

    # Cloudflare took no call: made up for.
    stage.deployment.upstream.answers.append(Reply(429))
    limited = path_of(stage.deployment.post(["4WtWkr6nlBz9sNE"]))
    stage.work()  # too early: the hint goes out again
    assert stage.outcome_at(limited) == "in_progress"
    stage.reconcile(seconds=360)
    stage.work()
    assert stage.outcome_at(limited) == "released"
    # The answer was lost: read, first in vain.
    lost = stage.lose_an_answer("4WtWkr6nlBz9sNF")
    stage.reconcile(Reply(500), seconds=100)
    stage.reconcile(details("4WtWkr6nlBz9sNF", post_delivery_operations=["QUARANTINE_RELEASE"]), seconds=60)
    assert stage.outcome_at(lost) == "released"
    # The call was lost: released again after the wait.
    lost = stage.lose_an_answer("4WtWkr6nlBz9sNG")
    stage.reconcile(details("4WtWkr6nlBz9sNG", is_quarantined=True), Reply(result=[]), seconds=215)
    stage.work()
    assert stage.outcome_at(lost) == "released"
    # Nobody can say, until somebody knows a fuller id.
    bare, full = "4WtWkr6nlBz9sNH", "4WtWkr6nlBz9sNH-2024-01-05T10:00:00-1"
    lost = stage.lose_an_answer(bare)
    stage.reconcile(details(bare), Reply(result=[]), seconds=215)
    assert stage.outcome_at(lost) == "needs_review"
    stage.deployment.post([full])
    stage.reconcile(details(full, post_delivery_operations=["QUARANTINE_RELEASE"]), seconds=60)
    assert stage.deployment.get(f"/v1/messages/{bare}").body["state"] == "RELEASED"
    # A person says what became of it; the tool's own calls are test_ops.py's.
    stage.lose_an_answer("4WtWkr6nlBz9sNJ")
    ledger = DynamoLedger(Table(stage.deployment._dynamodb, stage.deployment.environment["TABLE_NAME"], lambda _: None))
    person = Person("ann", "seen in the dashboard", stage.clock.now, OperationId("01OPERATION"))
    settle(ledger, None, AccountId(ACCOUNT), PostfixPart("4WtWkr6nlBz9sNJ"), Seen.RELEASED, person, TERMS)
    pause(ledger, AccountId(ACCOUNT), None, replace(person, operation=OperationId("02OPERATION")))
    operations = stage.deployment.get("/v1/messages/4WtWkr6nlBz9sNJ").body["operations"]
    assert [operation["kind"] for operation in operations] == ["settle", "pause"]


def test_whatever_a_function_calls_is_allowed_to_it(needs: dict[str, set[Need]]) -> None:
    for function, found in needs.items():
        assert [need for need in found if not is_allowed(function, need)] == []


def test_whatever_is_allowed_to_a_function_it_calls(needs: dict[str, set[Need]]) -> None:
    for function, found in needs.items():
        granted = {
            (action, resource)
            for one in allowed(role_of(stack_with(), function))
            for action in listed(one["Action"])
            for resource in listed(one["Resource"])
            if action.startswith(SERVICES)
        }
        assert granted == {(need.action, need.resource) for need in found}


def test_sending_hints_needs_the_permission_for_single_messages_on_the_queue_at_the_url() -> None:
    def needs_at(name: str) -> list[Need]:
        params = {"QueueUrl": f"https://sqs.us-east-1.amazonaws.com/123456789012/{name}", "Entries": [{"Id": "0"}]}
        return list(needs_of("SendMessageBatch", params))

    assert needs_at("quarantine-release-hints") == [Need("sqs:SendMessage", QUEUE)]
    assert needs_at("ReleaseDeadLetterQueue") == [Need("sqs:SendMessage", DEAD_LETTERS)]
    with pytest.raises(ValueError, match="not enough values"):
        needs_at("another")


@pytest.mark.parametrize("function", [WEBHOOK, WORKER, RECONCILER])
@pytest.mark.parametrize(
    "need",
    [
        Need("dynamodb:PutItem", LEDGER, frozenset({"X#1"})),
        Need("dynamodb:UpdateItem", LEDGER, frozenset({"R#rq_1", "X#1"})),
        Need("dynamodb:PutItem", LEDGER, frozenset({"O#1"})),
        Need("dynamodb:UpdateItem", LEDGER, frozenset({"O#1"})),
        Need("dynamodb:BatchGetItem", INDEX, frozenset({"R#rq_1"})),
        Need("dynamodb:PutItem", "${Another.Arn}", frozenset({"R#rq_1"})),
        Need("dynamodb:DeleteItem", LEDGER, frozenset({"R#rq_1"})),
        Need("dynamodb:Scan", LEDGER),
        Need("dynamodb:Scan", INDEX),
        Need("dynamodb:Query", LEDGER, frozenset({"R#rq_1"})),
        Need("dynamodb:Query", INDEX, frozenset({"M#0"})),
        Need("secretsmanager:GetSecretValue", "${AnotherSecret}"),
        Need("secretsmanager:PutSecretValue", "${CloudflareSecret}"),
        Need("sqs:SendMessage", DEAD_LETTERS),
        Need("sqs:SendMessage", "${AnotherQueue.Arn}"),
        Need("sqs:ReceiveMessage", DEAD_LETTERS),
        Need("sqs:PurgeQueue", QUEUE),
        Need("sqs:SetQueueAttributes", QUEUE),
    ],
    ids=lambda need: f"{need.action} {need.resource} {','.join(sorted(need.keys))}",
)
def test_what_no_function_needs_none_may_do(function: str, need: Need) -> None:
    assert not is_allowed(function, need)


@pytest.mark.parametrize(
    ("need", "functions"),
    [
        (Need("secretsmanager:GetSecretValue", "${ClientsSecret}"), {WEBHOOK, WORKER, RECONCILER}),
        (Need("dynamodb:BatchGetItem", LEDGER, frozenset({"O#1"})), {WEBHOOK}),
        (Need("dynamodb:Query", INDEX), {RECONCILER}),
        # The sweep too names who asks in a row of its own, where others contend for the message's.
        (Need("dynamodb:UpdateItem", LEDGER, frozenset({"N#1"})), {WEBHOOK, WORKER, RECONCILER}),
        (Need("sqs:SendMessage", QUEUE), {WEBHOOK, WORKER, RECONCILER}),
        *((need, {WORKER}) for need in RECEIVING),
    ],
    ids=lambda value: value.action if isinstance(value, Need) else "",
)
def test_what_only_some_functions_may_do(need: Need, functions: set[str]) -> None:
    assert {function for function in (WEBHOOK, WORKER, RECONCILER) if is_allowed(function, need)} == functions
