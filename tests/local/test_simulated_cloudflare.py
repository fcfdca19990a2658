"""The simulated Cloudflare answers as the documented one and misbehaves, on the wire, exactly as told."""

import json
import select
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from local.cloudflare_messages import postfix_time
from local.options import PLACEHOLDER_ACCOUNT
from local.services import Service, start_simulated_cloudflare

EXAMPLE_ID = "4Njp3P0STMz2c02Q"
FULL_ID = "4Njp3P0STMz2c02Q-2024-01-05T10:00:00-12345678"
OTHER_ID = "4WtWkr6nlBz9sNH"
TOKEN = "a-token-of-the-simulator"
GLOBAL_KEY = "0123456789abcdef0123456789abcdef01234"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
BY_KEY = {"X-Auth-Email": "analyst@example.com", "X-Auth-Key": GLOBAL_KEY}
INVESTIGATE = f"/client/v4/accounts/{PLACEHOLDER_ACCOUNT}/email-security/investigate"
TIMEOUT = 10


class Cloudflare:
    """The simulator as a caller and as a test see it."""

    def __init__(self, url: str) -> None:
        self.url = url

    def control(self, path: str, document: Any = None) -> Any:
        method = "GET" if document is None else "POST"
        answer = requests.request(method, f"{self.url}/_simulator{path}", json=document, timeout=TIMEOUT)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def script(self, behaviour: str, **more: Any) -> None:
        self.control("/script", {"behaviour": behaviour, **more})

    def call(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] = BEARER) -> requests.Response:
        url = f"{self.url}{path if path.startswith('/client') else INVESTIGATE + path}"
        return requests.request(method, url, json=body, headers=dict(headers), timeout=TIMEOUT, allow_redirects=False)

    def search(self, **query: str) -> requests.Response:
        return requests.get(f"{self.url}{INVESTIGATE}", query, headers=BEARER, timeout=TIMEOUT)

    def release(self, *ids: str, headers: Mapping[str, str] = BEARER) -> requests.Response:
        return self.call("POST", "/release", list(ids), headers)

    def state(self, message_id: str) -> str:
        state: str = self.control(f"/messages/{message_id}")["state"]
        return state

    def connect(self, request_body: bytes = json.dumps([EXAMPLE_ID]).encode()) -> socket.socket:
        """A connection that has just sent a release, to see byte by byte what comes back."""
        parts = urlsplit(self.url)
        connection = socket.create_connection((parts.hostname or "", parts.port or 0), timeout=TIMEOUT)
        head = f"POST {INVESTIGATE}/release HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        connection.sendall(f"{head}Content-Length: {len(request_body)}\r\n\r\n".encode() + request_body)
        return connection


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    settings = {
        "account_id": PLACEHOLDER_ACCOUNT,
        "tokens": [TOKEN],
        "keys": {BY_KEY["X-Auth-Email"]: GLOBAL_KEY},
        "rate_limit": None,
    }
    log: Path = tmp_path_factory.mktemp("cloudflare") / "services.log"
    with start_simulated_cloudflare(settings, log) as service:
        yield service


@pytest.fixture
def cloudflare(service: Service) -> Cloudflare:
    cloudflare = Cloudflare(service.url)
    cloudflare.control("/reset", {})
    return cloudflare


@pytest.mark.parametrize("body", [[EXAMPLE_ID], {"ids": [EXAMPLE_ID]}], ids=["array", "object"])
@pytest.mark.parametrize("credential", [BEARER, BY_KEY], ids=["token", "key"])
def test_a_release_delivers_to_every_recipient(
    cloudflare: Cloudflare, body: object, credential: Mapping[str, str]
) -> None:
    answer = cloudflare.call("POST", "/release", body, credential)

    assert answer.status_code == 200
    assert answer.headers["cf-ray"]
    assert answer.json() == {
        "success": True,
        "errors": [],
        "messages": [],
        "result": [
            {
                "id": FULL_ID,
                "postfix_id": EXAMPLE_ID,
                "delivered": ["grace@example.com", "bob@example.com"],
                "failed": [],
                "undelivered": [],
            }
        ],
    }
    assert cloudflare.state(EXAMPLE_ID) == "released"


