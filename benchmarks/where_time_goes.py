"""Shows where the time of a function goes: modules by what loading them takes, and the calls of its first requests."""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.certificate import Certificate
from benchmarks.lambda_process import release_event, services
from benchmarks.packages import build, lambda_python

_PROFILE: Final = """
import cProfile, importlib, io, json, pstats, sys
from contextlib import redirect_stdout
folder, entry, first, requests = sys.argv[1:5]
sys.path.insert(0, folder)
events = json.load(sys.stdin)

class Context:
    function_name, function_version, memory_limit_in_mb, aws_request_id = "webhook", "1", 512, "a"
    invoked_function_arn = "arn:aws:lambda:us-east-1:123456789012:function:webhook"

    def get_remaining_time_in_millis(self):
        return 20_000

with redirect_stdout(io.StringIO()):
    handler = importlib.import_module(entry).lambda_handler
    for event in events[:int(first)]:
        handler(event, Context())
    with cProfile.Profile() as profile:
        for event in events[int(first):]:
            handler(event, Context())
stats = pstats.Stats(profile).strip_dirs()
stats.sort_stats("cumtime").print_stats(30)
stats.sort_stats("tottime").print_stats(30)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the profiles of one variant."""
    parser = argparse.ArgumentParser(prog="benchmarks.where_time_goes", description=__doc__)
    parser.add_argument("--variant", type=int, default=0, help="0 ours, 1 the floor, 2 the peer")
    parser.add_argument("--first", type=int, default=0, help="requests before the profile begins; 0: the cold one too")
    parser.add_argument("--requests", type=int, default=1, help="requests profiled")
    parser.add_argument("--modules", type=int, default=40, help="how many modules are listed")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        package = build(Path(folder))[given.variant]
        certificate = Certificate.make(Path(folder))
        package.trust(certificate.authority)
        with services(certificate) as around:
            command = [lambda_python(), "-I", "-S", "-B", "-X", "importtime", "-c", _PROFILE, str(package.folder)]
            command += [package.entry, str(given.first), str(given.requests)]
            events = json.dumps([release_event() for _ in range(given.first + given.requests)])
            done = subprocess.run(
                command, env=dict(around.environment), input=events, capture_output=True, text=True, check=False
            )
    if done.returncode:
        sys.stderr.write(done.stderr)
        return 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:") and "self" not in line]
    lines.sort(key=lambda line: int(line.split(":")[1].split("|")[0]), reverse=True)
    print("      self us | cumulative | module")
    print("\n".join(lines[: given.modules]))
    print(done.stdout)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
