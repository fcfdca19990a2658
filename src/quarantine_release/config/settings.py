"""The environment, read once into a frozen value: the only reader of os.environ. Holds no secret values."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from urllib.parse import urlsplit

from quarantine_release.domain.call_limit import Mark
from quarantine_release.domain.guard import Guard, Mode
from quarantine_release.domain.policy import DISPOSITIONS, Policy
from quarantine_release.domain.rows import WireForm
from quarantine_release.domain.transitions import Terms

_NAMES: Final = (
    "TABLE_NAME",
    "CLOUDFLARE_SECRET_ID",
    "CLIENTS_SECRET_ID",
    "CLOUDFLARE_API_BASE_URL",
    "CLOUDFLARE_WIRE_FORM",
    "LEASE_SECONDS",
    "SETTLE_SECONDS",
    "RETENTION_DAYS",
    "EXPIRE_AFTER",
    "SECRET_SECONDS",
    "QUEUE_URL",
    "BUDGET_INLINE_CALLS",
    "BUDGET_CALLS",
    "BULK_4XX_IS_ATOMIC",
    "KEEP_RECIPIENTS",
    "GUARD_MODE",
    "GUARD_DISPOSITIONS",
    "GUARD_MAX_AGE_DAYS",
    "LOOKUP_DAYS",
    "SEARCH_LAG_SECONDS",
    "CONFIRM",
)

_NUMBERS: Final = (
    "LEASE_SECONDS",
    "SETTLE_SECONDS",
    "RETENTION_DAYS",
    "SECRET_SECONDS",
    "BUDGET_INLINE_CALLS",
    "BUDGET_CALLS",
    "GUARD_MAX_AGE_DAYS",
    "LOOKUP_DAYS",
    "SEARCH_LAG_SECONDS",
)

_WHOLE_NUMBER: Final = re.compile(r"\A(?:0|[1-9][0-9]{0,4})\Z")

_LIFETIME: Final = re.compile(r"\A(?:([1-9][0-9]{0,2})h|([1-9][0-9]{0,4})s)\Z")

_FLAGS: Final = ("BULK_4XX_IS_ATOMIC", "KEEP_RECIPIENTS", "CONFIRM")

# Nothing is said of what is not set, which is said already.
_FLAG_VALUES: Final = ("true", "false", "", None)

_MAY_BE_0: Final = ("BUDGET_INLINE_CALLS", "GUARD_MAX_AGE_DAYS")


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
        problems = [f"{name} is not set" for name in _NAMES if not env.get(name)]
        numbers: dict[str, int] = {}
        for name in _NUMBERS:
            value, least = env.get(name, ""), 0 if name in _MAY_BE_0 else 1
            if _WHOLE_NUMBER.match(value) and int(value) >= least:
                numbers[name] = int(value)
            elif value:
                problems.append(f"{name} must be a whole number between {least} and 99999")
        lifetime = _LIFETIME.match(env.get("EXPIRE_AFTER", ""))
        if env.get("EXPIRE_AFTER") and lifetime is None:
            problems.append("EXPIRE_AFTER must be a whole number of hours or seconds, such as 24h or 90s")
        flags = {name: env.get(name) for name in _FLAGS}
        problems += [f"{name} must be true or false" for name, value in flags.items() if value not in _FLAG_VALUES]
        form = env.get("CLOUDFLARE_WIRE_FORM", "")
        if form and form not in ("auto", *WireForm):
            problems.append("CLOUDFLARE_WIRE_FORM must be auto, array or object")
        mode = env.get("GUARD_MODE", "")
        if mode and mode not in set(Mode):
            problems.append("GUARD_MODE must be standard, strict or off")
        dispositions = frozenset(_listed(env, "GUARD_DISPOSITIONS"))
        if not dispositions <= DISPOSITIONS:
            problems.append(f"GUARD_DISPOSITIONS must be of {', '.join(sorted(DISPOSITIONS))}")
        base_url = env.get("CLOUDFLARE_API_BASE_URL", "")
        if base_url and not _is_safe(base_url):
            problems.append("CLOUDFLARE_API_BASE_URL must be an https URL, or http on this very machine")
        if problems:
            raise SettingsInvalid("; ".join(problems))
        return cls(
            table=env["TABLE_NAME"],
            cloudflare_secret_id=env["CLOUDFLARE_SECRET_ID"],
            clients_secret_id=env["CLIENTS_SECRET_ID"],
            cloudflare_api_base_url=base_url,
            wire_form=None if form == "auto" else WireForm(form),
            terms=Terms(
                lease=timedelta(seconds=numbers["LEASE_SECONDS"]),
                settle=timedelta(seconds=numbers["SETTLE_SECONDS"]),
                retention=timedelta(days=numbers["RETENTION_DAYS"]),
                request_lifetime=_duration(lifetime),
            ),
            queue_url=env["QUEUE_URL"],
            marks={Mark.INLINE: numbers["BUDGET_INLINE_CALLS"], Mark.ALL: numbers["BUDGET_CALLS"]},
            bulk_4xx_is_atomic=env["BULK_4XX_IS_ATOMIC"] == "true",
            keeps_recipients=env["KEEP_RECIPIENTS"] == "true",
            guard=Guard(
                mode=Mode(mode),
                policy=Policy(
                    dispositions=dispositions,
                    max_age=timedelta(days=numbers["GUARD_MAX_AGE_DAYS"]) if numbers["GUARD_MAX_AGE_DAYS"] else None,
                    recipient_domains=frozenset(map(str.lower, _listed(env, "GUARD_RECIPIENT_DOMAINS"))) or None,
                ),
                window=timedelta(days=numbers["LOOKUP_DAYS"]),
                search_lag=timedelta(seconds=numbers["SEARCH_LAG_SECONDS"]),
                confirms=env["CONFIRM"] == "true",
                keeps_recipients=env["KEEP_RECIPIENTS"] == "true",
            ),
            secrets_fresh=timedelta(seconds=numbers["SECRET_SECONDS"]),
        )


def is_in_lambda(env: Mapping[str, str] = os.environ) -> bool:
    """Say whether this is a Lambda process (Lambda developer guide, "Defined runtime environment variables")."""
    return "AWS_LAMBDA_INITIALIZATION_TYPE" in env


def _duration(match: re.Match[str] | None) -> timedelta:
    hours, seconds = match.groups() if match else (None, None)
    return timedelta(hours=int(hours or 0), seconds=int(seconds or 0))


def _listed(env: Mapping[str, str], name: str) -> list[str]:
    return [value.strip() for value in env.get(name, "").split(",") if value.strip()]


def _is_safe(url: str) -> bool:
    """Say whether a credential may travel there: encrypted, or without leaving the machine."""
    try:
        parts = urlsplit(url)
        is_plain = parts.port != 0 and parts.username is None and parts.password is None
    except ValueError:  # also of a port that is none
        return False
    is_local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    is_encrypted = parts.scheme == "https" or (parts.scheme == "http" and is_local)
    return bool(parts.hostname) and is_plain and is_encrypted