def test_a_release_shows_in_every_read(cloudflare: Cloudflare) -> None:
    before = cloudflare.call("GET", f"/{FULL_ID}").json()["result"]
    cloudflare.release(FULL_ID)
    after = cloudflare.call("GET", f"/{FULL_ID}").json()["result"]
    log = cloudflare.call("GET", f"/{FULL_ID}/action_log").json()["result"]

    assert (before["is_quarantined"], before["delivery_status"]) == (True, ["quarantined"])
    assert (after["is_quarantined"], after["delivery_status"]) == (False, ["delivered"])
    assert (before["post_delivery_operations"], after["post_delivery_operations"]) == ([], ["QUARANTINE_RELEASE"])
    assert [(entry["operation"], entry["success"]) for entry in log] == [("QUARANTINE_RELEASE", True)]
    age = datetime.now(UTC) - datetime.fromisoformat(log[0]["started_at"])
    assert timedelta() <= age < timedelta(minutes=1)


def test_a_failed_release_may_be_listed_though_the_message_is_still_held(cloudflare: Cloudflare) -> None:
    cloudflare.control("/messages", {"id": FULL_ID, "lists_failures": True})
    cloudflare.control("/script", {"behaviour": "failed", "times": 1})
    cloudflare.release(FULL_ID)
    shown = cloudflare.call("GET", f"/{FULL_ID}").json()["result"]
    assert (shown["is_quarantined"], shown["post_delivery_operations"]) == (True, ["QUARANTINE_RELEASE"])
    log = cloudflare.call("GET", f"/{FULL_ID}/action_log").json()["result"]
    assert [entry["success"] for entry in log] == [False]


def test_an_action_log_comes_in_pages(cloudflare: Cloudflare) -> None:
    for _ in range(3):
        cloudflare.release(FULL_ID)
    sizes = []
    for page in (1, 2, 3):
        answer = cloudflare.call("GET", f"/{FULL_ID}/action_log?page={page}&per_page=2").json()
        sizes.append((len(answer["result"]), answer["result_info"]["per_page"]))
    assert sizes == [(2, 2), (1, 2), (0, 2)]
    for query in ("page=0", "page=x", "per_page=1001"):
        assert cloudflare.call("GET", f"/{FULL_ID}/action_log?{query}").status_code == 400


def test_releasing_twice_is_counted(cloudflare: Cloudflare) -> None:
    cloudflare.release(EXAMPLE_ID, OTHER_ID)
    cloudflare.release(EXAMPLE_ID)

    overview = cloudflare.control("")

    assert (overview["release_calls"], overview["released"], overview["double_releases"]) == (2, 2, 1)
    assert cloudflare.control(f"/messages/{OTHER_ID}")["double_releases"] == 0


def test_what_is_unknown_about_the_answer_can_be_set(cloudflare: Cloudflare) -> None:
    cloudflare.control("/settings", {"postfix_ids_in_answers": False, "ids_in_answers": "as_asked"})
    assert set(cloudflare.release(EXAMPLE_ID).json()["result"][0]) == {"id", "delivered", "failed", "undelivered"}
    assert cloudflare.release(EXAMPLE_ID).json()["result"][0]["id"] == EXAMPLE_ID

    cloudflare.control("/settings", {"body_forms": ["object"]})
    assert cloudflare.release(EXAMPLE_ID).status_code == 400


def test_a_message_can_have_other_recipients_and_be_out_of_quarantine(cloudflare: Cloudflare) -> None:
    cloudflare.control("/messages", {"id": EXAMPLE_ID, "recipients": 500})
    cloudflare.control("/messages", {"id": OTHER_ID, "quarantined": False})

    many, none = cloudflare.release(EXAMPLE_ID, OTHER_ID).json()["result"]

    assert len(set(many["delivered"])) == 500
    assert none["delivered"] == []
    assert cloudflare.state(OTHER_ID) == "delivered"


def test_the_time_of_a_message_follows_from_its_postfix_id() -> None:
    assert postfix_time(OTHER_ID) == datetime(2024, 8, 27, 15, 32, 36, tzinfo=UTC)
    assert postfix_time("Aeiou00000") is None


