"""How the simulated Cloudflare is told to behave: which behaviour meets which call and what it makes of it."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

ENDPOINTS = ("release", "list", "message", "action_log", "verify", "user")
READS = ("list", "message", "action_log")
# What becomes of one message in an otherwise normal answer; the value says whether the message is released by it.
MESSAGE_BEHAVIOURS = {
    "delivered": True,
    "partial": True,
    "undelivered": False,
    "failed": False,
    "empty_lists": True,
    "null_lists": True,
    "absent_lists": True,
    "omit": True,
    "other_id": True,
}
# What becomes of a whole call; the value says whether it takes effect before that. Any number is an HTTP status.
CALL_BEHAVIOURS = {
    "single_object": True,
    "without_messages": True,
    "unknown_id": False,
    "not_found": False,
    "400_6003": False,
    "slow": True,
    "hang": False,
    "reset_before_reading": False,
    "reset_after_reading": False,
    "reset_after_effect": True,
    "lost": False,
    "half_status_line": True,
    "trickle": True,
    "truncated": True,
    "html": False,
    "success_false": False,
    "empty_body": True,
    "redirect": False,
    "huge": True,
}
EFFECT_PARAMETERS = {"effect", "late_seconds"}
ANSWER_PARAMETERS = {"status", "code", "message", "html", "retry_after", "location"}
WIRE_PARAMETERS = {"seconds", "seconds_per_byte", "part", "text", "megabytes"}
PARAMETERS = EFFECT_PARAMETERS | ANSWER_PARAMETERS | WIRE_PARAMETERS
HTML = b"<!DOCTYPE html><html><head><title>cloudflare</title></head><body>Unknown error</body></html>"
# Numbers and texts of real errors where they are public; the others are made up.
ERRORS = {
    400: (1001, "Invalid request"),
    401: (1000, "Invalid API Token"),
    403: (10000, "Authentication error"),
    404: (7003, "Could not find the message"),
    429: (
        971,
        "More than 1200 requests per 300 seconds reached. Please wait and consider throttling your request speed",
    ),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer before anything happens to it on its way."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Step:
    """One scripted behaviour: for which calls, how often (None: until the reset), with which parameters."""

    behaviour: str
    id: str = "*"
    on: str = "release"
    times: int | None = None
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def is_for_one_message(self) -> bool:
        return self.behaviour in MESSAGE_BEHAVIOURS

    @property
    def takes_effect(self) -> bool:
        default = {**MESSAGE_BEHAVIOURS, **CALL_BEHAVIOURS}.get(self.behaviour, False)
        return bool(self.parameters.get("effect", default))

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Step:
        """Read what was posted; `ValueError` for a behaviour or an endpoint that does not exist."""
        parameters = dict(document)
        behaviour = str(parameters.pop("behaviour", ""))
        is_status = behaviour.isdecimal() and 400 <= int(behaviour) <= 599
        if not is_status and behaviour not in MESSAGE_BEHAVIOURS and behaviour not in CALL_BEHAVIOURS:
            raise ValueError(f"no such behaviour: {behaviour}")
        on = parameters.pop("on", "release")
        if on not in (*ENDPOINTS, "read", "any"):
            raise ValueError(f"no such endpoint: {on}")
        times = parameters.pop("times", None)
        if times is not None and (not isinstance(times, int) or times < 1):
            raise ValueError("times must be a whole number from 1")
        message_id = _postfix(parameters.pop("id", "*"))
        if unknown := parameters.keys() - PARAMETERS:
            raise ValueError(f"no such parameter: {', '.join(sorted(unknown))}")
        return cls(behaviour, message_id, on, times, parameters)

    def meets(self, endpoint: str, postfix_ids: Iterable[str]) -> bool:
        is_endpoint = self.on in (endpoint, "any") or (self.on == "read" and endpoint in READS)
        return is_endpoint and (self.id == "*" or self.id in postfix_ids)


class Script:
    """The steps still to come: those with a number of `times` first, in order; a later endless one replaces it."""

    def __init__(self) -> None:
        self._steps: list[Step] = []
        self._lock = threading.Lock()

    def add(self, step: Step) -> None:
        with self._lock:
            if step.times is None:
                self._steps = [old for old in self._steps if old.times or (old.id, old.on) != (step.id, step.on)]
            self._steps.append(step)
            self._steps.sort(key=lambda each: each.times is None)

    def clear(self) -> None:
        with self._lock:
            self._steps.clear()

    def for_call(self, endpoint: str, ids: Iterable[str]) -> Step | None:
        """The next step that decides over a whole call; it is used up by this."""
        return self._take(endpoint, {_postfix(each) for each in ids}, is_for_one_message=False)

    def for_message(self, endpoint: str, message_id: str) -> Step | None:
        """The next step that decides over one message of a call."""
        return self._take(endpoint, {_postfix(message_id)}, is_for_one_message=True)

    def take_unread(self, endpoint: str, ids: Iterable[str]) -> Step | None:
        """Use up the next step for a call that has not been read yet, if it is to be reset before that."""
        postfix_ids = {_postfix(each) for each in ids}
        with self._lock:
            steps = (each for each in self._steps if not each.is_for_one_message and each.meets(endpoint, postfix_ids))
            step = next(steps, None)
        return self.for_call(endpoint, ids) if step and step.behaviour == "reset_before_reading" else None

    def _take(self, endpoint: str, postfix_ids: set[str], *, is_for_one_message: bool) -> Step | None:
        with self._lock:
            for step in self._steps:
                if step.is_for_one_message == is_for_one_message and step.meets(endpoint, postfix_ids):
                    if step.times is not None:
                        step.times -= 1
                        if step.times <= 0:
                            self._steps.remove(step)
                    return step
        return None


def envelope(result: Any, **more: Any) -> Answer:
    """A good answer in Cloudflare's envelope."""
    document = {"success": True, "errors": [], "messages": [], "result": result, **more}
    return Answer(200, json.dumps(document).encode())


