"""`make run`: starts the local stack, says how to use it, and stops it cleanly on Ctrl-C or SIGTERM.

`python -m local [FOLDER [PROCESSES]]`: token and logs go to the folder, by default `.local` in the checkout.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from local.children import CHECKOUT, CannotStart
from local.stack import HANDLER_PROCESSES, Stack

EXAMPLE_ID = "4Njp3P0STMz2c02Q"


def main(arguments: list[str]) -> int:
    """Run until a signal comes; 1 if the stack cannot start or loses one of its services."""
    folder = Path(arguments[0]) if arguments else CHECKOUT / ".local"
    processes = int(arguments[1]) if len(arguments) > 1 else HANDLER_PROCESSES
    signal.signal(signal.SIGINT, _stop)
    signal.signal(signal.SIGTERM, _stop)
    try:
        with Stack(os.environ, folder=folder, processes=processes) as stack:
            print(greeting(stack), flush=True)
            while (dead := stack.dead_service()) is None:
                time.sleep(0.5)
        print(f"{dead} has ended; the reason may be in {os.path.relpath(folder)}/services.log.", file=sys.stderr)
    except CannotStart as problem:
        print(problem, file=sys.stderr)
    return 1


def greeting(stack: Stack) -> str:
    """What a person needs to use the stack; never a Cloudflare credential."""
    authorization = shlex.quote(f"Authorization: Bearer {stack.token}")
    here = os.path.relpath
    if stack.simulator_url:
        cloudflare = f"simulated at {stack.simulator_url}/client/v4 (control: {stack.simulator_url}/_simulator)"
    else:
        cloudflare = f"{stack.upstream_url}, account {stack.account_id}"
    queue = f"\n  Queue          {stack.queue_url}" if stack.queue_url else ""
    return f"""\
Quarantine Release listens on {stack.base_url}
  Cloudflare     {cloudflare}{queue}
  Reconciler     every {stack.reconcile_every_seconds:g} s
  Token          {stack.token}   (also in {here(stack.token_path)})
  Handler logs   {here(stack.log_path)}

Release a message:
  curl -s -H {authorization} -d '["{EXAMPLE_ID}"]' {stack.base_url}/v1/releases
See its trace:
  curl -s -H {authorization} {stack.base_url}/v1/messages/{EXAMPLE_ID}

Ctrl-C stops it."""


def _stop(_signal: int, _frame: FrameType | None) -> None:
    """Leave through the context manager, which ends every process; a second signal must not disturb that."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
