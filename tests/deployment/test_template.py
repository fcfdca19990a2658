"""What the stack promises, asserted on what CloudFormation gets: transformed, with every condition on and off."""

import functools
import itertools
import json
import re
import tomllib
from collections.abc import Iterator
from datetime import timedelta
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import boto3
import pytest
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator
from samtranslator.yaml_helper import yaml_parse

from quarantine_release.usecases import settle
from tests.support.deployment import Deployment, set_clock
from tests.support.small_cloudflare import NO_REPLY, Reply

TEMPLATE = Path(__file__).parent.parent.parent / "template.yaml"
SWITCHES = {
    "AllowedCidrs": "192.0.2.0/24,2001:db8::/32",
    "WebAclArn": "arn:aws:wafv2:eu-central-1:123456789012:regional/webacl/ours/1",
    "KmsKeyArn": "arn:aws:kms:eu-central-1:123456789012:key/1",
    "AlarmTopicArn": "arn:aws:sns:eu-central-1:123456789012:alarms",
    "CreateApiGatewayLogRole": "true",
}
BUDGET = ("InlineCalls", "CallsPerWindow")
PSEUDO_PARAMETERS = {
    "AWS::AccountId": "123456789012",
    "AWS::Partition": "aws",
    "AWS::Region": "eu-central-1",
    "AWS::StackName": "quarantine-release",
    "AWS::URLSuffix": "amazonaws.com",
}
# What each function may do, and no more: test_permissions.py holds it against what they do. To this comes what the key
# is used for where one is given.
COMMON_ACTIONS = {
    "dynamodb:BatchGetItem",
    "dynamodb:UpdateItem",
    "logs:CreateLogStream",
    "logs:PutLogEvents",
    "secretsmanager:GetSecretValue",
    "sqs:SendMessage",
    "xray:PutTelemetryRecords",
    "xray:PutTraceSegments",
}
CLAIMING = {"dynamodb:ConditionCheckItem", "dynamodb:PutItem"}
RECEIVING = {"sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage"}
ALLOWED_ACTIONS = {
    "WebhookFunction": COMMON_ACTIONS | CLAIMING,
    "WorkerFunction": COMMON_ACTIONS | CLAIMING | RECEIVING,
    "ReconcilerFunction": COMMON_ACTIONS | {"dynamodb:Query"},
}
SECRETS = {
    "WebhookFunction": ["${CloudflareSecret}", "${ClientsSecret}"],
    "WorkerFunction": ["${CloudflareSecret}", "${ClientsSecret}"],
    "ReconcilerFunction": ["${CloudflareSecret}", "${ClientsSecret}"],
}
XRAY = {"xray:PutTelemetryRecords", "xray:PutTraceSegments"}
LONGEST_LATE_EFFECT_SECONDS = 60
CLOUDFLARES_CALLS_IN_FIVE_MINUTES = 1200
LONGEST_DELAY_SECONDS = 900  # of a message in SQS

Properties = dict[str, Any]


def template() -> Properties:
    return dict(yaml_parse(TEMPLATE.read_text()))


class Stack:
    """The transformed template as CloudFormation would carry it out for some parameters, with its nested stack.

    What only AWS can know stays a placeholder: `${Ledger}` for a reference, `${Ledger.Arn}` for an attribute.
    """

    def __init__(self, **given: str) -> None:
        source = template()
        source["Globals"]["Function"]["CodeUri"] = "s3://bucket/key"  # as uploaded: SAM transforms nothing else
        self.given = given
        self.parameters = {name: str(spec["Default"]) for name, spec in source["Parameters"].items()} | given
        # SAM is told what is given, as it is when deploying: it may put values in before the conditions are looked at.
        session = boto3.Session(region_name=PSEUDO_PARAMETERS["AWS::Region"])
        transformed = Translator({}, Parser(), boto_session=session).translate(source, dict(given))
        self._conditions = transformed["Conditions"]
        self.resources = self._resources(transformed)
        self.outputs: Properties = self._resolve(transformed["Outputs"])
        for nested in self.of_type("AWS::CloudFormation::Stack").values():
            self.resources |= NestedStack(nested).resources

    def _resources(self, document: Properties) -> dict[str, Properties]:
        """Every resource whose condition holds, resolved, by logical id."""
        return {
            name: self._resolve(resource)
            for name, resource in document["Resources"].items()
            if "Condition" not in resource or self._resolve({"Condition": resource["Condition"]})
        }

    def of_type(self, kind: str) -> dict[str, Properties]:
        """The properties of every resource of a type, by logical id."""
        return {name: found.get("Properties", {}) for name, found in self.resources.items() if found["Type"] == kind}

    def only(self, kind: str) -> Properties:
        """The properties of the one resource of a type."""
        (properties,) = self.of_type(kind).values()
        return properties

    def roles(self) -> dict[str, Properties]:
        """Every role as IAM sees it: its policies are its own and those of ours that are attached to it."""
        attached = {f"${{{name}}}": policy for name, policy in self.of_type("AWS::IAM::ManagedPolicy").items()}
        return {
            name: role
            | {"Policies": role.get("Policies", []) + [attached[arn] for arn in managed(role) if arn in attached]}
            for name, role in self.of_type("AWS::IAM::Role").items()
        }

    def _resolve(self, value: Any) -> Any:
        if isinstance(value, list):
            return [resolved for item in value if (resolved := self._resolve(item)) is not None]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            ((name, argument),) = value.items()
            if name in ("Ref", "Condition") or name.startswith("Fn::"):
                return self._call(name, argument)
        return {key: resolved for key, item in value.items() if (resolved := self._resolve(item)) is not None}

    def _call(self, function: str, argument: Any) -> Any:
        match function, argument:
            case "Ref", "AWS::NoValue":
                return None
            case "Ref", name:
                return self._named(name)
            case "Condition", name:
                return self._resolve(self._conditions[name])
            case "Fn::GetAtt", [name, attribute]:
                return f"${{{name}.{attribute}}}"
            case "Fn::Sub", [text, names]:
                return self._substitute(text, self._resolve(names))
            case "Fn::Sub", text:
                return self._substitute(text, {})
            case "Fn::If", [condition, then, otherwise]:
                return self._resolve(then if self._call("Condition", condition) else otherwise)
            case "Fn::Equals", [left, right]:
                return self._resolve(left) == self._resolve(right)
            case "Fn::Not", [condition]:
                return not self._resolve(condition)
            case "Fn::Split", [separator, text]:
                return self._resolve(text).split(separator)
        raise NotImplementedError(function)

    def _named(self, name: str) -> str:
        return PSEUDO_PARAMETERS.get(name) or self.parameters.get(name, f"${{{name}}}")

    def _substitute(self, text: str, names: dict[str, str]) -> str:
        return re.sub(r"\$\{([^}!]+)\}", lambda match: names.get(match[1]) or self._named(match[1]), text)


