"""`make demo`: plays the main cases against a stack of its own and prints request, outcome and trace for a person."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import requests

from local.children import CannotStart
from local.stack import Stack

EXAMPLE_ID = "4Njp3P0STMz2c02Q"
PARTIAL_ID, LIMITED_ID, DOWN_ID = "4Wt9kR6nlBz9sNH", "4WtBkR7nmCz9sNJ", "4WtDkR9nqFz9sNL"
LOST_ID = "4WtCkR8npDz9sNK-2024-08-28T15:32:35-87654321"
REASON = {"reason": "False positive, checked with the sender", "ticket": "SOC-1042", "requested_by": "j.doe"}
_DAY = datetime.now(UTC) - timedelta(days=1)
ALERT_ID = f"4WtFkS1nlBz9sNM-{_DAY:%Y-%m-%dT%H:%M:%S}"
MANY_IDS = [f"4WtHkS{number:03d}nqFz9-{_DAY:%Y-%m-%dT%H:%M:%S}-{number}" for number in range(250)]
MESSAGE_ID = "<20261125.1532.shipping@example.net>"
HARMFUL_ID = f"4WtGkS2nlBz9sNN-{_DAY:%Y-%m-%dT%H:%M:%S}-55667788"
RESULTS_SHOWN = 3
LISTS = ("delivered", "undelivered", "failed")
TIMEOUT_SECONDS = 40
# The lease and the settle time are of no account here: what a read shows as released needs no waiting.
RECONCILE_EVERY_SECONDS = 5
RECONCILER = f"the reconciler: here it looks every {RECONCILE_EVERY_SECONDS} s, deployed every 60 s"
PATIENCE_SECONDS = 60
LONGEST_SHOWN = 180


@dataclass(frozen=True, slots=True)
class Case:
    """One request, what makes it interesting, and the answer that it must get.

    An answer is a status with the outcome of the first result, or with the code of the error.
    """

    title: str
    answers: Set[tuple[int, str]]
    body: Any
    script: Mapping[str, Any] | None = None
    messages: Sequence[Mapping[str, Any]] = ()  # what is in quarantine before
    has_token: bool = True
    release_calls: int | None = None  # how many of them Cloudflare must have seen by then


@dataclass(slots=True)
class Demo:
    """Plays the cases against one stack and remembers whether all came out as expected."""

    stack: Stack
    session: requests.Session
    number: int = 0
    surprises: list[str] = field(default_factory=list)

    def play(self, case: Case) -> str:
        """Make the request; return where it says that it goes on, if it does."""
        self.number += 1
        _say(f"\n{self.number}. {case.title}", bold=True)
        if case.script:
            script_url = f"{self.stack.simulator_url}/_simulator/script"
            self.session.post(script_url, json=case.script, timeout=TIMEOUT_SECONDS)
        if case.messages:
            url = f"{self.stack.simulator_url}/_simulator/messages"
            self.session.post(url, json=list(case.messages), timeout=TIMEOUT_SECONDS)
        sent = json.dumps(case.body)
        _say(f"   > POST /v1/releases  {sent if len(sent) <= LONGEST_SHOWN else f'{sent[:LONGEST_SHOWN]} ...'}")
        answer = self.session.post(
            f"{self.stack.base_url}/v1/releases",
            json=case.body,
            headers=self._headers() if case.has_token else {},
            timeout=TIMEOUT_SECONDS,
        )
        got = self._show(answer)
        self._expect(case.title, case.answers, (answer.status_code, got))
        if case.release_calls is not None:
            self._expect_calls(case.title, case.release_calls)
        return answer.headers.get("Location", "")

    def wait(self, location: str, title: str, release_calls: int, for_whom: str) -> None:
        """Ask for a request that was left open until it has ended."""
        self.number += 1
        _say(f"\n{self.number}. {title}", bold=True)
        _say(f"   . waiting for {for_whom}")
        began = time.monotonic()
        while True:
            answer = self.session.get(location, headers=self._headers(), timeout=TIMEOUT_SECONDS)
            waited = time.monotonic() - began
            if answer.status_code != 202 or waited > PATIENCE_SECONDS:
                break
            time.sleep(0.5)
        _say(f"   > GET {location.removeprefix(self.stack.base_url)}  (after {waited:.0f} s)")
        self._expect(title, {(200, "released")}, (answer.status_code, self._show(answer)))
        self._expect_calls(title, release_calls)

    def cancel(self, location: str, title: str) -> None:
        self.number += 1
        _say(f"\n{self.number}. {title}", bold=True)
        _say(f"   > POST {location.removeprefix(self.stack.base_url)}/cancel")
        answer = self.session.post(f"{location}/cancel", headers=self._headers(), timeout=TIMEOUT_SECONDS)
        self._expect(title, {(200, "cancelled")}, (answer.status_code, self._show(answer)))

    def trace(self, message_id: str, title: str, state: str) -> None:
        self.number += 1
        _say(f"\n{self.number}. {title}", bold=True)
        _say(f"   > GET /v1/messages/{message_id}")
        url = f"{self.stack.base_url}/v1/messages/{message_id}"
        answer = self.session.get(url, headers=self._headers(), timeout=TIMEOUT_SECONDS)
        trace = answer.json()
        _say(f"   < {answer.status_code}  {trace.get('state')}, evidence: {_proof(trace)}")
        for request in trace.get("requests", []):
            why = ", ".join(request[name] for name in ("requested_by", "reason", "ticket") if request.get(name))
            who = f"{request['client']} ({why})" if why else request["client"]
            _say(f"     asked      {request['at']}  {request['outcome']}, by {who}")
        for attempt in trace.get("attempts", []):
            verdict = attempt.get("verdict") or {"state": attempt["state"]}
            _say(f"     attempted  {attempt['sent_at']}  {verdict['state']}, answer: {_proof(attempt)}")
        self._expect(title, {(200, state)}, (answer.status_code, trace.get("state")))

    def _show(self, answer: requests.Response) -> str | None:
        """Print the few fields that a person wants; return the outcome or the error's code."""
        body = answer.json()
        retry = f"  Retry-After: {answer.headers['Retry-After']}" if "Retry-After" in answer.headers else ""
        results = body.get("results")
        if results is None:
            _say(f"   < {answer.status_code}  {body['code']}: {body['detail']}{retry}")
            return str(body["code"])
        _say(f"   < {answer.status_code}  {body['message']}{retry}")
        for result in results[:RESULTS_SHOWN]:
            lists = [f"{name}: {', '.join(result[name])}" for name in LISTS if result[name]]
            lists += [f"as {result['resolved_id']}"] if "resolved_id" in result else []
            lists += [result["detail"]] if "detail" in result else []
            _say(f"     {result['id']}  {'; '.join([result['outcome'], *lists])}")
        if len(results) > RESULTS_SHOWN:
            _say(f"     and {len(results) - RESULTS_SHOWN} more")
        return str(results[0]["outcome"])

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.stack.token}"}

    def _expect_calls(self, title: str, wanted: int) -> None:
        url = f"{self.stack.simulator_url}/_simulator/calls?endpoint=release"
        calls = len(self.session.get(url, timeout=TIMEOUT_SECONDS).json())
        _say(f"     release calls that Cloudflare has seen: {calls}")
        self._expect(f"{title} (calls)", {wanted}, calls)

    def _expect(self, title: str, wanted: Set[object], got: object) -> None:
        if got not in wanted:
            expected = " or ".join(map(str, wanted))
            self.surprises.append(f"{title}: expected {expected}, got {got}")
            _say(f"     UNEXPECTED: {expected} was expected")