def error(status: int, code: int | None = None, message: str | None = None, **more: Any) -> Answer:
    """A refusal in Cloudflare's envelope."""
    usual_code, usual_message = ERRORS.get(status, (1000 + status, "Simulated failure"))
    entry = {"code": code or usual_code, "message": message or usual_message, **more}
    document = {"success": False, "errors": [entry], "messages": [], "result": None}
    return Answer(status, json.dumps(document).encode())


def changed(answer: Answer, step: Step) -> Answer:
    """The answer that a behaviour puts in place of the normal one."""
    wanted, behaviour = step.parameters, step.behaviour
    if behaviour.isdecimal():
        status = int(behaviour)
        refusal = error(status, wanted.get("code"), wanted.get("message"))
        if status in (502, 520) or wanted.get("html"):
            refusal = Answer(status, HTML, {"Content-Type": "text/html"})
        retry_after = wanted.get("retry_after", 300 if status == 429 else None)
        return Answer(status, refusal.body, {**refusal.headers, **_header("Retry-After", retry_after)})
    document = json.loads(answer.body)
    if behaviour == "single_object":
        return Answer(200, json.dumps({**document, "result": document["result"][0]}).encode())
    if behaviour == "without_messages":
        del document["messages"]
        return Answer(200, json.dumps(document).encode())
    fixed = {
        "unknown_id": error(wanted.get("status", 400), 1005, "Unknown message id"),
        "not_found": error(404),
        "400_6003": error(
            400,
            6003,
            "Invalid request headers",
            error_chain=[{"code": 6111, "message": "Invalid format for Authorization header"}],
        ),
        "html": Answer(wanted.get("status", 200), HTML, {"Content-Type": "text/html"}),
        "success_false": Answer(200, error(500).body),
        "empty_body": Answer(200, b""),
        "redirect": Answer(wanted.get("status", 302), b"", _header("Location", wanted.get("location", "/elsewhere"))),
    }
    return fixed.get(behaviour, answer)


def new_cf_ray() -> str:
    return f"{secrets.token_hex(8)}-SIM"


def _header(name: str, value: Any) -> dict[str, str]:
    return {} if value is None else {name: str(value)}


def _postfix(message_id: str) -> str:
    return message_id.partition("-")[0]
