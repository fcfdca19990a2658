"""The *clients* secret of a simulated run: who is revoked and when, and what each process knows of it."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from hashlib import sha256
from math import inf
from typing import Any

from botocore.exceptions import EndpointConnectionError

from quarantine_release.aws.current_clients import CurrentClients
from quarantine_release.aws.secret_store import CachedSecret
from quarantine_release.config.clients import parse_clients
from quarantine_release.domain.permit import Permit
from quarantine_release.domain.rows import RequestRow
from tests.simulation.simulated_strikes import Strike
from tests.simulation.simulation import Job, Order, Simulation

CACHE = timedelta(seconds=20)
# From the last look at the copy to the call a process may stand still.
SLACK = timedelta(seconds=60)
FOR_EVER = inf
Permits = Callable[[RequestRow], Permit]


class Loss(StrEnum):
    """How a client loses what it may do."""

    GONE = "its entry is taken out"
    DISABLED = "it is disabled"
    SCOPE = "it loses the scope release"
    UNREADABLE = "the whole secret is malformed"


@dataclass(frozen=True)
class Revocation:
    """That a client is revoked from then on, until it is restored."""

    client: str
    at: float
    until: float
    loss: Loss = Loss.DISABLED

    def holds_for(self, client: str, at: float) -> bool:
        return (self.loss is Loss.UNREADABLE or self.client == client) and self.at <= at < self.until


class SimulatedClients:
    """Secrets Manager with the one secret, and the copies that the processes of worker and reconciler have of it."""

    def __init__(
        self, revocations: Sequence[Revocation], simulation: Simulation, lifetime: timedelta = timedelta(minutes=30)
    ) -> None:
        self.lifetime = lifetime
        self.names = sorted({job.client for job in simulation.jobs})
        self.revocations = revocations
        self._simulation = simulation
        self._permits: list[Permits] = []
        self._failed_at: list[float] = []

    def permits(self) -> Permits:
        """Return what a process asks: one that has lived before, with its copy, or a new one."""
        if self._permits:
            return self._permits.pop()
        clock = self._simulation.clock
        return CurrentClients(CachedSecret(self, "clients", parse_clients, clock, CACHE), clock).permit  # type: ignore[arg-type]

    def keep(self, permits: Permits) -> None:
        """Let the process that asked these live on."""
        self._permits.append(permits)

    def get_secret_value(self, **_: Any) -> dict[str, str]:
        """Play Secrets Manager: what is so when the answer is made."""
        strike = self._simulation.begin_secret()
        if strike is Strike.UNREAD:
            self._failed_at.append(self._simulation.now)
            raise EndpointConnectionError(endpoint_url="https://secretsmanager")
        return {"SecretString": self._document()}

    def is_lost(self, client: str, at: float | None = None) -> bool:
        """A caller of this client would not be let in then, by default now."""
        moment = self._simulation.now if at is None else at
        return any(one.holds_for(client, moment) for one in self.revocations)

    def objections(self, client: str) -> list[str]:
        """Return why no call may begin now for this client, unless the secret could not be fetched meanwhile."""
        now = self._simulation.now
        return [
            f"{client} was revoked at {one.at:.3f}: {one.loss}"
            for one in self.revocations
            if one.holds_for(client, now)
            and now > one.at + (CACHE + SLACK).total_seconds()
            and not any(at >= one.at for at in self._failed_at)
        ]

    def _document(self) -> str:
        now, entries = self._simulation.now, []
        for name in self.names:
            losses = {one.loss for one in self.revocations if one.holds_for(name, now)}
            if Loss.UNREADABLE in losses:
                return "this is no JSON"
            if Loss.GONE not in losses:
                entry = {"name": name, "tokens": [{"sha256": sha256(name.encode()).hexdigest()}]}
                scopes = ["read"] if Loss.SCOPE in losses else ["release"]
                entries.append({**entry, "scopes": scopes, "disabled": Loss.DISABLED in losses})
        return json.dumps({"clients": entries})


def revoke(seed: int, simulation: Simulation) -> float:
    """Revoke a client in one run of six, by dice of its own; return when what it asked for will have ended."""
    chance = random.Random(f"revocations of {seed}")  # noqa: S311  reproducible on purpose
    if chance.random() > 1 / 6:
        return 0.0
    for number, job in enumerate(simulation.jobs):
        job.client = job.client if job.client != "soar" else f"client-{number % 2}"
    at = max(0.0, chance.choice(simulation.jobs).at + chance.choice((0.1, 1.0, 30.0)) + chance.uniform(0, 3))
    until = at + chance.uniform(30, 600) if chance.random() < 0.8 else FOR_EVER
    revocation = Revocation(chance.choice(simulation.jobs).client, at, until, chance.choice(tuple(Loss)))
    simulation.clients = SimulatedClients([revocation], simulation)
    return until if until < FOR_EVER else at + simulation.clients.lifetime.total_seconds() + 400


def _revoked(until: float, loss: Loss, simulation: Simulation, *, minutes: float) -> None:
    """Pause everything while a client is revoked, so that nobody has released what it asked for before."""
    simulation.orders = [Order(0.3, 150.0)]
    simulation.clients = SimulatedClients(
        [Revocation("lost", 5.0, until, loss)], simulation, lifetime=timedelta(minutes=minutes)
    )


def restored(simulation: Simulation) -> None:
    """Revoke a client, and restore it before what it asked for expires."""
    _revoked(300.0, Loss.GONE, simulation, minutes=30)


def never_restored(simulation: Simulation) -> None:
    """Revoke a client for ever."""
    _revoked(FOR_EVER, Loss.DISABLED, simulation, minutes=8)


def unreadable(simulation: Simulation) -> None:
    """Let the secret be malformed for a while."""
    _revoked(300.0, Loss.UNREADABLE, simulation, minutes=30)


def revoked_jobs(ids: Sequence[Any]) -> tuple[Job, ...]:
    """Return what a client asks for that is revoked, and another for a message of the same."""
    return (
        Job("lost", tuple(ids[:2]), inline=False, client="lost"),
        Job("fine", tuple(ids[1:2]), inline=False, client="fine"),
    )
