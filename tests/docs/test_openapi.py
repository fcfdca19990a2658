"""docs/openapi.yaml is true: schemathesis searches the real handlers for an answer that it does not describe."""

import json
import re
from collections.abc import Callable, Iterable
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
import schemathesis
import yaml
from hypothesis import HealthCheck, settings
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import positive_data_acceptance

from local.proxy_event import http_answer
from quarantine_release.api.problems import PROBLEMS
from quarantine_release.api.routes import _ROUTES
from quarantine_release.domain.states import Code, Outcome, State
from quarantine_release.webhook import lambda_handler
from tests.support.deployment import MESSAGE, Context, Deployment, path_of, proxy_event, token_of

PAGE = Path(__file__).parent.parent.parent / "docs" / "openapi.yaml"
DESCRIPTION: dict[str, Any] = yaml.safe_load(PAGE.read_text("utf-8"))


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Be the gateway: WSGI on the one side, an event for the handler on the other."""
    headers = [(name[5:].replace("_", "-"), value) for name, value in environ.items() if name.startswith("HTTP_")]
    headers += [("Content-Type", environ["CONTENT_TYPE"])] if environ.get("CONTENT_TYPE") else []
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    path = environ["REQUEST_URI"].partition("?")[0]
    query = parse_qsl(environ["QUERY_STRING"], keep_blank_values=True)
    text = body.decode("utf-8", "replace")
    event = proxy_event(environ["REQUEST_METHOD"], path, headers=headers, query=query, body=text)
    answer = lambda_handler(event, Context(20))
    start_response(f"{answer['statusCode']} {HTTPStatus(answer['statusCode']).phrase}", list(answer["headers"].items()))
    return [answer["body"].encode()]


schema = schemathesis.openapi.from_dict(DESCRIPTION, config=SchemathesisConfig.from_dict({}))
schema.app = application

# What a schema cannot say: that a key was used before, that a member needs another or a header, how deep a body may be.
BEYOND_SCHEMAS = ("idempotency_key_reused", "force_needs_key", "force_needs_reason", "override_needs_reason")
TOKEN = {"Authorization": f"Bearer {token_of('soar')}"}


@pytest.mark.usefixtures("deployment")
@schema.parametrize()
@settings(max_examples=50, derandomize=True, suppress_health_check=list(HealthCheck))
def test_every_answer_is_as_described(case: schemathesis.Case[Any]) -> None:
    """Every check of schemathesis, with valid and invalid requests, with this token, with wrong ones and without."""
    response = case.call(headers=TOKEN)
    told = response.json()
    is_beyond = told.get("code") in BEYOND_SCHEMAS or "nested" in told.get("detail", "")
    case.validate_response(response, headers=TOKEN, excluded_checks=[positive_data_acceptance] if is_beyond else None)


def responses() -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method, operation)
        for path, methods in DESCRIPTION["paths"].items()
        for method, operation in methods.items()
    ]


def test_every_route_is_described_and_no_other() -> None:
    described = {(re.sub(r"\{[^}]+\}", "x", path), method.upper()) for path, method, _ in responses()}
    known = {
        (path, method)
        for pattern, methods in _ROUTES
        for method in methods
        for path, _ in described
        if pattern.match(path)
    }
    assert described == known
    assert len(described) == sum(len(methods) for _, methods in _ROUTES)


def test_operation_ids_are_verb_and_noun() -> None:
    names = [operation["operationId"] for _, _, operation in responses()]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"(create|get|list|cancel|check)_[a-z]+", name) for name in names)


def test_what_the_code_names_is_described() -> None:
    schemas = DESCRIPTION["components"]["schemas"]
    assert set(schemas["Outcome"]["enum"]) == set(Outcome)
    assert set(schemas["Code"]["enum"]) == {None, *Code}
    assert set(schemas["Trace"]["properties"]["state"]["enum"]) == {None, *State} - {State.UNREADABLE}
    statuses = {int(status) for _, _, operation in responses() for status in operation["responses"]}
    assert {problem.status for problem in PROBLEMS.values()} - {405} <= statuses


def test_the_header_of_a_401_is_described_under_both_of_its_names(deployment: Deployment) -> None:
    """As the function gives it, and as API Gateway hands it on; so neither name can be counted on."""
    headers = DESCRIPTION["components"]["responses"]["Unauthenticated"]["headers"]
    given = deployment.post(client=None).headers
    handed_on = [name for name, _ in http_answer({"statusCode": 401, "headers": dict(given)}).headers]
    names = {name.lower() for name in (*given, *handed_on) if "www-authenticate" in name.lower()}
    assert {name.lower() for name in headers} == names
    assert len(names) == 2
    assert not any(header.get("required") for header in headers.values())


def test_examples_are_real_answers(deployment: Deployment) -> None:
    """Ids and times aside, which differ, and the recipient, who has another name in the tests."""
    described = DESCRIPTION["components"]["responses"]
    released = deployment.post([MESSAGE]).body
    shown = json.dumps(described["Ended"]["content"]["application/json"]["example"])
    assert _alike(json.dumps(released)) == _alike(shown)
    refused = deployment.post(client=None).body
    assert refused == described["Unauthenticated"]["content"]["application/problem+json"]["example"]
    examples = DESCRIPTION["paths"]["/v1/releases"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    for example in examples.values():
        assert deployment.post(example["value"]).status == 200


def _alike(text: str) -> str:
    return re.sub(r"rq_[a-z2-7]{26}|\d{4}-\d\d-\d\dT[0-9:.]+Z|[a-z.]+@example.com", "*", text)


def test_every_member_of_the_problem_of_a_row_is_described(deployment: Deployment) -> None:
    answer = deployment.post()
    (row,) = deployment.rows("M")
    deployment.put_row({**row, "v": {"N": "99"}})
    told = deployment.get(path_of(answer))
    assert (told.status, told.body["ids"]) == (503, [MESSAGE])
    assert told.body.keys() <= DESCRIPTION["components"]["schemas"]["Problem"]["properties"].keys()


def test_an_incomplete_release_in_a_list_is_described(deployment: Deployment) -> None:
    """With `fail_on` the entry of an ended request is a problem with results: neither a release nor a problem."""
    asked = deployment.post({"ids": MESSAGE, "fail_on": "none"}, headers=[("Prefer", "respond-async")])
    deployment.send("POST", f"{path_of(asked)}/cancel")
    listed = deployment.get("/v1/releases", query=[("ids", asked.body["request_id"])])
    (entry,) = listed.body["releases"]
    assert (listed.status, entry["code"]) == (200, "release_incomplete")
    content = DESCRIPTION["paths"]["/v1/releases"]["get"]["responses"]["200"]["content"]["application/json"]
    names = {each["$ref"].rpartition("/")[2] for each in content["schema"]["properties"]["releases"]["items"]["anyOf"]}
    schemas = [DESCRIPTION["components"]["schemas"][name] for name in names]
    assert any(set(each["required"]) <= entry.keys() <= each["properties"].keys() for each in schemas)
