"""Reads `template.yaml` as CloudFormation would, so that the local stack has what the deployed one has."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

REGION = "us-east-1"
ACCOUNT = "123456789012"  # the account that moto plays
PSEUDO_PARAMETERS = {
    "AWS::AccountId": ACCOUNT,
    "AWS::Partition": "aws",
    "AWS::Region": REGION,
    "AWS::StackId": f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/quarantine-release/local",
    "AWS::StackName": "quarantine-release",
    "AWS::URLSuffix": "amazonaws.com",
}
NO_VALUE = object()
AWS_QUEUES_URL = f"https://sqs.{REGION}.amazonaws.com"
POLLERS = 5  # with this many Lambda begins where no MaximumConcurrency is set
PLACEHOLDER = re.compile(r"\$\{(!?)([^}]+)\}")
NAME_PROPERTIES = {
    "AWS::DynamoDB::Table": "TableName",
    "AWS::SecretsManager::Secret": "Name",
    "AWS::Serverless::Function": "FunctionName",
    "AWS::SQS::Queue": "QueueName",
}


class UnsupportedTemplate(Exception):
    """The template holds something that the local stack cannot resolve."""


@dataclass(frozen=True, slots=True)
class Function:
    """What Lambda knows about one function."""

    name: str
    handler: str
    timeout_seconds: int
    memory_mb: int
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class QueueEvents:
    """How Lambda feeds a function from a queue: the settings of its event source mapping."""

    queue_name: str
    batch_size: int
    window_seconds: float
    maximum_concurrency: int
    reports_failures: bool


class _Loader(yaml.SafeLoader):
    """YAML with CloudFormation's short tags: `!Sub x` becomes `{"Fn::Sub": "x"}`."""


def _construct_tag(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> dict[str, Any]:
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True) if isinstance(node, yaml.MappingNode) else None
    if tag == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {tag if tag in ("Ref", "Condition") else f"Fn::{tag}": value}


_Loader.add_multi_constructor("!", _construct_tag)


