"""What the operations tool is told on the command line."""

import argparse
import re
from collections.abc import Callable
from typing import Final

from quarantine_release.domain.verdicts import Seen
from tools.ops_wiring import LOCAL_FOLDER

REASON_LENGTH: Final = 500
BY_LENGTH: Final = 200
# As `clients.py` takes them: no name is the star that stands for all.
_CLIENT: Final = re.compile(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
SEEN: Final = {"released": Seen.RELEASED, "not-released": Seen.QUARANTINED}


def parser() -> argparse.ArgumentParser:
    """Build the parser; `command` names the command."""
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument("--stack", help="the CloudFormation stack, whose outputs name table, queue and secret")
    where.add_argument("--table", help="the table, if not the stack's")
    where.add_argument("--queue-url", help="the queue of hints; without it the sweep goes on, within minutes")
    where.add_argument("--region", help="default: as boto3 finds it")
    where.add_argument("--retention-days", type=int, help="TraceRetentionDays, where no stack tells it; default: 400")
    where.add_argument(
        "--local",
        nargs="?",
        const=str(LOCAL_FOLDER),
        metavar="FOLDER",
        help="the stack that make run serves on this machine",
    )
    where.add_argument(
        "--account", action="append", default=[], help="an account id; default: the secret's first, for pauses all"
    )
    where.add_argument("--json", action="store_true", help="print JSON instead of tables")
    who = argparse.ArgumentParser(add_help=False)
    who.add_argument("--reason", required=True, type=_printable(REASON_LENGTH), help="why; kept in the trace")
    who.add_argument("--by", type=_printable(BY_LENGTH), help="who, beside the identity that is kept anyway")

    parser_ = argparse.ArgumentParser(prog="python -m tools.ops", description="Look at the ledger, and operate it.")
    commands = parser_.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, help_: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=help_, description=help_, parents=[where, *parents])

    command("trace", "what happened to a message").add_argument("message", metavar="MESSAGE")
    command("request", "what a request has come to").add_argument("request", metavar="REQUEST")
    command("open", "what is unconfirmed or in review, oldest first")
    command("pauses", "what is paused, and who set and lifted it")
    settled = command("settle", "say what became of a message that is unconfirmed or in review", who)
    settled.add_argument("message", metavar="MESSAGE")
    settled.add_argument("--as", dest="seen", choices=list(SEEN), required=True, help="as you have found it")
    paused = command("pause", "stop all releases of an account, or of one client", who)
    resumed = command("resume", "lift a pause", who)
    for each in (paused, resumed):
        each.add_argument("--client", type=_client, help="of this client only")
    command("redrive", "ask anew for what failed of a request", who).add_argument("request", metavar="REQUEST")
    return parser_


def _printable(limit: int) -> Callable[[str], str]:
    def text(given: str) -> str:
        if not given.strip() or not given.isprintable() or len(given) > limit:
            raise argparse.ArgumentTypeError(f"must be 1 to {limit} printable characters")
        return given.strip()

    return text


def _client(given: str) -> str:
    if not _CLIENT.match(given):
        raise argparse.ArgumentTypeError("must be the name of a client")
    return given
