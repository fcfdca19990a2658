"""Rows of the simulated store that cannot be read for a while, or until the end: nobody may change or claim by them."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from quarantine_release.domain.ids import message_key, postfix_part
from quarantine_release.ledger.items import attempt_row, request_row
from quarantine_release.ledger.keys import account_key, attempt_key

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

Item = dict[str, Any]
# What a row of a version of tomorrow looks like, and one with a value that is not known.
NEWER: Item = {"v": {"N": "99"}}
UNKNOWN: Item = {"state": {"S": "TELEPORTED"}}
# For so long it is waited for a row of the kind.
_PATIENCE_SECONDS = 120.0


@dataclass
class Damage:
    """One row of a kind is unreadable from then on for so many seconds."""

    kind: str
    at: float
    seconds: float
    changes: Item
    key: str = ""
    since: float = 0.0
    sound: Item = field(default_factory=dict)


class Damages:
    """What happens to rows in one run, and what must hold of them."""

    def __init__(self, planned: list[Damage], simulation: Simulation) -> None:
        self._simulation = simulation
        self.planned = planned
        self.now: dict[str, Damage] = {}
        self.waiting: set[str] = set()

    def actors(self) -> list[tuple[str, partial[None], float]]:
        """Return name, act and time of whoever damages a row and repairs it."""
        return [(f"damage {number}", partial(self._act, one), one.at) for number, one in enumerate(self.planned)]

    def _act(self, damage: Damage) -> None:
        simulation = self._simulation
        while not (keys := self._keys(damage.kind)):
            if simulation.now > damage.at + _PATIENCE_SECONDS:
                return
            simulation.sleep(simulation.random.uniform(0.1, 5.0))
        simulation.note_states()  # of whoever has died after a write
        damage.key = simulation.random.choice(keys)
        damage.sound = simulation.dynamodb.items[damage.key]
        simulation.dynamodb.items[damage.key] = {**damage.sound, **damage.changes}
        self.now[damage.key] = damage
        simulation.note(f"damages {damage.key}")
        damage.since = simulation.now
        if damage.seconds < math.inf:
            simulation.sleep(damage.seconds)
            self._repair(damage)

    def _keys(self, kind: str) -> list[str]:
        return [key for key in self._simulation.dynamodb.items if key.startswith(kind) and key not in self.now]

    def _repair(self, damage: Damage) -> None:
        simulation = self._simulation
        if simulation.dynamodb.items[damage.key] != {**damage.sound, **damage.changes}:
            simulation.violations.append(
                f"{damage.key} was changed while it could not be read, from {damage.since:.3f} on"
            )
        simulation.dynamodb.items[damage.key] = damage.sound
        del self.now[damage.key]
        simulation.note(f"repairs {damage.key}")

    def check_write(self, key: str) -> bool:
        """Note a write to a row that cannot be read; return whether it is one."""
        if key in self.now:
            self._simulation.violations.append(f"{self._simulation.now:.3f}: {key} was written though unreadable")
        return key in self.now

    def check_call(self, part: Any) -> None:
        """See that a call for a message that cannot be read was claimed before that."""
        from tests.simulation.simulation import ACCOUNT

        damage = self.now.get(message_key(ACCOUNT, part))
        if damage is not None and damage.sound["state"]["S"] != "RELEASING":
            self._simulation.violations.append(f"{self._simulation.now:.3f}: a call for {part}, which is unreadable")

    def is_silent(self) -> bool:
        """Return whether no call may be made, since the account's row has been unreadable for a second."""
        from tests.simulation.simulation import ACCOUNT

        damage = self.now.get(account_key(ACCOUNT))
        return damage is not None and damage.since + 1.0 < self._simulation.now

    def end(self) -> None:
        """Repair what is left, after noting all rows that may still wait for it: the others must have ended."""
        left = set(self.now)
        for damage in list(self.now.values()):
            self._repair(damage)
        items = self._simulation.dynamodb.items
        self.waiting |= {key for key in items if left and self._waits_for(key, left)}

    def _waits_for(self, key: str, left: set[str]) -> bool:
        item = self._simulation.dynamodb.items[key]
        if key in left:
            return True
        if key.startswith("M#"):
            _, account_id, _ = key.split("#")
            return attempt_key(account_id, item["attempt"]["S"]) in left  # type: ignore[arg-type]
        if key.startswith("T#"):
            row = attempt_row(item)
            return any(message_key(row.account_id, target.part) in left for target in row.targets)
        if key.startswith("R#"):
            request = request_row(item)
            wanted = {message_key(request.account_id, postfix_part(each)) for each in request.message_ids}
            return any(each in self._simulation.dynamodb.items and self._waits_for(each, left) for each in wanted)
        return False


def damage(seed: int, simulation: Simulation) -> float:
    """Damage rows in one run of six, by dice of its own; return when the last of them is repaired."""
    chance = random.Random(f"damages of {seed}")  # noqa: S311  reproducible on purpose
    if chance.random() > 1 / 6:
        return 0.0
    planned = []
    for _ in range(chance.choice((1, 1, 2, 3))):
        # The tool by which a person pauses releases would fail too, and that person would see it.
        kind = chance.choice(("M#", "M#", "M#", "R#", "T#", "T#", "M#" if simulation.orders else "A#"))
        seconds = chance.choice((chance.uniform(0.5, 10), chance.uniform(60, 500), math.inf))
        if kind == "A#":
            seconds = min(seconds, 200.0)
        at = chance.choice((chance.uniform(0, 5), chance.uniform(0, 300)))
        planned.append(Damage(kind, at, seconds, NEWER if kind == "A#" else chance.choice((NEWER, UNKNOWN))))
    simulation.damages = Damages(planned, simulation)
    return max(one.at + _PATIENCE_SECONDS + (one.seconds if one.seconds < math.inf else 0.0) for one in planned)
