"""Lookup, guard, dry run and proof as a caller sees them: the real handlers beside a Cloudflare that is read first."""

import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from quarantine_release.domain.verdicts import Seen
from tests.support.deployment import CLIENTS_SECRET, INVESTIGATE_ID, MESSAGE, Deployment, client_entry, path_of
from tests.support.known_mail import ALERT, EVIL, HEADER, SUBJECT, Listed, entry
from tests.support.small_cloudflare import RECIPIENT, Reply, Sent, Upstream, delivered


@pytest.fixture
def messages(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Return what Cloudflare knows of, to be changed."""
    known = [entry(), entry(EVIL, final_disposition="MALICIOUS", message_id="<evil@example.net>")]

    def answer(sent: Sent) -> Reply | None:
        upstream.requests.append(sent)
        if upstream.answers:
            planned = upstream.answers.popleft()
            return planned(sent) if callable(planned) else planned
        if sent.method == "POST":
            return delivered(sent)
        path, query = urlsplit(sent.path).path, parse_qs(urlsplit(sent.path).query)
        if path.endswith("/action_log"):
            return Reply(result=[])
        if not path.endswith("/investigate"):
            found = [each for each in known if path.endswith(each["id"].replace(":", "%3A"))]
            return Reply(result=found[0]) if found else Reply(404)
        wanted = query.get("message_id", [None])[0]
        found = [each for each in known if wanted in (None, each["message_id"])]
        alert = query.get("alert_id", [""])[0]
        return Listed([each for each in found if each["id"].startswith(alert)])

    monkeypatch.setattr(upstream, "answer", answer)
    return known


@pytest.fixture
def guarded(deployment: Deployment, messages: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """The deployment with its guard on, as it is unless somebody switches it off."""
    assert messages
    monkeypatch.setenv("GUARD_MODE", "standard")
    return deployment


def test_by_alert_id_and_by_message_id_it_is_the_same_mail(guarded: Deployment) -> None:
    first = guarded.post({"alert_ids": [ALERT]})
    assert (first.status, first.result["outcome"], first.result["resolved_id"]) == (200, "released", INVESTIGATE_ID)
    assert (first.result["id"], first.result["guard"], first.result["disposition"]) == (ALERT, "passed", "SPAM")
    for shape in (HEADER, HEADER.strip("<>"), ALERT, INVESTIGATE_ID, MESSAGE):
        assert guarded.post({"message_ids": shape}).result["outcome"] == "already_released"
    assert [sent.ids for sent in guarded.upstream.releases] == [[INVESTIGATE_ID]]


def test_malicious_mail_is_denied_however_it_is_asked_for(guarded: Deployment) -> None:
    for body in ([EVIL], ["<evil@example.net>"], EVIL.rpartition("-")[0], {"ids": [EVIL], "confirm": True}):
        answer = guarded.post(body if isinstance(body, dict) else {"ids": body})
        assert (answer.status, answer.body["outcome"], answer.body["ok"]) == (200, "none", False)
        assert (answer.result["outcome"], answer.result["code"]) == ("denied", "disposition_not_allowed")
        assert "MALICIOUS" in answer.result["detail"]
        assert (answer.result["disposition"], "guard" in answer.result) == ("MALICIOUS", False)
        assert guarded.get(path_of(answer)).body["results"] == answer.body["results"]
    assert guarded.upstream.releases == []
    trace = guarded.get(f"/v1/messages/{EVIL}").body
    assert (trace["state"], {request["outcome"] for request in trace["requests"]}) == (None, {"denied"})
    assert {request["code"] for request in trace["requests"]} == {"disposition_not_allowed"}
    assert {request["disposition"] for request in trace["requests"]} == {trace["disposition"]} == {"MALICIOUS"}
    assert {request["detail"] for request in trace["requests"]} == {answer.result["detail"]}
    (event, *_) = guarded.events("not_released")
    assert (event["client"], event["code"], event["dry_run"]) == ("soar", "disposition_not_allowed", False)
    assert (event["disposition"], event["detail"]) == ("MALICIOUS", answer.result["detail"])


@pytest.mark.parametrize(
    ("told", "kept"),
    [("PHISHING-KIT", "PHISHING-KIT"), ("to ann.canary@example.com", None), (None, None), ("", None)],
)
def test_of_a_disposition_that_nobody_knows_a_name_is_told_and_no_other_text(
    guarded: Deployment, messages: list[dict[str, Any]], told: str | None, kept: str | None
) -> None:
    messages[0]["final_disposition"] = told
    answer = guarded.post([INVESTIGATE_ID])
    assert (answer.result["outcome"], answer.result["disposition"]) == ("denied", kept)
    assert guarded.get(path_of(answer)).result == answer.result
    trace = guarded.get(f"/v1/messages/{MESSAGE}").body
    assert (trace["disposition"], trace["requests"][0]["disposition"]) == (kept, kept)
    assert [event.get("disposition") for event in guarded.events("not_released")] == [kept]


def test_what_is_not_quarantined_says_what_it_is(guarded: Deployment, messages: list[dict[str, Any]]) -> None:
    messages[0]["is_quarantined"] = False
    result = guarded.post([INVESTIGATE_ID]).result
    assert (result["outcome"], result["disposition"], "guard" in result) == ("not_quarantined", "SPAM", False)


def test_an_override_keeps_no_text_that_is_no_name(guarded: Deployment, messages: list[dict[str, Any]]) -> None:
    messages[0]["final_disposition"] = "to ann.canary@example.com"
    may = client_entry("soar", scopes=["release", "read", "override"])
    guarded.put_secret("clients", {"clients": [may]})
    result = guarded.post({"ids": [INVESTIGATE_ID], "override": True, "reason": "known to be harmless"}).result
    assert (result["guard"], result["disposition"]) == ("overridden", None)


def test_of_a_denial_others_see_time_and_outcome_alone(guarded: Deployment) -> None:
    guarded.post([EVIL])
    trace = guarded.get(f"/v1/messages/{EVIL}", client="other").body
    assert [request.keys() for request in trace["requests"]] == [{"at", "outcome"}]


def test_while_the_guard_is_off_nothing_is_said_of_it(guarded: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUARD_MODE", "off")
    bodies = ([INVESTIGATE_ID], {"ids": [EVIL], "dry_run": True}, {"ids": [EVIL.rpartition("-")[0]], "dry_run": True})
    for body in (*bodies, ["4WtNoSuch000001-2024-01-05T10:00:00"]):
        assert not {"guard", "disposition"} & guarded.post(body).result.keys()


def test_malicious_mail_is_denied_in_a_batch_and_in_the_worker(guarded: Deployment) -> None:
    answer = guarded.post([INVESTIGATE_ID, EVIL], headers=[("Prefer", "respond-async")])
    assert answer.status == 202
    guarded.work()
    results = guarded.get(path_of(answer)).body["results"]
    assert [result["outcome"] for result in results] == ["released", "denied"]
    assert [sent.ids for sent in guarded.upstream.releases] == [[INVESTIGATE_ID]]
    assert len(guarded.events("not_released")) == 1


@pytest.mark.parametrize("reply", [Reply(500), Reply(200, result=None), None])
def test_if_it_cannot_be_read_it_is_denied(guarded: Deployment, reply: Reply | None) -> None:
    guarded.upstream.answers += [reply] * 4
    result = guarded.post([EVIL]).result
    assert (result["outcome"], result["code"], result["retryable"]) == ("denied", "guard_unavailable", True)
    assert guarded.upstream.releases == []


@pytest.mark.parametrize("reply", [Reply(401), Reply(403), Reply(400, error_code=6003)])
@pytest.mark.parametrize("body", [[EVIL], ["<1@x.example>"], {"ids": [EVIL], "dry_run": True}])
def test_if_the_credential_is_refused_nobody_is_told_that_it_is_the_message(
    guarded: Deployment, reply: Reply, body: Any
) -> None:
    guarded.upstream.answers += [reply]
    answer = guarded.post(body)
    assert (answer.status, answer.code) == (503, "cloudflare_credentials_refused")
    assert guarded.upstream.releases == []
    assert guarded.rows("R#") == guarded.rows("M#") == []


def test_what_was_accepted_waits_for_a_credential_that_is_not_refused(guarded: Deployment) -> None:
    answer = guarded.post([INVESTIGATE_ID, EVIL], headers=[("Prefer", "respond-async")])
    guarded.upstream.answers += [Reply(403)]
    guarded.work()
    assert guarded.get(path_of(answer)).status == 202
    assert guarded.upstream.releases == []
    guarded.work()
    assert [result["outcome"] for result in guarded.get(path_of(answer)).body["results"]] == ["released", "denied"]


def test_a_limited_read_waits(guarded: Deployment) -> None:
    guarded.upstream.answers.append(Reply(429, headers={"Retry-After": "7"}))
    answer = guarded.post([INVESTIGATE_ID])
    assert (answer.status, answer.result["outcome"]) == (202, "in_progress")
    assert guarded.upstream.releases == []


def test_override_needs_its_scope_and_is_in_the_trace(guarded: Deployment) -> None:
    body = {"ids": [EVIL], "override": True, "reason": "needed as evidence"}
    assert guarded.post(body).code == "scope_missing"
    may = client_entry("soar", scopes=["release", "read", "override"])
    guarded.put_secret("clients", {"clients": [may, *CLIENTS_SECRET["clients"][1:]]})
    guarded.start_afresh()
    assert guarded.post(body).result["guard"] == "overridden"
    trace = guarded.get(f"/v1/messages/{EVIL}").body
    assert (trace["guard"], trace["disposition"]) == ("overridden", "MALICIOUS")
    assert trace["requests"][0]["override"] is True


def test_a_client_s_own_policy_counts(guarded: Deployment) -> None:
    held = client_entry("soar", policy={"dispositions": ["BULK"], "max_age_days": 1})
    guarded.put_secret("clients", {"clients": [held]})
    assert guarded.post([INVESTIGATE_ID]).result["code"] == "disposition_not_allowed"


def test_what_several_mails_may_be_is_shown_and_not_guessed(
    guarded: Deployment, messages: list[dict[str, Any]]
) -> None:
    other = "4WtZkr6nlBz9sNH-2024-08-28T15:32:35-9"
    messages.append(entry(other, is_quarantined=False))
    result = guarded.post([HEADER]).result
    assert (result["outcome"], result["code"]) == ("ambiguous", "several_matches")
    assert [(one["id"], one["is_quarantined"]) for one in result["candidates"]] == [
        (INVESTIGATE_ID, True),
        (other, False),
    ]
    assert result["candidates"][0]["at"] == "2024-01-05T10:00:00.000Z"
    assert guarded.upstream.releases == []
    messages[-1]["client_recipients"] = ["somebody@example.org"]
    narrowed = guarded.post({"ids": [HEADER], "recipient": RECIPIENT, "expect_count": 1})
    assert narrowed.result["resolved_id"] == INVESTIGATE_ID


def test_narrowing_without_a_message_id_is_warned_of(guarded: Deployment) -> None:
    answer = guarded.post({"ids": [INVESTIGATE_ID], "since": "2024-01-01T00:00:00Z"})
    assert answer.body["warnings"] == ["Without effect, since no id is a Message-ID: since"]


def test_a_bare_id_that_cannot_be_read_is_released_with_a_warning(
    guarded: Deployment, messages: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    messages.clear()
    answer = guarded.post([MESSAGE])
    assert (answer.result["outcome"], answer.result["guard"]) == ("released", "not_checked")
    warning = "Released without a look at what the mail is, since it cannot be read: 1"
    assert answer.body["warnings"] == [warning]
    assert guarded.get(path_of(answer)).body["warnings"] == [warning]
    monkeypatch.setenv("GUARD_MODE", "strict")
    guarded.start_afresh()
    result = guarded.post(["4WtWkr6nlBz9sNH"]).result
    assert (result["outcome"], result["code"]) == ("denied", "guard_cannot_read")


def test_a_dry_run_sends_nothing_and_shows_what_would_be(guarded: Deployment) -> None:
    answer = guarded.post({"ids": [ALERT, EVIL], "dry_run": True})
    assert (answer.status, answer.body["ok"], answer.body["dry_run"]) == (200, False, True)
    assert [result["outcome"] for result in answer.body["results"]] == ["would_release", "denied"]
    assert answer.body["calls"] == [{"wire_form": "object", "ids": [INVESTIGATE_ID]}]
    passed, refused = answer.body["results"]
    assert (passed["guard"], passed["disposition"], answer.body["warnings"]) == ("passed", "SPAM", [])
    assert (refused["disposition"], "guard" in refused) == ("MALICIOUS", False)
    assert answer.body["messages"][0] == {
        "id": ALERT,
        "message_id": INVESTIGATE_ID,
        "subject": SUBJECT,
        "sender": "sender.canary@example.net",
        "recipients": [RECIPIENT],
        "disposition": "SPAM",
        "delivery_mode": "DIRECT",
        "is_quarantined": True,
        "at": "2024-01-05T10:00:00.000Z",
    }
    assert guarded.upstream.releases == []
    assert SUBJECT not in str(guarded.rows())
    again = guarded.get(path_of(answer)).body
    assert (again["results"], again["messages"], again["calls"]) == (answer.body["results"], [], [])
    asked = guarded.get(f"/v1/messages/{MESSAGE}").body["requests"][0]
    assert (asked["dry_run"], asked["outcome"], asked["guard"]) == (True, "would_release", "passed")
    assert (asked["disposition"], asked["detail"]) == ("SPAM", passed["detail"])
    assert guarded.events("not_released")[0]["guard"] == "passed"


def test_a_dry_run_shows_how_each_would_come_past_the_guard(
    guarded: Deployment, messages: list[dict[str, Any]]
) -> None:
    may = client_entry("soar", scopes=["release", "read", "override"])
    guarded.put_secret("clients", {"clients": [may]})
    body = {"ids": [EVIL], "override": True, "reason": "needed as evidence", "dry_run": True}
    result = guarded.post(body).result
    assert (result["outcome"], result["guard"], result["disposition"]) == ("would_release", "overridden", "MALICIOUS")
    messages.clear()
    answer = guarded.post({"ids": [MESSAGE], "dry_run": True})
    assert (answer.result["guard"], answer.result["disposition"]) == ("not_checked", None)
    warning = "Would be released without a look at what the mail is, since it cannot be read: 1"
    assert answer.body["warnings"] == guarded.get(path_of(answer)).body["warnings"] == [warning]


def test_a_release_that_is_to_be_confirmed_says_whether_it_was(
    guarded: Deployment, messages: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    released = {"post_delivery_operations": ["QUARANTINE_RELEASE"], "is_quarantined": False}
    monkeypatch.setattr(time, "sleep", lambda _: messages[0].update(released))
    result = guarded.post({"ids": [INVESTIGATE_ID], "confirm": True}).result
    assert (result["outcome"], result["confirmed"]) == ("released", True)
    trace = guarded.get(f"/v1/messages/{MESSAGE}").body
    assert (trace["confirmed_at"], trace["evidence"]["seen"]) == (result["confirmed_at"], Seen.RELEASED)


def test_a_setting_has_every_release_confirmed(guarded: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONFIRM", "true")
    monkeypatch.setattr(time, "sleep", lambda _: None)
    result = guarded.post([INVESTIGATE_ID]).result
    assert (result["outcome"], result["confirmed"], result["confirmed_at"]) == ("released", False, None)


def test_health_says_what_the_guard_does(guarded: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    guarded.upstream.answers.append(Reply(result={"status": "active"}))
    assert guarded.get("/v1/health").body["guard"] == "standard"
    monkeypatch.setenv("GUARD_MODE", "off")
    guarded.start_afresh()
    guarded.upstream.answers.append(Reply(result={"status": "active"}))
    body = guarded.get("/v1/health").body
    assert (body["guard"], "malicious mail" in body["note"]) == ("off", True)


def test_a_message_that_nobody_asked_for_has_no_trace(guarded: Deployment) -> None:
    assert guarded.get(f"/v1/messages/{EVIL}").code == "not_found"