class Template:
    """A parsed template, its parameters at their defaults unless given."""

    def __init__(self, document: Mapping[str, Any], parameters: Mapping[str, str] | None = None) -> None:
        self._document = document
        self._parameters = {name: spec.get("Default", "") for name, spec in document.get("Parameters", {}).items()}
        self._parameters.update(parameters or {})
        self._queues_url = AWS_QUEUES_URL

    @classmethod
    def read(cls, path: Path, parameters: Mapping[str, str] | None = None) -> Template:
        return cls(yaml.load(path.read_text("utf-8"), _Loader), parameters)  # noqa: S506  # a SafeLoader

    def with_queues_at(self, url: str) -> Template:
        """The same template, the addresses of its queues not AWS's own but below this one."""
        template = Template(self._document, self._parameters)
        template._queues_url = url
        return template

    def functions(self) -> dict[str, Function]:
        """Every function, by its logical id."""
        defaults = self._document.get("Globals", {}).get("Function", {})
        return {
            logical_id: self._function(logical_id, defaults, resource.get("Properties", {}))
            for logical_id, resource in self._resources("AWS::Serverless::Function").items()
        }

    def tables(self) -> list[dict[str, Any]]:
        """The resolved properties of every table, `TableName` included."""
        return self._named_properties("AWS::DynamoDB::Table")

    def queues(self) -> list[dict[str, Any]]:
        """The resolved properties of every queue, `QueueName` included."""
        return self._named_properties("AWS::SQS::Queue")

    def queue_events(self) -> dict[str, QueueEvents]:
        """What feeds a function from a queue, by the function's logical id."""
        found = {}
        for logical_id, resource in self._resources("AWS::Serverless::Function").items():
            for event in resource.get("Properties", {}).get("Events", {}).values():
                if event["Type"] == "SQS":
                    found[logical_id] = _queue_events(self.resolve(event["Properties"]))
        return found

    def secrets(self) -> dict[str, str]:
        """The name of every secret, by its logical id."""
        return {logical_id: self._name(logical_id) for logical_id in self._resources("AWS::SecretsManager::Secret")}

    def gateway_responses(self) -> dict[str, tuple[dict[str, str], str]]:
        """Headers and body of what the API answers by itself, by the response type's name."""
        found = {}
        for api in self._resources("AWS::Serverless::Api").values():
            definition = api["Properties"].get("DefinitionBody", {})
            for kind, response in definition.get("x-amazon-apigateway-gateway-responses", {}).items():
                headers = {
                    name.removeprefix("gatewayresponse.header."): value.strip("'")
                    for name, value in response.get("responseParameters", {}).items()
                }
                found[kind] = headers, response["responseTemplates"]["application/json"]
        return found

    def resolve(self, value: Any) -> Any:
        """Replace the intrinsic functions in a value."""
        if isinstance(value, list):
            return [item for item in map(self.resolve, value) if item is not NO_VALUE]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            (name, argument), *_ = value.items()
            if name == "Ref" or name == "Condition" or name.startswith("Fn::"):
                return self._intrinsic(name, argument)
        resolved = {key: self.resolve(item) for key, item in value.items()}
        return {key: item for key, item in resolved.items() if item is not NO_VALUE}

    def queue_url(self, name: str) -> str:
        """What `Ref` gives for a queue."""
        return f"{self._queues_url}/{ACCOUNT}/{name}"

    def _function(self, logical_id: str, defaults: Mapping[str, Any], own: Mapping[str, Any]) -> Function:
        properties = {**defaults, **own}
        variables = {
            **defaults.get("Environment", {}).get("Variables", {}),
            **own.get("Environment", {}).get("Variables", {}),
        }
        return Function(
            name=self._name(logical_id),
            handler=self.resolve(properties["Handler"]),
            timeout_seconds=int(self.resolve(properties.get("Timeout", 3))),
            memory_mb=int(self.resolve(properties.get("MemorySize", 128))),
            environment={key: _text(value) for key, value in self.resolve(variables).items()},
        )

    def _resources(self, kind: str) -> dict[str, dict[str, Any]]:
        return {
            logical_id: resource
            for logical_id, resource in self._document["Resources"].items()
            if resource["Type"] == kind and self._holds(resource.get("Condition"))
        }

    def _named_properties(self, kind: str) -> list[dict[str, Any]]:
        return [
            {**self.resolve(resource.get("Properties", {})), NAME_PROPERTIES[kind]: self._name(logical_id)}
            for logical_id, resource in self._resources(kind).items()
        ]

    def _name(self, logical_id: str) -> str:
        """The physical name: as the template says, else the logical id (CloudFormation would append random letters)."""
        resource = self._document["Resources"][logical_id]
        name_property = NAME_PROPERTIES.get(resource["Type"], "")
        return str(self.resolve(resource.get("Properties", {}).get(name_property, logical_id)))

    def _holds(self, condition: str | None) -> bool:
        return condition is None or bool(self.resolve(self._document["Conditions"][condition]))

    def _intrinsic(self, name: str, argument: Any) -> Any:
        evaluate: dict[str, Callable[[Any], Any]] = {
            "Ref": self._ref,
            "Condition": self._holds,
            "Fn::GetAtt": self._attribute,
            "Fn::Sub": self._substitute,
            "Fn::Join": lambda it: _text(it[0]).join(_text(item) for item in self.resolve(it[1])),
            "Fn::If": lambda it: self.resolve(it[1] if self._holds(it[0]) else it[2]),
            "Fn::Equals": lambda it: _text(self.resolve(it[0])) == _text(self.resolve(it[1])),
            "Fn::Not": lambda it: not self.resolve(it[0]),
            "Fn::And": lambda it: all(map(self.resolve, it)),
            "Fn::Or": lambda it: any(map(self.resolve, it)),
        }
        if name not in evaluate:
            raise UnsupportedTemplate(f"the local stack cannot resolve {name}")
        return evaluate[name](argument)

    def _ref(self, name: str) -> Any:
        if name == "AWS::NoValue":
            return NO_VALUE
        if name in PSEUDO_PARAMETERS:
            return PSEUDO_PARAMETERS[name]
        if name in self._parameters:
            return self._parameters[name]
        is_queue = self._document["Resources"][name]["Type"] == "AWS::SQS::Queue"
        return self.queue_url(self._name(name)) if is_queue else self._name(name)

    def _attribute(self, path: list[str]) -> str:
        logical_id, attribute = path
        kind, name = self._document["Resources"][logical_id]["Type"], self._name(logical_id)
        if attribute != "Arn":
            return name if attribute == "QueueName" else f"{name}.{attribute}"
        service, separator = {
            "AWS::DynamoDB::Table": ("dynamodb", "table/"),
            "AWS::Serverless::Function": ("lambda", "function:"),
            "AWS::SQS::Queue": ("sqs", ""),
        }.get(kind, ("local", ""))
        return f"arn:aws:{service}:{REGION}:{ACCOUNT}:{separator}{name}"

    def _substitute(self, argument: str | list[Any]) -> str:
        text, variables = (argument, {}) if isinstance(argument, str) else (argument[0], argument[1])

        def replace(match: re.Match[str]) -> str:
            escaped, name = match.groups()
            if escaped:
                return f"${{{name}}}"
            if name in variables:
                return _text(self.resolve(variables[name]))
            return _text(self._attribute(name.split(".", 1)) if "." in name else self._ref(name))

        return PLACEHOLDER.sub(replace, text)


def _queue_events(properties: Mapping[str, Any]) -> QueueEvents:
    """What is not set is as Lambda has it."""
    return QueueEvents(
        queue_name=properties["Queue"].rpartition(":")[2],
        batch_size=int(properties.get("BatchSize", 10)),
        window_seconds=float(properties.get("MaximumBatchingWindowInSeconds", 0)),
        maximum_concurrency=int(properties.get("ScalingConfig", {}).get("MaximumConcurrency", POLLERS)),
        reports_failures="ReportBatchItemFailures" in properties.get("FunctionResponseTypes", ()),
    )


def _text(value: Any) -> str:
    """A value as CloudFormation turns it into text: booleans in lower case."""
    return str(value).lower() if isinstance(value, bool) else str(value)
