"""Embedded AWS and the simulated Cloudflare as processes, started one by one by the stack and by tests."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from local.children import CannotStart, Child, ChildDied
from local.http_server import listen, url_of
from local.template import REGION, Template

START_TIMEOUT_SECONDS = 60.0
ANSWER_TIMEOUT_SECONDS = 30.0
# With these an AWS SDK finds no profile, no role and no other credential of the person who runs the stack.
AWS_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "local",
    "AWS_SECRET_ACCESS_KEY": "local",
    "AWS_REGION": REGION,
    "AWS_DEFAULT_REGION": REGION,
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}


class Service:
    """A server in a process of its own, at `url`; `with` waits until it serves and ends it afterwards."""

    def __init__(self, module: str, first_message: Any, environment: Mapping[str, str], log: Path) -> None:
        """Start it: its listening socket and its settings come from here, so it may be called at once."""
        listener = listen()
        self.url = url_of(listener)
        self._child = Child(module, environment=environment, log=log, listener=listener)
        self._child.send(json.dumps(first_message).encode())
        self.name = module
        self._log = log
        self._asking = threading.Lock()

    @property
    def is_alive(self) -> bool:
        return self._child.is_alive

    def wait_until_ready(self) -> None:
        """Return once it serves; raises `CannotStart`."""
        try:
            self._child.wait_until_ready(START_TIMEOUT_SECONDS)
        except ChildDied as failure:
            raise CannotStart(f"{failure}; the reason is in {self._log}.") from failure

    def ask(self, question: bytes) -> bytes:
        """What it answers over the pipe, once it is ready; threads take turns. Raises `ChildDied`."""
        with self._asking:
            self._child.send(question)
            answer = self._child.receive(ANSWER_TIMEOUT_SECONDS)
        if answer is None:
            raise ChildDied(f"{self.name} does not answer")
        return answer

    def stop(self) -> None:
        self._child.stop()

    def __enter__(self) -> Self:
        try:
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start_embedded_aws(template: Template, secrets: Mapping[str, str], log: Path) -> Service:
    """Start AWS with the template's tables, queues and secrets; `secrets` holds the values by logical id."""
    values = {name: secrets.get(logical_id, "{}") for logical_id, name in template.secrets().items()}
    wanted = {"tables": template.tables(), "queues": template.queues(), "secrets": values}
    return Service("local.embedded_aws", wanted, AWS_ENVIRONMENT, log)


def start_simulated_cloudflare(settings: Mapping[str, Any], log: Path) -> Service:
    """Start Cloudflare with `cloudflare_account.Settings`; the API is at `url` + `/client/v4`."""
    return Service("local.simulated_cloudflare", settings, {}, log)


def aws_environment(url: str) -> dict[str, str]:
    """What an AWS SDK needs to reach embedded AWS and never anything else."""
    return {**AWS_ENVIRONMENT, "AWS_ENDPOINT_URL": url}