@pytest.mark.parametrize(
    "wrong", ["4Njp3P0STMz2c02Q-2024-01-05T10:00:00-1", "4Njp3P0STMz2c02Q-2024-13-05T10:00:00-1", "!"]
)
def test_an_id_that_contradicts_the_message_names_none(cloudflare: Cloudflare, wrong: str) -> None:
    cloudflare.release(EXAMPLE_ID)

    assert cloudflare.release(wrong).status_code == 400
    assert cloudflare.call("GET", f"/{wrong}").status_code == 404
    assert cloudflare.control("")["double_releases"] == 0


def test_a_bare_postfix_id_is_not_readable_unless_switched_on(cloudflare: Cloudflare) -> None:
    assert cloudflare.call("GET", f"/{EXAMPLE_ID}").status_code == 404
    cloudflare.control("/settings", {"reads_by_postfix_id": True})
    assert cloudflare.call("GET", f"/{EXAMPLE_ID}").json()["result"]["id"] == FULL_ID


@pytest.mark.parametrize(
    ("headers", "path", "expected"),
    [
        ({}, "/release", (400, 9106, None)),
        ({"Authorization": "Bearer short"}, "/release", (400, 6003, 6111)),
        ({"Authorization": TOKEN}, "/release", (400, 6003, 6111)),
        ({"Authorization": f"Bearer {'x' * 40}"}, "/release", (403, 9109, None)),
        ({"Authorization": f"Bearer {'x' * 40}"}, "/client/v4/user/tokens/verify", (401, 1000, None)),
        ({"X-Auth-Email": "analyst@example.com", "X-Auth-Key": TOKEN}, "/release", (400, 6003, 6103)),
        ({"X-Auth-Email": "nobody@example.com", "X-Auth-Key": GLOBAL_KEY}, "/release", (403, 9103, None)),
        ({"X-Auth-Key": GLOBAL_KEY}, "/release", (400, 9106, None)),
        ({**BEARER, **BY_KEY}, "/release", (400, 6003, 6003)),
    ],
)
def test_a_wrong_credential_is_refused_as_documented(
    cloudflare: Cloudflare, headers: Mapping[str, str], path: str, expected: tuple[int, int, int | None]
) -> None:
    answer = cloudflare.call("GET" if "verify" in path else "POST", path, [EXAMPLE_ID], headers)

    error = answer.json()["errors"][0]
    assert (answer.status_code, error["code"], error.get("error_chain", [{}])[0].get("code")) == expected
    assert cloudflare.state(EXAMPLE_ID) == "quarantined"


def test_both_credentials_at_once_are_remembered_as_a_fault(cloudflare: Cloudflare) -> None:
    cloudflare.release(EXAMPLE_ID, headers={**BEARER, **BY_KEY})

    assert cloudflare.control("")["faults"] == [f"both credential forms in POST {INVESTIGATE}/release"]


def test_permission_and_account_are_checked(cloudflare: Cloudflare) -> None:
    foreign = f"/client/v4/accounts/{'f' * 32}/email-security/investigate/release"
    assert cloudflare.call("POST", foreign, [EXAMPLE_ID]).status_code == 403
    cloudflare.control("/settings", {"permission": "read"})
    assert cloudflare.release(EXAMPLE_ID).json()["errors"][0]["code"] == 10000
    assert cloudflare.call("GET", f"/{FULL_ID}").status_code == 200


def test_a_token_is_verified_where_it_belongs(cloudflare: Cloudflare) -> None:
    user, account = "/client/v4/user/tokens/verify", f"/client/v4/accounts/{PLACEHOLDER_ACCOUNT}/tokens/verify"
    cloudflare.control("/settings", {"tokens_belong_to": "account"})

    good = cloudflare.call("GET", account).json()

    assert (good["result"]["status"], good["messages"][0]["code"]) == ("active", 10000)
    assert cloudflare.call("GET", user).status_code == 401
    assert cloudflare.call("GET", "/client/v4/user", headers=BY_KEY).status_code == 200


