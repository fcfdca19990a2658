"""The table of errors: every code that is used stands in it, and every code in it is used."""

import ast
from pathlib import Path

import pytest

from quarantine_release.api.problems import PROBLEMS, Problem, problem_body
from quarantine_release.domain.verdicts import RefusalReason

PACKAGE = Path(__file__).parent.parent.parent / "src" / "quarantine_release"


def codes_in_use() -> set[str]:
    """Return the codes that the package declines with, as they stand in its source."""
    calls = [node for path in PACKAGE.rglob("*.py") for node in ast.walk(ast.parse(path.read_text()))]
    raised = [
        node.args[0]
        for node in calls
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Problem", "InvalidRequest") and node.args
    ]
    literal = {str(code.value) for code in raised if isinstance(code, ast.Constant)}
    return literal | set(RefusalReason) | {f"{secret}_not_configured" for secret in ("clients", "cloudflare")}


def test_every_code_in_use_is_in_the_table_and_every_code_in_the_table_is_in_use() -> None:
    assert codes_in_use() == PROBLEMS.keys()


@pytest.mark.parametrize("code", PROBLEMS)
def test_only_what_passes_by_itself_is_retryable_and_says_when(code: str) -> None:
    problem = PROBLEMS[code]
    assert problem.is_retryable == (problem.status == 503) == (problem.retry_after is not None)
    assert problem.title
    assert not problem.title.endswith(".")


def test_a_problem_has_the_members_of_rfc_9457_ours_and_its_own() -> None:
    declined = Problem("cloudflare_rate_limited", "Wait.", retry_after=77, field="ids")
    assert declined.retry_after == 77
    assert problem_body(declined, "gateway-1") == {
        "type": "urn:quarantine-release:problem:cloudflare_rate_limited",
        "title": "Cloudflare may not be called for now: rate limit or failed calls",
        "status": 503,
        "detail": "Wait.",
        "ok": False,
        "code": "cloudflare_rate_limited",
        "retryable": True,
        "request_id": "gateway-1",
        "field": "ids",
    }


def test_without_a_time_of_its_own_a_problem_waits_as_the_table_says() -> None:
    assert Problem("cloudflare_rate_limited", "Wait.").retry_after == 300
    assert Problem("cloudflare_rate_limited", "Wait.", retry_after=0).retry_after == 0
    assert Problem("not_found", "Nothing.").retry_after is None
