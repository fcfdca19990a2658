"""Counts the borders that one request crosses in our code: how far a reader has to jump to follow it.

The test deployment, with the guard on, releases one message. Then a second message is released by its investigate id
in one POST. From the call of the handler to its return, a profile function (`sys.setprofile`) records:

- *calls*: functions of ours that begin. A generator counts once, a generator expression not at all.
- *crossings between modules*: calls of which the caller is in another module. The caller is the nearest function of
  ours on the stack, so a callback through a library counts as well. The call of the handler itself counts.
- *crossings between packages*: the same for packages. A module outside of all packages, such as `wiring`, is one.
- *changes of type*: classes of ours in which the request's payload passes from one module to another, until Cloudflare
  receives the release. Payload is the body as received and the very string that was parsed from it, so an equal id
  that Cloudflare sends is none. A class counts once, when an instance is passed as an argument (not as `self`), alone
  or in plain collections, and leads to the payload through its fields and those of frozen dataclasses in it.

docs/performance.md has the figures. At 4c3b95d, before there were packages, this way of counting gives 635 calls, 332
crossings between modules and 14 changes of type. At f8ed14a, right after the move into packages, it gives 908 calls,
442 crossings between modules, 204 between packages and 14 changes of type.
"""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from types import FrameType
from typing import Any, Final

import pytest

# Powertools reads these when telemetry.py is imported.
os.environ |= {"POWERTOOLS_SERVICE_NAME": "quarantine-release", "POWERTOOLS_METRICS_NAMESPACE": "QuarantineRelease"}

import quarantine_release
from quarantine_release.webhook import lambda_handler
from tests.support.deployment import INVESTIGATE_ID, Context, deploy, proxy_event, token_of
from tests.support.small_cloudflare import Reply, Sent, Upstream, delivered, serve_upstream

_SOURCE: Final = f"{Path(quarantine_release.__file__).parent}{os.sep}"

_EARLIER_ID: Final = f"3{INVESTIGATE_ID[1:]}"

_IS_GENERATOR: Final = 0x20


@dataclass(frozen=True)
class Call:
    """A function of ours, and who called it; the handler is called by nobody."""

    caller: str
    module: str
    function: str

    @property
    def packages(self) -> tuple[str, str]:
        """Return the package of the caller and the one that is called."""
        return self.caller.partition(".")[0], self.module.partition(".")[0]


@dataclass
class Recording:
    """What one request does. `types` are the classes of its payload in their order."""

    upstream: Upstream
    body: bytes
    calls: list[Call] = field(default_factory=list)
    types: dict[type, None] = field(default_factory=dict)
    _parsed: list[str] = field(default_factory=list)
    _generators: set[FrameType] = field(default_factory=set)

    @property
    def module_crossings(self) -> list[Call]:
        """Return the calls from another module."""
        return [call for call in self.calls if call.caller != call.module]

    @property
    def package_crossings(self) -> list[Call]:
        """Return the calls from another package."""
        return [call for call in self.calls if len({*call.packages}) == 2]

    def profile(self, frame: FrameType, event: str, value: Any) -> None:
        """Record an event. Calls of C functions have events of their own."""
        module = _module(frame)
        if module is None:
            return
        if event == "return" and not self._parsed:
            self._parsed += [each for each in _leaves(value) if isinstance(each, str) and each == INVESTIGATE_ID]
        if event != "call" or frame.f_code.co_name == "<genexpr>" or frame in self._generators:
            return
        if frame.f_code.co_flags & _IS_GENERATOR:
            self._generators.add(frame)  # each resumption is an event, too
        call = Call(_caller(frame), module, frame.f_code.co_qualname)
        self.calls.append(call)
        if call.caller != module and not self.upstream.releases:
            arguments = [argument for name, argument in frame.f_locals.items() if name not in ("self", "cls")]
            carriers = (each for each in _leaves(arguments) if _is_ours(each) and self._carries(each))
            self.types.update((type(each), None) for each in carriers)

    def _carries(self, instance: Any) -> bool:
        """Return whether the payload can be reached from an instance."""
        waiting, seen = [*_fields(instance)], set[int]()
        while waiting:
            leaf = waiting.pop()
            if any(leaf is text for text in self._parsed) or (isinstance(leaf, bytes) and leaf == self.body):
                return True
            if _is_frozen(leaf) and id(leaf) not in seen:
                seen.add(id(leaf))
                waiting += _fields(leaf)
        return False


def _module(frame: FrameType) -> str | None:
    """Return the module of ours that a frame runs, below our package; None for all others."""
    path = frame.f_code.co_filename
    return path.removeprefix(_SOURCE).removesuffix(".py").replace(os.sep, ".") if path.startswith(_SOURCE) else None