class NestedStack(Stack):
    """A stack that another one declares. It has the parameters that it is given, and no default."""

    def __init__(self, declared: Properties) -> None:
        document = dict(yaml_parse((TEMPLATE.parent / declared["TemplateURL"]).read_text()))
        self.parameters = declared["Parameters"]
        assert document["Parameters"].keys() == self.parameters.keys()
        assert "Transform" not in document
        self._conditions = document["Conditions"]
        self.resources = self._resources(document)


@functools.cache
def stack_with(*switches: str) -> Stack:
    return Stack(**{name: SWITCHES[name] for name in switches})


COMBINATIONS = [chosen for count in range(len(SWITCHES) + 1) for chosen in itertools.combinations(SWITCHES, count)]


@pytest.fixture(params=COMBINATIONS, ids=lambda chosen: "+".join(chosen) or "defaults")
def stack(request: pytest.FixtureRequest) -> Stack:
    return stack_with(*request.param)


def texts(value: Any) -> Iterator[str]:
    """Every string inside a value."""
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        for item in value:
            yield from texts(item)
    elif isinstance(value, str):
        yield value


def references(value: Any) -> set[str]:
    return {name for text in texts(value) for name in re.findall(r"\$\{(\w+)", text)}


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def managed(role: Properties) -> list[str]:
    return list(role.get("ManagedPolicyArns", []))


def statements(role: Properties) -> list[Properties]:
    return [statement for policy in role.get("Policies", []) for statement in policy["PolicyDocument"]["Statement"]]


def role_of(stack: Stack, function: str) -> Properties:
    role = stack.of_type("AWS::Lambda::Function")[function]["Role"]
    return stack.roles()[role.removeprefix("${").removesuffix(".Arn}")]


def allowed(role: Properties) -> list[Properties]:
    return [statement for statement in statements(role) if statement["Effect"] == "Allow"]


def actions(found: list[Properties]) -> set[str]:
    return {action for statement in found for action in listed(statement["Action"])}


def statement_allowing(role: Properties, action: str) -> Properties:
    (statement,) = [statement for statement in allowed(role) if action in listed(statement["Action"])]
    return statement


def permissions_of(stack: Stack, function: str) -> list[Properties]:
    found = stack.of_type("AWS::Lambda::Permission").values()
    assert {one["FunctionName"] for one in found} <= {f"${{{name}}}" for name in ALLOWED_ACTIONS}
    return [one for one in found if one["FunctionName"] == f"${{{function}}}"]


# --- The template as a whole ------------------------------------------------------------------------------------------


def test_every_reference_leads_to_a_resource_and_none_in_a_circle(stack: Stack) -> None:
    needs = {
        name: references(resource) | set(listed(resource.get("DependsOn", [])))
        for name, resource in stack.resources.items()
    }
    assert set().union(references(stack.outputs), *needs.values()) <= stack.resources.keys()
    TopologicalSorter(needs).prepare()  # raises on a circle


def test_what_the_security_page_leaves_to_the_account_is_not_in_the_stack(stack: Stack) -> None:
    left_out = ("AWS::KMS::", "AWS::Backup::", "AWS::EC2::", "AWS::SNS::", "AWS::SecretsManager::RotationSchedule")
    assert [found["Type"] for found in stack.resources.values() if found["Type"].startswith(left_out)] == []
    assert not any("VpcConfig" in function for function in stack.of_type("AWS::Lambda::Function").values())
    assert not any("DataProtectionPolicy" in log for log in stack.of_type("AWS::Logs::LogGroup").values())


def test_the_outputs_name_what_the_first_steps_after_deploying_need(stack: Stack) -> None:
    assert {name: output["Value"] for name, output in stack.outputs.items()} == {
        "ApiUrl": "https://${Api}.execute-api.eu-central-1.amazonaws.com/${ApiliveStage}",
        "TableName": "${Ledger}",
        "ReleaseQueueUrl": "${ReleaseQueue}",
        "CloudflareSecretArn": "${CloudflareSecret}",
        "ClientsSecretArn": "${ClientsSecret}",
    }


def test_the_nested_stack_names_the_service_and_not_itself(stack: Stack) -> None:
    (nested,) = stack.of_type("AWS::CloudFormation::Stack").values()
    assert "AWS::StackName" not in (TEMPLATE.parent / nested["TemplateURL"]).read_text()
    assert nested["Parameters"]["ServiceStackName"] == "quarantine-release"
    assert stack.only("AWS::CloudWatch::Dashboard")["DashboardName"].startswith("quarantine-release-")


@pytest.mark.parametrize("part", ["default", "prod"])
def test_sam_deploy_is_allowed_roles_and_a_nested_stack(part: str) -> None:
    options = tomllib.loads((TEMPLATE.parent / "samconfig.toml").read_text())[part]["deploy"]["parameters"]
    assert options["capabilities"].split() == ["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"]


