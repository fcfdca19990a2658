"""The whole local stack as one context manager: what `make run`, the demo and the end-to-end tests start."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from local.children import CHECKOUT
from local.event_source import EventSource, RemoteQueue
from local.gateway import Gateway
from local.handlers import HandlerPool
from local.http_server import listen, url_of
from local.options import Options
from local.schedule import Schedule
from local.services import Service, aws_environment, start_embedded_aws, start_simulated_cloudflare
from local.template import Template

HANDLER_PROCESSES = 8


class Stack:
    """Gateway, schedule, event source, handlers, embedded AWS and, unless another upstream is set, its simulator.

    Started by `with`; nothing is left of it afterwards, however it ends.
    """

    base_url: str
    aws: Service
    simulator: Service | None = None

    def __init__(
        self,
        environment: Mapping[str, str],
        *,
        folder: Path | None = None,
        template: Path = CHECKOUT / "template.yaml",
        code: Path = CHECKOUT / "src",
        processes: int = HANDLER_PROCESSES,
    ) -> None:
        """Read the variables of `make run` (`PORT=0` takes a free port); raises `CannotStart`.

        Token and logs go to `folder`, by default one that is removed at the end. `code` holds the handlers' package;
        `processes` of the webhook run beside each other, of the worker as many as its event source may use at once,
        the reconciler has one.
        """
        self._options = Options.from_environment(environment)
        self._template = Template.read(template)
        self._worker_events = self._template.queue_events().get("WorkerFunction")
        self._cleanup = ExitStack()
        self._services: list[Service] = []
        self._pools: dict[str, HandlerPool] = {}
        self._folder = folder
        self._code = code
        self._processes = processes

    @property
    def token(self) -> str:
        """The bearer token of the one client, which has every scope."""
        return self._options.token

    @property
    def account_id(self) -> str:
        return self._options.account_id

    @property
    def aws_url(self) -> str:
        return self.aws.url

    @property
    def simulator_url(self) -> str | None:
        """Where the simulator's control API is; None with another upstream."""
        return self.simulator.url if self.simulator else None

    @property
    def upstream_url(self) -> str:
        """The base address of the Cloudflare in use."""
        return self._options.upstream_url or f"{self.simulator_url}/client/v4"

    @property
    def queue_url(self) -> str | None:
        """The queue that feeds the worker; None if the template has no worker."""
        return self._template.queue_url(self._worker_events.queue_name) if self._worker_events else None

    @property
    def reconcile_every_seconds(self) -> float:
        return self._options.reconcile_every_seconds

    @property
    def token_path(self) -> Path:
        return self._home / "token"

    @property
    def environment_path(self) -> Path:
        return self._home / "environment.json"

    @property
    def log_path(self) -> Path:
        return self._home / "handlers.log"

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End every process and free the port; doing it twice does no harm."""
        self._cleanup.close()

    def dead_service(self) -> str | None:
        """The name of a service that has ended though the stack has not; handlers are replaced, services are not."""
        return next((service.name for service in self._services if not service.is_alive), None)

    def pids(self, short_name: str) -> list[int]:
        """The processes that run a function's handler now: of the `webhook`, the `worker` or the `reconciler`."""
        return self._pools[short_name].pids()

    def _start(self) -> None:
        gateway = Gateway(listen(self._options.port), self._invoke, self._template.gateway_responses())
        self._cleanup.callback(gateway.stop)
        self.base_url = url_of(gateway.socket)
        self._home = self._folder or Path(self._cleanup.enter_context(tempfile.TemporaryDirectory()))
        self._home.mkdir(parents=True, exist_ok=True)
        secrets = {
            "CloudflareSecret": self._options.cloudflare_secret(),
            "ClientsSecret": self._options.clients_secret(),
        }
        services_log = self._home / "services.log"
        self.aws = self._keep(start_embedded_aws(self._template, secrets, services_log))
        self._template = self._template.with_queues_at(self.aws.url)
        if self._options.upstream_url is None:
            self.simulator = self._keep(start_simulated_cloudflare(self._simulator_settings(), services_log))
        for service in self._services:
            service.wait_until_ready()
        self._start_handlers("webhook", "WebhookFunction", self._processes)
        self._start_handlers("reconciler", "ReconcilerFunction", 1)
        if self._worker_events:
            self._start_handlers("worker", "WorkerFunction", self._worker_events.maximum_concurrency)
        for pool in self._pools.values():
            pool.wait_until_ready()
        schedule = Schedule("reconciler", self._pools["reconciler"].submit, self.reconcile_every_seconds)
        self._cleanup.callback(schedule.stop)
        if self._worker_events:
            queue = RemoteQueue(self.aws, self._worker_events.queue_name)
            source = EventSource(queue, self._worker_events, self._pools["worker"].submit)
            self._cleanup.callback(source.stop)
        self._write(self.token_path, self.token)
        self._write(self.environment_path, json.dumps(self._environment("WebhookFunction"), indent=2))
        gateway.start()
        self._cleanup.callback(gateway.stop)  # first of all at the end, so that nothing new comes in

    def _keep(self, service: Service) -> Service:
        self._services.append(service)
        self._cleanup.callback(service.stop)
        return service

    def _invoke(self, event: Mapping[str, Any]) -> Future[Any]:
        return self._pools["webhook"].submit(event)

    def _simulator_settings(self) -> dict[str, Any]:
        """The simulator knows one account with one credential, which it takes from here."""
        credential = self._options.credential
        return {
            "account_id": self.account_id,
            "tokens": [credential["api_token"]] if "api_token" in credential else [],
            "keys": {credential["api_email"]: credential["api_key"]} if "api_key" in credential else {},
        }

    def _start_handlers(self, short_name: str, logical_id: str, size: int) -> None:
        """Start the processes of one function of the template; more functions need one line more in `_start`."""
        self._pools[short_name] = HandlerPool(
            short_name,
            self._template.functions()[logical_id],
            environment=self._environment(logical_id),
            code=self._code,
            log=self.log_path,
            size=size,
        )
        self._cleanup.callback(self._pools[short_name].stop)

    def _environment(self, logical_id: str) -> dict[str, str]:
        """The variables of a function; also how the operations tool finds embedded AWS and what is in it."""
        overrides = {**self._options.overrides, "CLOUDFLARE_API_BASE_URL": self.upstream_url}
        return {
            **self._template.functions()[logical_id].environment,
            **overrides,
            **aws_environment(self.aws.url),
        }

    def _write(self, path: Path, text: str) -> None:
        """Readable by its owner only, from the first byte on; gone with the stack."""
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        self._cleanup.callback(path.unlink, missing_ok=True)
