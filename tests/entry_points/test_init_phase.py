"""The search for garbage, off while a function is loaded and on again afterwards, whatever priming came to."""

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from quarantine_release import init_phase

pytestmark = pytest.mark.outside

SOURCE = Path(__file__).parent.parent.parent / "src"
LOAD = """
import gc, sys
sys.path.insert(0, sys.argv[1])
collections = []
gc.callbacks.append(lambda phase, info: collections.append(phase))
__import__(f"quarantine_release.{sys.argv[2]}")
print(gc.isenabled(), gc.get_freeze_count() > 10_000, len(collections) < 60)
"""


def test_it_is_off_in_the_init_phase_and_leaves_out_what_that_made() -> None:
    try:
        init_phase.begin()
        assert not gc.isenabled()
        init_phase.end()
        assert gc.isenabled()
        assert gc.get_freeze_count() > 0
    finally:
        gc.enable()
        gc.unfreeze()


@pytest.mark.parametrize("environment", [{}, {"AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand"}])
@pytest.mark.parametrize("function", ["webhook", "worker", "reconciler"])
def test_loading_a_function_searches_next_to_never(function: str, environment: dict[str, str]) -> None:
    command = [sys.executable, "-I", "-c", LOAD, str(SOURCE), function]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True True True"