def test_the_list_is_read_page_by_page(cloudflare: Cloudflare) -> None:
    ids = [f"{OTHER_ID[:-2]}{number:02}" for number in range(25)]
    cloudflare.release(*ids[:5])
    for message_id in ids[5:]:
        cloudflare.control("/messages", {"id": message_id})
    window = {"start": "2024-08-27T00:00:00Z", "end": "2024-08-28T00:00:00Z"}

    first = cloudflare.search(**window).json()
    rest = cloudflare.search(**window, cursor=first["result_info"]["next"]).json()

    assert (len(first["result"]), len(rest["result"]), rest["result_info"]["next"]) == (20, 5, None)
    assert {each["postfix_id"] for each in first["result"] + rest["result"]} == set(ids)
    assert len(cloudflare.search(**window, per_page="1000").json()["result"]) == 25
    assert len(cloudflare.search(**window, message_action="QUARANTINE_RELEASED").json()["result"]) == 5
    assert len(cloudflare.search(**window, delivery_status="quarantined").json()["result"]) == 20


def test_the_list_leaves_out_what_was_not_asked_for(cloudflare: Cloudflare) -> None:
    recent = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    cloudflare.control("/messages", {"id": EXAMPLE_ID})  # of 2024, so before the default start
    cloudflare.control(
        "/messages", {"id": OTHER_ID, "scanned_at": recent, "disposition": "NONE", "message_id": "<a@b>"}
    )

    def found(**query: str) -> list[str]:
        return [each["postfix_id"] for each in cloudflare.search(**query).json()["result"]]

    assert found() == []
    assert found(detections_only="false") == [OTHER_ID]
    assert found(detections_only="false", message_id="<a@b>") == [OTHER_ID]
    assert found(detections_only="false", message_id="<c@d>") == []
    assert found(start="2024-01-01T00:00:00Z", alert_id=FULL_ID.rpartition("-")[0]) == [EXAMPLE_ID]


@pytest.mark.parametrize("query", [{"per_page": "1001"}, {"detections_only": "no"}, {"start": "2999-01-01T00:00:00Z"}])
def test_a_search_outside_the_rules_is_refused(cloudflare: Cloudflare, query: dict[str, str]) -> None:
    assert cloudflare.search(**query).status_code == 400


def test_more_calls_than_the_limit_block_everything_for_a_while(cloudflare: Cloudflare) -> None:
    limit = {"calls": 3, "window_seconds": 60, "block_seconds": 2}
    cloudflare.control("/settings", {"rate_limit": limit})

    answers = [cloudflare.release(EXAMPLE_ID), *(cloudflare.call("GET", f"/{FULL_ID}") for _ in range(4))]

    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert answers[0].headers["Ratelimit"].startswith('"default";r=2;t=')
    assert answers[4].headers["Retry-After"] in ("1", "2")
    _wait_until(lambda: cloudflare.call("GET", f"/{FULL_ID}").status_code == 200)


LISTS: dict[str, tuple[dict[str, Any], str]] = {
    "delivered": ({"delivered": ["a", "b"], "failed": [], "undelivered": []}, "released"),
    "partial": ({"delivered": ["a"], "failed": [], "undelivered": ["b"]}, "released"),
    "undelivered": ({"delivered": [], "failed": [], "undelivered": ["a", "b"]}, "quarantined"),
    "failed": ({"delivered": [], "failed": ["a", "b"], "undelivered": []}, "quarantined"),
    "empty_lists": ({"delivered": [], "failed": [], "undelivered": []}, "released"),
    "null_lists": ({"delivered": None, "failed": None, "undelivered": None}, "released"),
    "absent_lists": ({}, "released"),
}


@pytest.mark.parametrize("behaviour", LISTS)
def test_one_message_of_a_call_can_come_out_differently(cloudflare: Cloudflare, behaviour: str) -> None:
    cloudflare.control("/messages", {"id": EXAMPLE_ID, "recipients": ["a", "b"]})
    cloudflare.script(behaviour, id=EXAMPLE_ID, times=1)

    special, other = cloudflare.release(EXAMPLE_ID, OTHER_ID).json()["result"]

    lists, state = LISTS[behaviour]
    assert special == {"id": FULL_ID, "postfix_id": EXAMPLE_ID, **lists}
    assert len(other["delivered"]) == 2
    assert cloudflare.state(EXAMPLE_ID) == state


