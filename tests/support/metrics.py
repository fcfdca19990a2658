"""What was counted: before a handler has flushed it, and in what it prints."""

import json

import pytest

from quarantine_release import telemetry


def counted() -> dict[str, list[float]]:
    """Return what was counted since the last time, by name."""
    metrics = telemetry.metrics.serialize_metric_set()
    telemetry.metrics.clear_metrics()
    return {name: value for name, value in metrics.items() if isinstance(value, list)}


def flushed(capsys: pytest.CaptureFixture[str]) -> dict[str, float]:
    """Return what handlers counted since the last time, by name."""
    found: dict[str, float] = {}
    for line in capsys.readouterr().out.splitlines():
        for name, value in json.loads(line).items():
            if isinstance(value, list):
                found[name] = found.get(name, 0) + sum(value)
    return found