def test_every_parameter_is_in_one_group_and_they_have_the_same_order() -> None:
    groups = template()["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    assert [name for group in groups for name in group["Parameters"]] == list(template()["Parameters"])


# --- Functions and their permissions ----------------------------------------------------------------------------------


def test_every_function_runs_where_its_package_was_built_for(stack: Stack) -> None:
    for function in stack.of_type("AWS::Lambda::Function").values():
        assert function["Runtime"] == "python3.13"
        assert function["Architectures"] == ["arm64"]
        assert function["MemorySize"] == 512
        assert function["TracingConfig"] == {"Mode": "Active"}


def test_every_function_is_built_by_a_target_of_the_makefile() -> None:
    resources = template()["Resources"]
    makefile = (TEMPLATE.parent / "Makefile").read_text()
    for name, resource in resources.items():
        if resource["Type"] == "AWS::Serverless::Function":
            assert resource["Metadata"] == {"BuildMethod": "makefile", "ContextPath": ".", "WorkingDirectory": "."}
            assert re.search(rf"^build-.*\bbuild-{name}\b.*:$|^build-{name}\b.*:$", makefile, re.MULTILINE)


def test_every_function_is_told_what_the_settings_ask_for(stack: Stack) -> None:
    for function in stack.of_type("AWS::Lambda::Function").values():
        assert function["Environment"]["Variables"] == {
            "TABLE_NAME": "${Ledger}",
            "CLOUDFLARE_SECRET_ID": "${CloudflareSecret}",
            "CLIENTS_SECRET_ID": "${ClientsSecret}",
            "CLOUDFLARE_API_BASE_URL": "https://api.cloudflare.com/client/v4",
            "CLOUDFLARE_WIRE_FORM": "auto",
            "LEASE_SECONDS": "90",
            "SETTLE_SECONDS": "120",
            "RETENTION_DAYS": "400",
            "EXPIRE_AFTER": "24h",
            "SECRET_SECONDS": "300",
            "QUEUE_URL": "${ReleaseQueue}",
            "BUDGET_INLINE_CALLS": "300",
            "BUDGET_CALLS": "900",
            "BULK_4XX_IS_ATOMIC": "false",
            "KEEP_RECIPIENTS": "true",
            "GUARD_MODE": "standard",
            "GUARD_DISPOSITIONS": "SUSPICIOUS,SPOOF,SPAM,BULK,ENCRYPTED,EXTERNAL,UNKNOWN,NONE",
            "GUARD_MAX_AGE_DAYS": "0",
            "GUARD_RECIPIENT_DOMAINS": "",
            "LOOKUP_DAYS": "30",
            "SEARCH_LAG_SECONDS": "120",
            "CONFIRM": "false",
            "POWERTOOLS_SERVICE_NAME": "quarantine-release",
            "POWERTOOLS_METRICS_NAMESPACE": "QuarantineRelease",
            "POWERTOOLS_LOG_LEVEL": "INFO",
        }


def test_every_function_is_told_the_parameters() -> None:
    given = {
        "CloudflareWireForm": "object",
        "TraceRetentionDays": "31",
        "InlineCalls": "0",
        "CallsPerWindow": "7",
        "Bulk4xxIsAtomic": "true",
        "KeepRecipients": "false",
        "GuardMode": "strict",
        "GuardDispositions": "SPAM,BULK",
        "GuardMaxAgeDays": "7",
        "GuardRecipientDomains": "example.com",
        "LookupDays": "14",
        "SearchLagSeconds": "60",
        "Confirm": "true",
    }
    for function in Stack(**given).of_type("AWS::Lambda::Function").values():
        variables = function["Environment"]["Variables"]
        assert [
            variables[name]
            for name in (
                "CLOUDFLARE_WIRE_FORM",
                "RETENTION_DAYS",
                "BUDGET_INLINE_CALLS",
                "BUDGET_CALLS",
                "BULK_4XX_IS_ATOMIC",
                "KEEP_RECIPIENTS",
                "GUARD_MODE",
                "GUARD_DISPOSITIONS",
                "GUARD_MAX_AGE_DAYS",
                "GUARD_RECIPIENT_DOMAINS",
                "LOOKUP_DAYS",
                "SEARCH_LAG_SECONDS",
                "CONFIRM",
            )
        ] == list(given.values())


def test_no_setting_of_the_budget_reaches_cloudflares_limit_or_stops_everything() -> None:
    parameters = template()["Parameters"]
    bounds = {name: (parameters[name]["MinValue"], parameters[name]["MaxValue"]) for name in BUDGET}
    assert bounds == {"InlineCalls": (0, 1000), "CallsPerWindow": (1, 1150)}
    assert all(highest < CLOUDFLARES_CALLS_IN_FIVE_MINUTES for _, highest in bounds.values())
    assert parameters["InlineCalls"]["Default"] < parameters["CallsPerWindow"]["Default"]


def test_that_a_refused_pack_did_nothing_is_believed_only_if_somebody_says_so() -> None:
    parameter = template()["Parameters"]["Bulk4xxIsAtomic"]
    assert (parameter["Default"], parameter["AllowedValues"]) == ("false", ["true", "false"])


def test_a_negative_read_is_believed_only_after_the_longest_late_effect(stack: Stack) -> None:
    for function in stack.of_type("AWS::Lambda::Function").values():
        variables = function["Environment"]["Variables"]
        wait = int(variables["LEASE_SECONDS"]) + int(variables["SETTLE_SECONDS"])
        assert wait >= function["Timeout"] + LONGEST_LATE_EFFECT_SECONDS


def test_every_function_may_do_what_it_needs_and_nothing_else(stack: Stack) -> None:
    assert stack.of_type("AWS::Lambda::Function").keys() == ALLOWED_ACTIONS.keys()
    for function, expected in ALLOWED_ACTIONS.items():
        key = {"kms:Decrypt", "kms:GenerateDataKey"} if "KmsKeyArn" in stack.given else set()
        assert actions(allowed(role_of(stack, function))) == expected | key


def test_every_function_has_a_role_of_its_own_that_only_lambda_can_take(stack: Stack) -> None:
    roles = [function["Role"] for function in stack.of_type("AWS::Lambda::Function").values()]
    assert len(set(roles)) == len(roles)
    for function in stack.of_type("AWS::Lambda::Function"):
        (trust,) = role_of(stack, function)["AssumeRolePolicyDocument"]["Statement"]
        assert trust["Principal"] == {"Service": "lambda.amazonaws.com"}


def test_only_x_ray_is_granted_on_every_resource(stack: Stack) -> None:
    for role in stack.roles().values():
        for statement in allowed(role):
            assert not any("*" in action for action in listed(statement["Action"]))
            if actions([statement]) != XRAY:
                assert not any("*" in resource for resource in listed(statement["Resource"]))


def test_policies_stand_in_roles_or_are_attached_to_them_where_these_tests_read_them(stack: Stack) -> None:
    assert not stack.of_type("AWS::IAM::Policy")
    policies = stack.of_type("AWS::IAM::ManagedPolicy")
    assert policies.keys() == {"FunctionPolicy"} | ({"FunctionKeyPolicy"} if "KmsKeyArn" in stack.given else set())
    assert not any(policy.keys() & {"Roles", "Users", "Groups"} for policy in policies.values())
    roles = stack.of_type("AWS::IAM::Role")
    for function in stack.of_type("AWS::Lambda::Function").values():
        role = roles.pop(function["Role"].removeprefix("${").removesuffix(".Arn}"))
        assert managed(role) == [f"${{{name}}}" for name in policies]
    assert {name: len(managed(role)) for name, role in roles.items()} == (
        {"ApiGatewayLogRole": 1} if "CreateApiGatewayLogRole" in stack.given else {}
    )


def test_no_function_may_remove_from_the_ledger_or_read_all_of_it(stack: Stack) -> None:
    for function in stack.of_type("AWS::Lambda::Function"):
        (denied,) = [one for one in statements(role_of(stack, function)) if one["Effect"] == "Deny"]
        assert set(denied["Action"]) == {
            "dynamodb:BatchWriteItem",
            "dynamodb:DeleteItem",
            "dynamodb:DeleteTable",
            "dynamodb:Scan",
        }
        assert denied["Resource"] == ["${Ledger.Arn}", "${Ledger.Arn}/index/*"]
        assert "Condition" not in denied


def test_every_function_reaches_only_the_rows_that_the_ledger_documents(stack: Stack) -> None:
    for function, expected in ALLOWED_ACTIONS.items():
        # Only who may claim looks messages up, and writes down what came of it.
        found_out = [] if function == "ReconcilerFunction" else ["I#*", "N#*"]
        keys = {"ForAllValues:StringLike": {"dynamodb:LeadingKeys": ["R#*", "M#*", "T#*", "A#*", *found_out]}}
        role = role_of(stack, function)
        on_rows = {action for action in expected if action.startswith("dynamodb:")} - {"dynamodb:Query"}
        assert on_rows
        operations = {"ForAllValues:StringLike": {"dynamodb:LeadingKeys": ["O#*"]}}
        for action in on_rows:
            found = [one for one in allowed(role) if action in listed(one["Action"])]
            assert {one["Resource"] for one in found} == {"${Ledger.Arn}"}
            shows = function == "WebhookFunction" and action == "dynamodb:BatchGetItem"
            assert [one["Condition"] for one in found] == [keys, operations] if shows else [keys]


def test_the_reconciler_queries_the_open_index_and_not_the_table(stack: Stack) -> None:
    (index,) = stack.only("AWS::DynamoDB::Table")["GlobalSecondaryIndexes"]
    statement = statement_allowing(role_of(stack, "ReconcilerFunction"), "dynamodb:Query")
    assert statement["Resource"] == f"${{Ledger.Arn}}/index/{index['IndexName']}"
    assert statement["Condition"] == {"ForAllValues:StringLike": {"dynamodb:LeadingKeys": ["R#*", "T#*"]}}


@pytest.mark.parametrize("function", ALLOWED_ACTIONS)
def test_a_function_reads_the_secrets_that_it_uses_and_no_other(stack: Stack, function: str) -> None:
    statement = statement_allowing(role_of(stack, function), "secretsmanager:GetSecretValue")
    assert listed(statement["Resource"]) == SECRETS[function]


@pytest.mark.parametrize("function", ALLOWED_ACTIONS)
def test_a_key_of_the_owner_serves_only_our_table_secrets_and_queue(stack: Stack, function: str) -> None:
    using = [
        one for one in statements(role_of(stack, function)) if any(each.startswith("kms:") for each in actions([one]))
    ]
    if "KmsKeyArn" not in stack.given:
        assert using == []
        return
    assert {one["Resource"] for one in using} == {SWITCHES["KmsKeyArn"]}
    secrets = SECRETS[function] if len(SECRETS[function]) > 1 else SECRETS[function][0]
    sending = {"kms:Decrypt", "kms:GenerateDataKey"}
    assert [actions([one]) for one in using] == [{"kms:Decrypt"}, {"kms:Decrypt"}, sending]
    assert [one["Condition"] for one in using] == [
        {
            "StringEquals": {
                "kms:ViaService": "dynamodb.eu-central-1.amazonaws.com",
                "kms:EncryptionContext:aws:dynamodb:tableName": "${Ledger}",
            }
        },
        {
            "StringEquals": {
                "kms:ViaService": "secretsmanager.eu-central-1.amazonaws.com",
                "kms:EncryptionContext:SecretARN": secrets,
            }
        },
        {
            "StringEquals": {
                "kms:ViaService": "sqs.eu-central-1.amazonaws.com",
                "kms:EncryptionContext:aws:sqs:arn": "${ReleaseQueue.Arn}",
            }
        },
    ]


# --- The queue --------------------------------------------------------------------------------------------------------


def queue(stack: Stack) -> Properties:
    return stack.of_type("AWS::SQS::Queue")["ReleaseQueue"]


def dead_letter_queue(stack: Stack) -> Properties:
    return stack.of_type("AWS::SQS::Queue")["ReleaseDeadLetterQueue"]


def test_the_worker_takes_as_many_hints_as_there_are_and_gives_back_single_ones(stack: Stack) -> None:
    assert stack.only("AWS::Lambda::EventSourceMapping") == {
        "EventSourceArn": "${ReleaseQueue.Arn}",
        "FunctionName": "${WorkerFunction}",
        "BatchSize": 1000,
        "MaximumBatchingWindowInSeconds": 1,
        "FunctionResponseTypes": ["ReportBatchItemFailures"],
        "ScalingConfig": {"MaximumConcurrency": 3},
    }
    function = stack.of_type("AWS::Lambda::Function")["WorkerFunction"]
    assert (function["Handler"], function["Timeout"]) == ("quarantine_release.worker.lambda_handler", 60)


def test_nobody_but_the_queue_starts_the_worker(stack: Stack) -> None:
    assert permissions_of(stack, "WorkerFunction") == []


def test_no_function_is_held_back_by_reserved_concurrency(stack: Stack) -> None:
    """Hints that it turned away would count as received, and end as dead letters though nothing is wrong."""
    for function in stack.of_type("AWS::Lambda::Function").values():
        assert "ReservedConcurrentExecutions" not in function


def test_a_hint_stays_hidden_until_the_worker_cannot_be_at_it_any_more(stack: Stack) -> None:
    mapping = stack.only("AWS::Lambda::EventSourceMapping")
    timeout = stack.of_type("AWS::Lambda::Function")["WorkerFunction"]["Timeout"]
    assert queue(stack)["VisibilityTimeout"] >= 6 * timeout + mapping["MaximumBatchingWindowInSeconds"]


def test_a_hint_that_fails_five_times_goes_where_only_this_queues_hints_go(stack: Stack) -> None:
    assert queue(stack)["RedrivePolicy"] == {
        "deadLetterTargetArn": "${ReleaseDeadLetterQueue.Arn}",
        "maxReceiveCount": 5,
    }
    name = queue(stack)["QueueName"]
    assert name == "quarantine-release-hints"
    assert dead_letter_queue(stack)["RedriveAllowPolicy"] == {
        "redrivePermission": "byQueue",
        "sourceQueueArns": [f"arn:aws:sqs:eu-central-1:123456789012:{name}"],
    }
    assert "RedrivePolicy" not in dead_letter_queue(stack)


def test_dead_letters_are_kept_for_longer_than_hints_since_they_keep_their_age(stack: Stack) -> None:
    days = 24 * 60 * 60
    assert queue(stack)["MessageRetentionPeriod"] == 4 * days
    assert dead_letter_queue(stack)["MessageRetentionPeriod"] == 14 * days


def test_a_queue_is_encrypted_and_answers_only_over_tls(stack: Stack) -> None:
    key = stack.given.get("KmsKeyArn")
    queues = stack.of_type("AWS::SQS::Queue")
    assert queues.keys() == {"ReleaseQueue", "ReleaseDeadLetterQueue"}
    for properties in queues.values():
        found = {name: properties.get(name) for name in ("SqsManagedSseEnabled", "KmsMasterKeyId")}
        assert found == {"SqsManagedSseEnabled": None if key else True, "KmsMasterKeyId": key}
    policies = stack.of_type("AWS::SQS::QueuePolicy").values()
    assert {one["Queues"][0]: one["PolicyDocument"]["Statement"] for one in policies} == {
        f"${{{name}}}": [
            {
                "Sid": "OnlyEncrypted",
                "Effect": "Deny",
                "Principal": "*",
                "Action": "sqs:*",
                "Resource": f"${{{name}.Arn}}",
                "Condition": {"Bool": {"aws:SecureTransport": "false"}},
            }
        ]
        for name in queues
    }


def test_every_function_sends_hints_only_the_worker_receives_them_and_none_touches_dead_letters(stack: Stack) -> None:
    for function, expected in ALLOWED_ACTIONS.items():
        found = {
            (action, resource)
            for one in allowed(role_of(stack, function))
            for action in listed(one["Action"])
            for resource in listed(one["Resource"])
            if action.startswith("sqs:")
        }
        assert found == {(action, "${ReleaseQueue.Arn}") for action in expected if action.startswith("sqs:")}
    senders = {name for name, expected in ALLOWED_ACTIONS.items() if "sqs:SendMessage" in expected}
    assert senders == ALLOWED_ACTIONS.keys()
    assert [name for name, expected in ALLOWED_ACTIONS.items() if expected & RECEIVING] == ["WorkerFunction"]


# --- The schedule -----------------------------------------------------------------------------------------------------


def test_the_reconciler_starts_every_minute_and_has_ended_by_then(stack: Stack) -> None:
    rule = stack.only("AWS::Events::Rule")
    (target,) = rule["Targets"]
    assert (rule["ScheduleExpression"], rule["State"]) == ("rate(1 minute)", "ENABLED")
    assert target["Arn"] == "${ReconcilerFunction.Arn}"
    function = stack.of_type("AWS::Lambda::Function")["ReconcilerFunction"]
    assert (function["Handler"], function["Timeout"]) == ("quarantine_release.reconciler.lambda_handler", 55)


def test_a_run_that_failed_or_could_not_start_is_not_repeated(stack: Stack) -> None:
    never = {"MaximumRetryAttempts": 0, "MaximumEventAgeInSeconds": 60}
    lambdas = stack.only("AWS::Lambda::EventInvokeConfig")
    assert lambdas["FunctionName"] == "${ReconcilerFunction}"
    assert never.items() <= lambdas.items()
    assert stack.only("AWS::Events::Rule")["Targets"][0]["RetryPolicy"] == never


def test_only_the_schedule_may_start_the_reconciler(stack: Stack) -> None:
    (rule,) = stack.of_type("AWS::Events::Rule")
    assert permissions_of(stack, "ReconcilerFunction") == [
        {
            "Action": "lambda:InvokeFunction",
            "FunctionName": "${ReconcilerFunction}",
            "Principal": "events.amazonaws.com",
            "SourceArn": f"${{{rule}.Arn}}",
        }
    ]


def test_the_schedule_can_be_stopped_and_somebody_is_told_of_it() -> None:
    stack = Stack(ReconcilerSchedule="DISABLED")
    assert stack.only("AWS::Events::Rule")["State"] == "DISABLED"
    assert "ReconcilerStoppedAlarm" in stack.of_type("AWS::CloudWatch::Alarm")


# --- Table, secrets, logs ---------------------------------------------------------------------------------------------


def test_the_ledger_has_its_keys_and_its_index(stack: Stack) -> None:
    table = stack.only("AWS::DynamoDB::Table")
    assert table["KeySchema"] == [{"AttributeName": "pk", "KeyType": "HASH"}]
    assert table["GlobalSecondaryIndexes"] == [
        {
            "IndexName": "open-index",
            "KeySchema": [
                {"AttributeName": "open_kind", "KeyType": "HASH"},
                {"AttributeName": "open_at", "KeyType": "RANGE"},
            ],
            "Projection": {"ProjectionType": "KEYS_ONLY"},
        }
    ]
    assert {one["AttributeName"]: one["AttributeType"] for one in table["AttributeDefinitions"]} == {
        "pk": "S",
        "open_kind": "S",
        "open_at": "N",
    }
    assert table["BillingMode"] == "PAY_PER_REQUEST"
    assert table["TimeToLiveSpecification"] == {"AttributeName": "expires_at", "Enabled": True}


def test_the_ledger_is_hard_to_lose(stack: Stack) -> None:
    table = stack.only("AWS::DynamoDB::Table")
    assert table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert table["DeletionProtectionEnabled"] is True


def test_table_and_secrets_outlive_the_stack(stack: Stack) -> None:
    for name in ("Ledger", "CloudflareSecret", "ClientsSecret"):
        assert stack.resources[name]["DeletionPolicy"] == "Retain"
        assert stack.resources[name]["UpdateReplacePolicy"] == "Retain"
    for name in ("ReleaseQueue", "ReleaseDeadLetterQueue"):  # hold hints only
        assert stack.resources[name].keys() & {"DeletionPolicy", "UpdateReplacePolicy"} == set()


def test_a_new_secret_counts_as_not_configured(stack: Stack) -> None:
    secrets = stack.of_type("AWS::SecretsManager::Secret")
    assert secrets.keys() == {"CloudflareSecret", "ClientsSecret"}
    assert all(secret["SecretString"] == "{}" for secret in secrets.values())


def test_table_secrets_and_logs_are_encrypted_with_the_owners_key_if_there_is_one(stack: Stack) -> None:
    key = stack.given.get("KmsKeyArn")
    encryption = stack.only("AWS::DynamoDB::Table")["SSESpecification"]
    assert encryption == {"SSEEnabled": True, "SSEType": "KMS"} | ({"KMSMasterKeyId": key} if key else {})
    for kind in ("AWS::SecretsManager::Secret", "AWS::Logs::LogGroup"):
        assert {found.get("KmsKeyId") for found in stack.of_type(kind).values()} == {key}


def test_no_log_is_kept_for_ever() -> None:
    for log in Stack(LogRetentionDays="30").of_type("AWS::Logs::LogGroup").values():
        assert log["RetentionInDays"] == "30"


def test_every_function_logs_json_into_a_group_of_its_own_that_it_alone_may_write(stack: Stack) -> None:
    groups = []
    for name, function in stack.of_type("AWS::Lambda::Function").items():
        logging = function["LoggingConfig"]
        assert logging["LogFormat"] == "JSON"
        # Metrics are log lines without a level, which Lambda takes for INFO.
        assert logging["ApplicationLogLevel"] == "INFO"
        groups.append(group := logging["LogGroup"].removeprefix("${").removesuffix("}"))
        assert group in stack.of_type("AWS::Logs::LogGroup")
        assert statement_allowing(role_of(stack, name), "logs:PutLogEvents")["Resource"] == f"${{{group}.Arn}}"
    assert len(set(groups)) == len(groups)


# --- The API ----------------------------------------------------------------------------------------------------------


def test_every_path_and_method_goes_to_the_webhook(stack: Stack) -> None:
    paths = stack.only("AWS::ApiGateway::RestApi")["Body"]["paths"]
    assert paths.keys() == {"/", "/{proxy+}"}
    for methods in paths.values():
        assert methods.keys() == {"x-amazon-apigateway-any-method"}
        integration = methods["x-amazon-apigateway-any-method"]["x-amazon-apigateway-integration"]
        assert integration["type"] == "aws_proxy"
        assert integration["httpMethod"] == "POST"
        assert integration["uri"].endswith(":lambda:path/2015-03-31/functions/${WebhookFunction.Arn}/invocations")


def test_the_gateway_gives_up_after_the_function_did(stack: Stack) -> None:
    function = stack.of_type("AWS::Lambda::Function")["WebhookFunction"]
    assert function["Timeout"] == 20
    for methods in stack.only("AWS::ApiGateway::RestApi")["Body"]["paths"].values():
        integration = methods["x-amazon-apigateway-any-method"]["x-amazon-apigateway-integration"]
        assert integration["timeoutInMillis"] == 29_000


def test_only_this_stage_of_this_api_may_call_the_webhook(stack: Stack) -> None:
    assert permissions_of(stack, "WebhookFunction") == [
        {
            "Action": "lambda:InvokeFunction",
            "FunctionName": "${WebhookFunction}",
            "Principal": "apigateway.amazonaws.com",
            "SourceArn": "arn:aws:execute-api:eu-central-1:123456789012:${Api}/${ApiliveStage}/*",
        }
    ]
    assert not stack.of_type("AWS::Lambda::Url")


@pytest.mark.parametrize(
    ("response", "status", "retryable"),
    [
        ("DEFAULT_4XX", None, False),
        ("DEFAULT_5XX", None, True),
        ("THROTTLED", 429, True),
        ("REQUEST_TOO_LARGE", 413, False),
    ],
)
def test_what_the_gateway_answers_is_a_problem_too(
    stack: Stack, response: str, status: int | None, retryable: bool
) -> None:
    answers = stack.only("AWS::ApiGateway::RestApi")["Body"]["x-amazon-apigateway-gateway-responses"]
    answer = answers[response]
    problem = json.loads(answer["responseTemplates"]["application/json"])

    assert answer["responseParameters"]["gatewayresponse.header.Content-Type"] == "'application/problem+json'"
    members = {"type", "title", "detail", "ok", "code", "retryable", "request_id"}
    assert problem.keys() == members | ({"status"} if status else set())
    assert problem["type"] == f"urn:quarantine-release:problem:{problem['code']}"
    assert problem["request_id"] == "$context.requestId"
    assert problem["ok"] is False
    assert problem["retryable"] is retryable
    assert problem.get("status") == status
    assert answer.get("statusCode") == (str(status) if status else None)


def test_no_answer_of_the_gateway_repeats_what_was_sent_and_a_429_says_when_to_come_again(stack: Stack) -> None:
    answers = stack.only("AWS::ApiGateway::RestApi")["Body"]["x-amazon-apigateway-gateway-responses"]
    variables = {variable for text in texts(answers) for variable in re.findall(r"\$[\w.]+|method\.request", text)}
    assert variables == {"$context.requestId"}
    assert "gatewayresponse.header.Retry-After" in answers["THROTTLED"]["responseParameters"]


def test_there_is_one_stage_and_it_is_traced_and_throttled_and_logs_no_bodies() -> None:
    stack = Stack(ThrottleRate="7", ThrottleBurst="9")
    assert "StageName" not in stack.only(
        "AWS::ApiGateway::Deployment"
    )  # it would make a second stage, without all this
    stage = stack.only("AWS::ApiGateway::Stage")
    assert stage["StageName"] == "live"
    assert stage["TracingEnabled"] is True
    assert stage["MethodSettings"] == [
        {
            "HttpMethod": "*",
            "ResourcePath": "/*",
            "ThrottlingRateLimit": "7",
            "ThrottlingBurstLimit": "9",
            "MetricsEnabled": True,
            "LoggingLevel": "ERROR",
            "DataTraceEnabled": False,
        }
    ]


def throttle_of(stack: Stack) -> tuple[str, str]:
    (settings,) = stack.only("AWS::ApiGateway::Stage")["MethodSettings"]
    assert (settings["HttpMethod"], settings["ResourcePath"]) == ("*", "/*")
    return settings["ThrottlingRateLimit"], settings["ThrottlingBurstLimit"]


def test_the_throttle_is_what_is_given_beside_any_other_parameters(stack: Stack) -> None:
    assert throttle_of(stack) == ("200", "400")
    chosen = {name: value for name, value in SWITCHES.items() if name in stack.given}
    assert throttle_of(Stack(**chosen, ThrottleRate="7", ThrottleBurst="9")) == ("7", "9")


def test_nothing_is_kept_or_changed_on_the_way_to_the_function(stack: Stack) -> None:
    """A cache would answer without asking who calls; a body that the gateway unpacks is larger than it was sent."""
    stage, api = stack.only("AWS::ApiGateway::Stage"), stack.only("AWS::ApiGateway::RestApi")
    assert not stage.keys() & {"CacheClusterEnabled", "CacheClusterSize", "CanarySetting", "ClientCertificateId"}
    assert not any(setting.keys() & {"CachingEnabled", "CacheTtlInSeconds"} for setting in stage["MethodSettings"])
    assert not api.keys() & {"BinaryMediaTypes", "MinimumCompressionSize"}
    extensions = {name for name in api["Body"] if name.startswith("x-")}
    assert extensions <= {"x-amazon-apigateway-gateway-responses", "x-amazon-apigateway-policy"}


def test_the_access_log_is_one_line_of_json_without_query_headers_and_body(stack: Stack) -> None:
    setting = stack.only("AWS::ApiGateway::Stage")["AccessLogSetting"]
    assert setting["DestinationArn"] == "${ApiAccessLog.Arn}"
    assert "\n" not in setting["Format"]
    assert set(json.loads(setting["Format"]).values()) == {
        "$context.requestId",
        "$context.extendedRequestId",
        "$context.xrayTraceId",
        "$context.requestTime",
        "$context.identity.sourceIp",
        "$context.httpMethod",
        "$context.path",
        "$context.status",
        "$context.error.responseType",
        "$context.waf.status",
        "$context.integration.status",
        "$context.responseLatency",
        "$context.integration.latency",
        "$context.responseLength",
    }


def test_the_stage_waits_for_its_logs_and_for_the_right_to_write_them(stack: Stack) -> None:
    access_log = stack.resources["ApiAccessLog"]
    stage_name = stack.only("AWS::ApiGateway::Stage")["StageName"]
    execution_log = stack.of_type("AWS::Logs::LogGroup")["ApiExecutionLog"]
    account = {"ApiGatewayAccount"} if "CreateApiGatewayLogRole" in stack.given else set()

    assert access_log["DependsOn"] == "ApiExecutionLog"
    assert references(access_log["Metadata"]) == account
    assert execution_log["LogGroupName"] == f"API-Gateway-Execution-Logs_${{Api}}/{stage_name}"


def test_a_changed_parameter_reaches_the_stage() -> None:
    """Without this an allow-list given to a running stack would be stored, and not enforced."""
    assert template()["Resources"]["Api"]["Properties"]["AlwaysDeploy"] is True


def test_the_allow_list_is_enforced_exactly_if_it_is_given(stack: Stack) -> None:
    body = stack.only("AWS::ApiGateway::RestApi")["Body"]
    if "AllowedCidrs" not in stack.given:
        assert "x-amazon-apigateway-policy" not in body
        return
    allow, deny = body["x-amazon-apigateway-policy"]["Statement"]
    assert allow == {
        "Effect": "Allow",
        "Principal": "*",
        "Action": "execute-api:Invoke",
        "Resource": f"execute-api:/{stack.only('AWS::ApiGateway::Stage')['StageName']}/*",
    }
    assert deny == {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "execute-api:Invoke",
        "Resource": "execute-api:/*",
        "Condition": {"NotIpAddress": {"aws:SourceIp": ["192.0.2.0/24", "2001:db8::/32"]}},
    }


@pytest.mark.parametrize("wrong", ["192.0.2.0", "192.0.2.0/24, 198.51.100.0/24", "192.0.2.0/24,", "0/0;1/1", "any"])
def test_an_allow_list_that_would_not_do_what_it_says_is_refused(wrong: str) -> None:
    pattern = template()["Parameters"]["AllowedCidrs"]["AllowedPattern"]
    assert re.fullmatch(pattern, SWITCHES["AllowedCidrs"])
    assert not re.fullmatch(pattern, wrong)


def test_the_web_acl_stands_before_the_stage_exactly_if_it_is_given(stack: Stack) -> None:
    expected = {
        "WebACLArn": SWITCHES["WebAclArn"],
        "ResourceArn": "arn:aws:apigateway:eu-central-1::/restapis/${Api}/stages/${ApiliveStage}",
    }
    found = list(stack.of_type("AWS::WAFv2::WebACLAssociation").values())
    assert found == ([expected] if "WebAclArn" in stack.given else [])


def test_the_accounts_log_role_is_touched_exactly_if_asked_for_and_stays(stack: Stack) -> None:
    asked = "CreateApiGatewayLogRole" in stack.given
    for name in ("ApiGatewayAccount", "ApiGatewayLogRole"):
        assert (name in stack.resources) is asked
        if asked:
            assert stack.resources[name]["DeletionPolicy"] == "Retain"
            assert stack.resources[name]["UpdateReplacePolicy"] == "Retain"


# --- Alarms and dashboard ---------------------------------------------------------------------------------------------


SERVICE = (("service", "quarantine-release"),)  # the dimension that Powertools adds to every metric
WEBHOOK = (("FunctionName", "${WebhookFunction}"),)
WORKER = (("FunctionName", "${WorkerFunction}"),)
RECONCILER = (("FunctionName", "${ReconcilerFunction}"),)
HINTS = (("QueueName", "${ReleaseQueue.QueueName}"),)
DEAD_LETTERS = (("QueueName", "${ReleaseDeadLetterQueue.QueueName}"),)
API = (("ApiName", "quarantine-release"), ("Stage", "${ApiliveStage}"))
# What is watched, and in how many of how many periods of so many seconds what value is too much.
ALARMS = {
    ("AWS/ApiGateway", "5XXError", API): (1, 1, 300, "Sum >= 5"),
    ("AWS/Lambda", "Errors", WEBHOOK): (1, 1, 300, "Sum >= 1"),
    ("AWS/Lambda", "Throttles", WEBHOOK): (1, 1, 300, "Sum >= 1"),
    ("AWS/Lambda", "Errors", WORKER): (1, 1, 900, "Sum >= 2"),
    ("AWS/Lambda", "Throttles", WORKER): (1, 1, 300, "Sum >= 1"),
    ("AWS/SQS", "ApproximateAgeOfOldestMessage", HINTS): (1, 1, 300, "Maximum > 1800"),
    ("AWS/SQS", "ApproximateNumberOfMessagesVisible", DEAD_LETTERS): (1, 1, 300, "Maximum >= 1"),
    ("AWS/Lambda", "Errors", RECONCILER): (3, 5, 60, "Sum >= 1"),
    ("AWS/Lambda", "Invocations", RECONCILER): (5, 5, 60, "Sum < 1"),
    ("QuarantineRelease", "CredentialsRefused", SERVICE): (1, 1, 300, "Sum >= 1"),
    ("QuarantineRelease", "NeedsReview", SERVICE): (1, 1, 300, "Sum >= 1"),
    ("QuarantineRelease", "RowsUnreadable", SERVICE): (1, 1, 300, "Sum >= 1"),
    ("QuarantineRelease", "OldestOpenAttemptAge", SERVICE): (1, 1, 900, "Maximum > 600"),
    ("QuarantineRelease", "OldestOpenRequestAge", SERVICE): (1, 1, 900, "Maximum > 1800"),
}
QUEUE_AND_WORKER = (WORKER, HINTS, DEAD_LETTERS)
COMPARISONS = {
    "GreaterThanOrEqualToThreshold": ">=",
    "GreaterThanThreshold": ">",
    "LessThanThreshold": "<",
}


def watched(alarm: Properties) -> tuple[str, str, tuple[tuple[str, str], ...]]:
    dimensions = tuple((one["Name"], one["Value"]) for one in alarm["Dimensions"])
    return alarm["Namespace"], alarm["MetricName"], dimensions


def test_there_is_an_alarm_for_everything_a_person_must_know(stack: Stack) -> None:
    alarms = stack.of_type("AWS::CloudWatch::Alarm").values()
    assert len(alarms) == len(ALARMS)
    assert {
        watched(alarm): (
            alarm.get("DatapointsToAlarm", alarm["EvaluationPeriods"]),
            alarm["EvaluationPeriods"],
            alarm["Period"],
            f"{alarm['Statistic']} {COMPARISONS[alarm['ComparisonOperator']]} {alarm['Threshold']}",
        )
        for alarm in alarms
    } == ALARMS
    assert stack.only("AWS::ApiGateway::RestApi")["Body"]["info"]["title"] == "quarantine-release"


def test_silence_is_an_alarm_only_where_there_is_something_to_be_heard_every_minute(stack: Stack) -> None:
    for alarm in stack.of_type("AWS::CloudWatch::Alarm").values():
        is_heard = alarm["MetricName"] == "Invocations"
        assert alarm["TreatMissingData"] == ("breaching" if is_heard else "notBreaching")


def test_the_age_of_the_oldest_is_watched_for_longer_than_it_may_go_untold() -> None:
    """An attempt that cannot be settled is put off, and no run in between tells its age."""
    untold = settle._LATEST + timedelta(minutes=1)
    periods = [period for (_, metric, _), (_, _, period, _) in ALARMS.items() if metric.startswith("OldestOpen")]
    assert all(timedelta(seconds=period) > untold for period in periods)


def test_a_worker_that_goes_on_failing_is_told_before_its_hints_are_given_up(stack: Stack) -> None:
    """A hint that failed is hidden for the visibility timeout: then it fails again."""
    alarm = stack.of_type("AWS::CloudWatch::Alarm")["WorkerErrorsAlarm"]
    hidden = queue(stack)["VisibilityTimeout"]
    assert alarm["Threshold"] * hidden <= alarm["Period"] < queue(stack)["RedrivePolicy"]["maxReceiveCount"] * hidden


def test_a_hint_that_was_put_off_or_failed_once_is_no_alarm(stack: Stack) -> None:
    threshold = stack.of_type("AWS::CloudWatch::Alarm")["WorkerStoppedAlarm"]["Threshold"]
    assert threshold > LONGEST_DELAY_SECONDS + queue(stack)["VisibilityTimeout"]


def test_what_an_alarm_of_queue_and_worker_says_names_the_section_that_says_what_to_do(stack: Stack) -> None:
    operations = (TEMPLATE.parent / "docs" / "operations.md").read_text()
    ours = [one for one in stack.of_type("AWS::CloudWatch::Alarm").values() if watched(one)[2] in QUEUE_AND_WORKER]
    assert len(ours) == 4
    for alarm in ours:
        (section,) = re.findall(r'docs/operations\.md, "(.+)"\.', alarm["AlarmDescription"])
        assert f"\n## {section}\n" in operations


def test_there_is_time_to_do_something_for_a_request_that_stays_open(stack: Stack) -> None:
    threshold = stack.of_type("AWS::CloudWatch::Alarm")["OldestOpenRequestAlarm"]["Threshold"]
    shortest = template()["Parameters"]["ExpireAfterHours"]["MinValue"]
    assert timedelta(hours=shortest) - timedelta(seconds=threshold) == timedelta(minutes=30)


def test_what_our_alarms_watch_is_what_the_functions_tell(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = set_clock(monkeypatch)
    deployment.upstream.answers += [Reply(403), NO_REPLY]
    assert [deployment.post().status, deployment.post().status] == [503, 202]
    clock.move(seconds=215)
    deployment.upstream.answers.append(Reply(404))
    deployment.reconcile()
    (row,) = deployment.rows("M")
    deployment.put_row({**row, "v": {"N": "99"}})
    assert deployment.post().code == "ledger_row_unreadable"

    told = set()
    for line in capsys.readouterr().out.splitlines():
        metrics = json.loads(line)
        for group in metrics["_aws"]["CloudWatchMetrics"]:
            (names,) = group["Dimensions"]
            dimensions = tuple((name, metrics[name]) for name in names)
            told |= {(group["Namespace"], one["Name"], dimensions) for one in group["Metrics"]}
    ours = {watched(one) for one in stack_with().of_type("AWS::CloudWatch::Alarm").values()}
    assert {one for one in ours if one[0] == "QuarantineRelease"} <= told


def test_alarms_tell_the_topic_exactly_if_it_is_given(stack: Stack) -> None:
    topic = [SWITCHES["AlarmTopicArn"]] if "AlarmTopicArn" in stack.given else None
    for alarm in stack.of_type("AWS::CloudWatch::Alarm").values():
        assert alarm.get("AlarmActions") == topic
        # A message under review does not leave it by itself: that none was added is no news.
        assert alarm.get("OKActions") == (None if alarm["MetricName"] == "NeedsReview" else topic)


def widgets(stack: Stack) -> list[Properties]:
    return list(json.loads(stack.only("AWS::CloudWatch::Dashboard")["DashboardBody"])["widgets"])


def shown(widget: Properties) -> Iterator[list[str]]:
    """The metrics of a widget, written out: "." stands for what stands there in the line above, "..." for all of it."""
    above: list[str] = []
    for line in widget["properties"]["metrics"]:
        names = [name for name in line if isinstance(name, str)]
        if names:
            above = above if names == ["..."] else [above[at] if name == "." else name for at, name in enumerate(names)]
            yield above


def test_the_dashboard_shows_whatever_an_alarm_watches(stack: Stack) -> None:
    found = {
        (namespace, metric, tuple(zip(dimensions[::2], dimensions[1::2], strict=True)))
        for widget in widgets(stack)
        for namespace, metric, *dimensions in shown(widget)
    }
    (search,) = (text for text in texts(widgets(stack)) if text.startswith("SEARCH("))
    assert '{QuarantineRelease,service} service="quarantine-release"' in search
    counted = {one for one in ALARMS if one[0] == "QuarantineRelease" and f'NOT MetricName="{one[1]}"' not in search}
    assert found | counted >= ALARMS.keys()
    # Ages are no counts: their sum would dwarf everything else.
    assert not {metric for _, metric, _ in counted} & {"OldestOpenAttemptAge", "OldestOpenRequestAge"}


def test_no_widget_lies_on_another(stack: Stack) -> None:
    places = [(widget["x"], widget["y"]) for widget in widgets(stack)]
    assert len(set(places)) == len(places)
    assert {(widget["width"], widget["height"]) for widget in widgets(stack)} == {(12, 6)}
    assert all(x % 12 == 0 and y % 6 == 0 for x, y in places)