def test_the_result_can_lack_an_id_or_hold_another(cloudflare: Cloudflare) -> None:
    cloudflare.script("omit", id=EXAMPLE_ID, times=1)
    cloudflare.script("other_id", id=EXAMPLE_ID, times=1)

    asked = [EXAMPLE_ID, "4WtWkr6nlBz9sNJ"]
    lacking, more = ([entry["postfix_id"] for entry in cloudflare.release(*asked).json()["result"]] for _ in range(2))

    assert lacking == asked[1:]
    assert more == [asked[0], OTHER_ID, asked[1]]


def test_the_envelope_can_differ(cloudflare: Cloudflare) -> None:
    for behaviour in ("single_object", "without_messages", "success_false", "empty_body", "html"):
        cloudflare.script(behaviour, times=1)

    answers = [cloudflare.release(EXAMPLE_ID) for _ in range(5)]

    assert [answer.status_code for answer in answers] == [200] * 5
    assert answers[0].json()["result"]["id"] == FULL_ID
    assert "messages" not in answers[1].json()
    assert answers[2].json()["success"] is False
    assert answers[3].content == b""
    assert answers[4].text.startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("step", "status", "code"),
    [
        ({"behaviour": "unknown_id"}, 400, 1005),
        ({"behaviour": "not_found"}, 404, 7003),
        ({"behaviour": "401"}, 401, 1000),
        ({"behaviour": "403"}, 403, 10000),
        ({"behaviour": "400_6003"}, 400, 6003),
        ({"behaviour": "429"}, 429, 971),
        ({"behaviour": "500"}, 500, 1500),
        ({"behaviour": "503", "code": 7500}, 503, 7500),
        ({"behaviour": "502"}, 502, None),
        ({"behaviour": "520"}, 520, None),
        ({"behaviour": "redirect"}, 302, None),
    ],
)
def test_a_refused_call_takes_no_effect(
    cloudflare: Cloudflare, step: dict[str, Any], status: int, code: int | None
) -> None:
    cloudflare.control("/script", step)

    answer = cloudflare.release(EXAMPLE_ID)

    assert answer.status_code == status
    assert answer.headers["cf-ray"]
    if code is not None:
        assert answer.json()["errors"][0]["code"] == code
    assert cloudflare.state(EXAMPLE_ID) == "quarantined"


def test_retry_after_is_given_or_not(cloudflare: Cloudflare) -> None:
    for retry_after in (300, 5, None):
        cloudflare.script("429", times=1, retry_after=retry_after)

    assert [cloudflare.release(EXAMPLE_ID).headers.get("Retry-After") for _ in range(3)] == ["300", "5", None]


def test_an_error_can_come_after_the_effect_and_the_effect_late(cloudflare: Cloudflare) -> None:
    cloudflare.script("502", id=EXAMPLE_ID, times=1, effect=True)
    cloudflare.script("502", id=OTHER_ID, times=1, effect=True, late_seconds=1)

    assert [cloudflare.release(each).status_code for each in (EXAMPLE_ID, OTHER_ID)] == [502, 502]

    assert cloudflare.state(EXAMPLE_ID) == "released"
    assert cloudflare.state(OTHER_ID) == "quarantined"
    _wait_until(lambda: cloudflare.state(OTHER_ID) == "released")


def test_steps_apply_in_order_as_often_and_where_they_say(cloudflare: Cloudflare) -> None:
    cloudflare.script("503")
    cloudflare.script("500", id=EXAMPLE_ID, times=2)
    cloudflare.script("404", on="read")

    assert [cloudflare.release(EXAMPLE_ID).status_code for _ in range(4)] == [500, 500, 503, 503]
    assert [cloudflare.call("GET", f"/{FULL_ID}{part}").status_code for part in ("", "/action_log")] == [404, 404]
    assert cloudflare.call("GET", "/client/v4/user").status_code == 200


@pytest.mark.parametrize(
    "step",
    [
        {"behaviour": "explode"},
        {"behaviour": "500", "on": "moon"},
        {"behaviour": "200"},
        {"behaviour": "500", "times": 0},
        {"behaviour": "500", "tiems": 1},
    ],
)
def test_a_step_that_does_not_exist_is_refused(cloudflare: Cloudflare, step: dict[str, Any]) -> None:
    assert requests.post(f"{cloudflare.url}/_simulator/script", json=step, timeout=TIMEOUT).status_code == 400


