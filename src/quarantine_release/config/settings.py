"""The environment, read once into a frozen value: the only reader of os.environ. Holds no secret values."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from urllib.parse import urlsplit

from quarantine_release.domain.call_limit import Mark
from quarantine_release.domain.guard import Guard, Mode
from quarantine_release.domain.policy import DISPOSITIONS, Policy
from quarantine_release.domain.rows import WireForm
from quarantine_release.domain.transitions import Terms

_WHOLE_NUMBER: Final = re.compile(r"\A(?:0|[1-9][0-9]{0,4})\Z")
_LIFETIME: Final = re.compile(r"\A(?:([1-9][0-9]{0,2})h|([1-9][0-9]{0,4})s)\Z")


class SettingsInvalid(Exception):
    """The environment does not hold what the functions need. Names every variable and its rule."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What differs between deployments. `wire_form` None: each id in the form that belongs to its shape.

    `secrets_fresh`: how old a copy of a secret may be before it is fetched again.
    """

    table: str
    cloudflare_secret_id: str
    clients_secret_id: str
    cloudflare_api_base_url: str
    wire_form: WireForm | None
    terms: Terms
    queue_url: str
    marks: Mapping[Mark, int]
    bulk_4xx_is_atomic: bool
    keeps_recipients: bool
    guard: Guard
    secrets_fresh: timedelta

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> "Settings":
        """Read the variables. Raises SettingsInvalid naming every one that is missing or wrong."""
        values, problems = _read(env)
        if problems:
            raise SettingsInvalid("; ".join(problems))
        return cls(
            table=values["TABLE_NAME"],
            cloudflare_secret_id=values["CLOUDFLARE_SECRET_ID"],
            clients_secret_id=values["CLIENTS_SECRET_ID"],
            cloudflare_api_base_url=values["CLOUDFLARE_API_BASE_URL"],
            wire_form=values["CLOUDFLARE_WIRE_FORM"],
            terms=Terms(
                lease=timedelta(seconds=values["LEASE_SECONDS"]),
                settle=timedelta(seconds=values["SETTLE_SECONDS"]),
                retention=timedelta(days=values["RETENTION_DAYS"]),
                request_lifetime=values["EXPIRE_AFTER"],
            ),
            queue_url=values["QUEUE_URL"],
            marks={Mark.INLINE: values["BUDGET_INLINE_CALLS"], Mark.ALL: values["BUDGET_CALLS"]},
            bulk_4xx_is_atomic=values["BULK_4XX_IS_ATOMIC"],
            keeps_recipients=values["KEEP_RECIPIENTS"],
            guard=Guard(
                mode=values["GUARD_MODE"],
                policy=Policy(
                    dispositions=values["GUARD_DISPOSITIONS"],
                    max_age=timedelta(days=values["GUARD_MAX_AGE_DAYS"]) if values["GUARD_MAX_AGE_DAYS"] else None,
                    recipient_domains=values["GUARD_RECIPIENT_DOMAINS"] or None,
                ),
                window=timedelta(days=values["LOOKUP_DAYS"]),
                search_lag=timedelta(seconds=values["SEARCH_LAG_SECONDS"]),
                confirms=values["CONFIRM"],
                keeps_recipients=values["KEEP_RECIPIENTS"],
            ),
            secrets_fresh=timedelta(seconds=values["SECRET_SECONDS"]),
        )


def is_in_lambda(env: Mapping[str, str] = os.environ) -> bool:
    """Say whether this is a Lambda process (Lambda developer guide, "Defined runtime environment variables")."""
    return "AWS_LAMBDA_INITIALIZATION_TYPE" in env


def _read(env: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """Return the values that can be read, and what is wrong with the others: first those that are missing."""
    texts = {name: env.get(name) or setting.default for name, setting in _SETTINGS.items()}
    problems = [f"{name} is not set" for name, text in texts.items() if text is None]
    values = {}
    for name, text in texts.items():
        if text is None:
            continue
        try:
            values[name] = _SETTINGS[name].parse(text)
        except ValueError:
            problems.append(f"{name} {_SETTINGS[name].rule}")
    return values, problems


@dataclass(frozen=True, slots=True)
class _Setting:
    """How one variable is read. `parse` raises ValueError if it does not hold what `rule` says.

    Without a `default` it must be set.
    """

    parse: Callable[[str], Any] = str
    rule: str = ""
    default: str | None = None


def _number(least: int) -> _Setting:
    def parse(text: str) -> int:
        if not _WHOLE_NUMBER.match(text) or int(text) < least:
            raise ValueError
        return int(text)

    return _Setting(parse, f"must be a whole number between {least} and 99999")


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError
    return text == "true"


def _lifetime(text: str) -> timedelta:
    match = _LIFETIME.match(text)
    if match is None:
        raise ValueError
    hours, seconds = match.groups(default="0")
    return timedelta(hours=int(hours), seconds=int(seconds))


def _wire_form(text: str) -> WireForm | None:
    return None if text == "auto" else WireForm(text)


def _listed(text: str) -> frozenset[str]:
    return frozenset(value.strip() for value in text.split(",") if value.strip())


def _dispositions(text: str) -> frozenset[str]:
    dispositions = _listed(text)
    if not dispositions <= DISPOSITIONS:
        raise ValueError
    return dispositions


def _domains(text: str) -> frozenset[str]:
    return frozenset(map(str.lower, _listed(text)))


def _base_url(text: str) -> str:
    """A credential may only travel encrypted, or without leaving the machine. Raises ValueError, also for the port."""
    parts = urlsplit(text)
    is_plain = parts.port != 0 and parts.username is None and parts.password is None
    is_local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    is_encrypted = parts.scheme == "https" or (parts.scheme == "http" and is_local)
    if not (parts.hostname and is_plain and is_encrypted):
        raise ValueError
    return text


_FLAG: Final = _Setting(_flag, "must be true or false")

_SETTINGS: Final = {
    "TABLE_NAME": _Setting(),
    "CLOUDFLARE_SECRET_ID": _Setting(),
    "CLIENTS_SECRET_ID": _Setting(),
    "CLOUDFLARE_API_BASE_URL": _Setting(_base_url, "must be an https URL, or http on this very machine"),
    "CLOUDFLARE_WIRE_FORM": _Setting(_wire_form, "must be auto, array or object"),
    "LEASE_SECONDS": _number(1),
    "SETTLE_SECONDS": _number(1),
    "RETENTION_DAYS": _number(1),
    "EXPIRE_AFTER": _Setting(_lifetime, "must be a whole number of hours or seconds, such as 24h or 90s"),
    "SECRET_SECONDS": _number(1),
    "QUEUE_URL": _Setting(),
    "BUDGET_INLINE_CALLS": _number(0),
    "BUDGET_CALLS": _number(1),
    "BULK_4XX_IS_ATOMIC": _FLAG,
    "KEEP_RECIPIENTS": _FLAG,
    "GUARD_MODE": _Setting(Mode, "must be standard, strict or off"),
    "GUARD_DISPOSITIONS": _Setting(_dispositions, f"must be of {', '.join(sorted(DISPOSITIONS))}"),
    "GUARD_MAX_AGE_DAYS": _number(0),
    "GUARD_RECIPIENT_DOMAINS": _Setting(_domains, default=""),
    "LOOKUP_DAYS": _number(1),
    "SEARCH_LAG_SECONDS": _number(1),
    "CONFIRM": _FLAG,
}