# What can be made up for later is accepted; nothing is released yet.
ACCEPTED = {(202, "in_progress")}
CASES: Sequence[Case] = (
    Case("A false positive is released", {(200, "released")}, {"ids": [EXAMPLE_ID], **REASON}, release_calls=1),
    Case("The same again: nothing is sent twice", {(200, "already_released")}, [EXAMPLE_ID], release_calls=1),
    Case(
        "Only some of the recipients get it",
        {(200, "partially_released")},
        {"ids": PARTIAL_ID},
        script={"behaviour": "partial", "id": PARTIAL_ID},
    ),
    Case("Without a token", {(401, "unauthenticated")}, [EXAMPLE_ID], has_token=False),
    Case("An id that is none", {(400, "invalid_id")}, {"ids": ["../../user"]}, release_calls=2),
)
# What a SIEM knows of a mail: the AlertID and the Message-ID of Cloudflare's log.
ALERTED = (
    Case(
        "By the AlertID of Cloudflare's log, in a dry run first: nothing is sent",
        {(200, "would_release")},
        {"alert_ids": [ALERT_ID], "dry_run": True},
        messages=[
            {"id": f"{ALERT_ID}-11223344", "message_id": MESSAGE_ID},
            {"id": HARMFUL_ID, "disposition": "MALICIOUS", "subject": "Invoice"},
        ],
        release_calls=2,
    ),
    Case("Then in earnest", {(200, "released")}, {"alert_ids": [ALERT_ID], "confirm": True}, release_calls=3),
    Case("By its Message-ID it is the same mail", {(200, "already_released")}, [MESSAGE_ID], release_calls=3),
    Case("A malicious mail stays where it is", {(200, "denied")}, [HARMFUL_ID], release_calls=3),
)
LOST = Case(
    "The answer of Cloudflare is lost: neither success nor failure",
    {(202, "unconfirmed")},
    {"ids": [LOST_ID], **REASON},
    script={"behaviour": "reset_after_effect", "id": LOST_ID, "times": 1},
    release_calls=4,
)
# The reconciler may be quicker.
AGAIN = Case(
    "Asking again makes no second call", {(202, "unconfirmed"), (200, "already_released")}, [LOST_ID], release_calls=4
)
MANY = Case(
    "A bad detection rule: many at once are taken on and released in few calls",
    ACCEPTED,
    {"ids": MANY_IDS},
    messages=[{"id": each} for each in MANY_IDS],
)
LIMITED = Case(
    "Cloudflare's rate limit is used up: nothing was released yet, it will be tried again",
    ACCEPTED,
    [LIMITED_ID],
    script={"behaviour": "429", "retry_after": 3, "times": 1},
    release_calls=8,
)
# The last, since it ends Cloudflare.
DOWN = Case(
    "Cloudflare cannot be reached, though tried for some seconds: nothing was sent, it will be tried again",
    ACCEPTED,
    [DOWN_ID],
)