@pytest.mark.parametrize(
    ("behaviour", "state"),
    [
        ("reset_before_reading", "quarantined"),
        ("reset_after_reading", "quarantined"),
        ("lost", "quarantined"),
        ("reset_after_effect", "released"),
    ],
)
def test_a_reset_is_a_real_one(cloudflare: Cloudflare, behaviour: str, state: str) -> None:
    cloudflare.script(behaviour, times=1)

    with cloudflare.connect() as connection, pytest.raises(ConnectionResetError):
        connection.recv(1000)

    assert cloudflare.state(EXAMPLE_ID) == state
    assert [(call["behaviour"], call["status"]) for call in cloudflare.control("/calls")] == [(behaviour, None)]
    assert cloudflare.release(OTHER_ID).status_code == 200


def test_a_half_status_line_is_all_that_comes(cloudflare: Cloudflare) -> None:
    cloudflare.script("half_status_line", times=1)

    with cloudflare.connect() as connection:
        assert _read_all(connection) == b"HTTP/1.1 200"

    assert cloudflare.state(EXAMPLE_ID) == "released"


def test_a_truncated_answer_ends_in_the_middle(cloudflare: Cloudflare) -> None:
    cloudflare.script("truncated", times=1)

    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        cloudflare.release(EXAMPLE_ID)


@pytest.mark.parametrize("part", ["head", "body"])
def test_a_trickled_answer_comes_byte_by_byte(cloudflare: Cloudflare, part: str) -> None:
    cloudflare.script("trickle", times=1, part=part, seconds_per_byte=0.002)

    with cloudflare.connect() as connection:
        sizes = []
        while b"}]}" not in (data := connection.recv(4096)) and not data.endswith(b"}"):
            sizes.append(len(data))

    assert (sizes[0] < 20) == (part == "head")
    assert len(sizes) > 20


def test_a_hanging_call_ends_with_the_client(cloudflare: Cloudflare) -> None:
    cloudflare.script("hang", times=1)

    with cloudflare.connect() as connection:
        assert not select.select([connection], [], [], 0.3)[0]

    assert cloudflare.state(EXAMPLE_ID) == "quarantined"


def test_a_slow_call_takes_effect_although_the_client_has_left(cloudflare: Cloudflare) -> None:
    cloudflare.script("slow", times=1, seconds=1)

    cloudflare.connect().close()

    assert cloudflare.state(EXAMPLE_ID) == "quarantined"
    _wait_until(lambda: cloudflare.state(EXAMPLE_ID) == "released")


def test_a_huge_answer_is_valid_and_huge(cloudflare: Cloudflare) -> None:
    cloudflare.script("huge", times=1, megabytes=3)

    answer = cloudflare.release(EXAMPLE_ID)

    assert len(answer.content) > 3_000_000
    assert answer.json()["success"] is True


def test_reads_can_lag_behind(cloudflare: Cloudflare) -> None:
    cloudflare.control("/settings", {"read_delay_seconds": 60})
    cloudflare.release(FULL_ID)

    assert cloudflare.call("GET", f"/{FULL_ID}").json()["result"]["is_quarantined"] is True


def test_the_record_of_calls_shows_everything_but_the_credential(cloudflare: Cloudflare) -> None:
    cloudflare.release(EXAMPLE_ID)
    cloudflare.call("GET", "?alert_id=x", headers=BY_KEY)

    first, second = cloudflare.control("/calls")

    assert (first["method"], first["path"], first["body"]) == ("POST", f"{INVESTIGATE}/release", [EXAMPLE_ID])
    assert (first["endpoint"], first["status"], first["headers"]["authorization"]) == ("release", 200, "Bearer ***")
    assert second["query"] == {"alert_id": "x"}
    assert (second["headers"]["x-auth-email"], second["headers"]["x-auth-key"]) == ("***", "***")
    assert [call["endpoint"] for call in cloudflare.control("/calls?endpoint=list")] == ["list"]
    assert not {TOKEN, GLOBAL_KEY} & set(json.dumps([first, second, cloudflare.control("")]).split('"'))


def _wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _read_all(connection: socket.socket) -> bytes:
    data = b""
    while more := connection.recv(4096):
        data += more
    return data