def _caller(frame: FrameType) -> str:
    caller = frame.f_back
    while caller is not None:
        module = _module(caller)
        if module is not None:
            return module
        caller = caller.f_back
    return ""


def _is_ours(value: Any) -> bool:
    return type(value).__module__.startswith("quarantine_release.")


def _is_frozen(value: Any) -> bool:
    """Return whether this is a value of ours, and not a service that knows more than one request."""
    parameters = getattr(type(value), "__dataclass_params__", None)
    return _is_ours(value) and parameters is not None and parameters.frozen


def _fields(instance: Any) -> Iterator[Any]:
    """Yield what an instance holds, collections unpacked."""
    slots = {slot for each in type(instance).__mro__ for slot in getattr(each, "__slots__", ())}
    names = {*getattr(instance, "__dict__", ()), *slots}
    return _leaves(getattr(instance, name, None) for name in sorted(names))


def _leaves(value: Any) -> Iterator[Any]:
    """Yield what is in plain collections, or the value itself."""
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if not isinstance(value, list | tuple | set | frozenset | Iterator) or _is_ours(value):
        yield value
        return
    for each in value:
        yield from _leaves(each)


class _Page(Reply):
    """A page of Cloudflare's search, which is its last."""

    @property
    def body(self) -> bytes:
        return json.dumps(json.loads(super().body) | {"result_info": {"next": None}}).encode()


def _answer(sent: Sent) -> Reply:
    """Answer as a Cloudflare that holds both messages in quarantine as spam."""
    if sent.method == "POST":
        return delivered(sent)
    path = sent.path.partition("?")[0]
    if path.endswith("/action_log"):
        return Reply(result=[])
    asked = [each for each in (_EARLIER_ID, INVESTIGATE_ID) if each.partition("-")[0] in sent.path]
    entries = [
        {
            "id": each,
            "postfix_id": each.partition("-")[0],
            "message_id": "<2024.1@example.net>",
            "is_quarantined": True,
            "final_disposition": "SPAM",
            "delivery_mode": "DIRECT",
            "client_recipients": ["ann@example.com"],
            "from": "sender@example.net",
            "subject": "An invoice",
            "post_delivery_operations": [],
            "scanned_at": "2024-01-05T10:00:00Z",
        }
        for each in asked
    ]
    return _Page(result=entries) if path.endswith("/investigate") else Reply(result=entries[0])


def _event(investigate_id: str) -> dict[str, Any]:
    headers = [("Authorization", f"Bearer {token_of('soar')}")]
    return proxy_event("POST", "/v1/releases", headers=headers, body=json.dumps({"ids": [investigate_id]}))


def record() -> Recording:
    """Release two messages, and record how the second goes. Raises RuntimeError if one is not released."""
    with (
        redirect_stdout(StringIO()),  # metrics
        pytest.MonkeyPatch.context() as patch,
        serve_upstream() as upstream,
        deploy(upstream, patch) as deployment,
    ):
        patch.setenv("GUARD_MODE", "standard")
        upstream.answers.extend([_answer] * 10)
        answers = [deployment.handle(_event(_EARLIER_ID)).body]
        upstream.requests.clear()
        event = _event(INVESTIGATE_ID)
        recording = Recording(upstream, event["body"].encode())
        sys.setprofile(recording.profile)
        answer = lambda_handler(event, Context(20))
        sys.setprofile(None)
        answers.append(json.loads(answer["body"]))
    if [answer["results"][0].get("guard") for answer in answers] != ["passed", "passed"]:
        raise RuntimeError(f"not released: {answers}")
    return recording


def _table(calls: Iterable[tuple[str, ...]]) -> Iterator[str]:
    for names, number in Counter(calls).most_common():
        yield f"{number:5}  {'  '.join(name or '(Lambda)' for name in names)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the four figures, the classes, and between which packages the request passes."""
    parser = argparse.ArgumentParser(prog="benchmarks.crossings", description="Count the borders a request crosses.")
    parser.add_argument("--calls", action="store_true", help="list the calls between packages, too")
    options = parser.parse_args(arguments)
    recording = record()
    print(f"{len(recording.calls):5}  calls")
    print(f"{len(recording.module_crossings):5}  crossings between modules")
    print(f"{len(recording.package_crossings):5}  crossings between packages")
    print(f"{len(recording.types):5}  changes of type: {', '.join(each.__qualname__ for each in recording.types)}")
    print("\nCrossings between packages")
    print("\n".join(_table(call.packages for call in recording.package_crossings)))
    if options.calls:
        print("\nCalls between packages: caller, called module, function")
        print("\n".join(_table((call.caller, call.module, call.function) for call in recording.package_crossings)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