def main() -> int:
    """Play every case; 1 if one came out otherwise than expected."""
    try:
        environment = {"PORT": "0", "RECONCILE_EVERY_SECONDS": str(RECONCILE_EVERY_SECONDS)}
        with Stack(environment, processes=2) as stack, requests.Session() as session:
            session.trust_env = False  # a proxy would not find the way back to this machine
            demo = Demo(stack, session)
            _say(f"Quarantine Release at {stack.base_url}, with a simulated Cloudflare")
            for case in (*CASES, *ALERTED):
                demo.play(case)
            lost_request = demo.play(LOST)
            demo.play(AGAIN)
            demo.wait(lost_request, "What became of it is read from Cloudflare, not guessed", 4, RECONCILER)
            demo.trace(EXAMPLE_ID, "What happened to the first message?", "RELEASED")
            demo.trace(LOST_ID, "And to the one whose answer was lost?", "RELEASED")
            demo.wait(demo.play(MANY), f"All {len(MANY_IDS)} are released", 7, "the worker")
            demo.wait(demo.play(LIMITED), "No call was made while it was used up; then one was", 9, "the worker")
            if stack.simulator:
                stack.simulator.stop()
            demo.cancel(demo.play(DOWN), "What was not sent yet can be cancelled")
    except CannotStart as problem:
        _say(str(problem))
        return 1
    except KeyboardInterrupt:
        return 130
    _say("\nNot as expected:\n  " + "\n  ".join(demo.surprises) if demo.surprises else "\nAll as expected.")
    return 1 if demo.surprises else 0


def _proof(part: Mapping[str, Any]) -> str:
    """What a message or an attempt is known by, on one line."""
    evidence = part.get("evidence") or {}
    return ", ".join(f"{name} {value}" for name, value in evidence.items() if value not in (None, [])) or "none"


def _say(text: str, *, bold: bool = False) -> None:
    print(f"\033[1m{text}\033[0m" if bold and sys.stdout.isatty() else text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
