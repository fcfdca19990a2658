"""What a deployment or a client allows to leave quarantine. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final

# Their senders mean harm; who releases such a mail says so with `override`.
HARMFUL: Final = frozenset({"MALICIOUS", "MALICIOUS-BEC"})
DISPOSITIONS: Final = HARMFUL | {"SUSPICIOUS", "SPOOF", "SPAM", "BULK", "ENCRYPTED", "EXTERNAL", "UNKNOWN", "NONE"}


@dataclass(frozen=True, slots=True)
class Policy:
    """What may be released. None: any. Ages are those of the mail, domains those of all its recipients.

    `keeps_unread`: dispositions are a rule that somebody has written down, which holds for what cannot be read too.
    """

    dispositions: frozenset[str] | None = None
    max_age: timedelta | None = None
    recipient_domains: frozenset[str] | None = None
    is_strict: bool = False
    keeps_unread: bool = False

    def with_stricter(self, other: "Policy | None") -> "Policy":
        """Return what both allow."""
        if other is None:
            return self
        ages = [age for age in (self.max_age, other.max_age) if age is not None]
        return Policy(
            _both(self.dispositions, other.dispositions),
            min(ages) if ages else None,
            _both(self.recipient_domains, other.recipient_domains),
            self.is_strict or other.is_strict,
            self.keeps_unread or other.keeps_unread,
        )


DEFAULT_POLICY: Final = Policy(dispositions=DISPOSITIONS - HARMFUL)


def for_request(deployment: Policy, own: Policy | None, *, override: bool, is_strict: bool) -> Policy:
    """Return what a request is held to: by the deployment, and by its client's own policy.

    A list of dispositions that somebody has written counts for what cannot be read too. The default list does not.
    `override` passes every rule on dispositions.
    """
    is_listed = deployment.dispositions != DEFAULT_POLICY.dispositions
    is_listed |= own is not None and own.dispositions is not None
    policy = deployment.with_stricter(own)
    return replace(policy, is_strict=policy.is_strict or is_strict, keeps_unread=is_listed and not override)


def _both(one: frozenset[str] | None, other: frozenset[str] | None) -> frozenset[str] | None:
    if one is None or other is None:
        return other if one is None else one
    return one & other


def parse_policy(entry: Mapping[str, Any]) -> Policy:
    """Read a policy as a client's entry has it. Raises ValueError naming the member and the rule."""
    unknown = entry.keys() - {"dispositions", "max_age_days", "recipient_domains", "strict"}
    if unknown:  # a rule that is misspelt would be no rule
        raise ValueError("policy: may hold dispositions, max_age_days, recipient_domains and strict, and nothing else")
    days = entry.get("max_age_days")
    if days is not None and (type(days) is not int or not 1 <= days <= 365):
        raise ValueError("policy: max_age_days must be a whole number from 1 to 365")
    strict = entry.get("strict", False)
    if not isinstance(strict, bool):
        raise ValueError("policy: strict must be true or false")
    dispositions = _names(entry, "dispositions")
    if dispositions is not None and not dispositions <= DISPOSITIONS:
        raise ValueError(f"policy: dispositions must be of {', '.join(sorted(DISPOSITIONS))}")
    domains = _names(entry, "recipient_domains")
    return Policy(
        dispositions,
        timedelta(days=days) if days is not None else None,
        frozenset(name.lower() for name in domains) if domains is not None else None,
        strict,
    )


def policy_entry(policy: Policy) -> dict[str, Any]:
    """Return a policy as `parse_policy` reads it."""
    entry: dict[str, Any] = {"strict": True} if policy.is_strict else {}
    for name, values in (("dispositions", policy.dispositions), ("recipient_domains", policy.recipient_domains)):
        if values is not None:
            entry[name] = sorted(values)
    if policy.max_age is not None:
        entry["max_age_days"] = policy.max_age.days
    return entry


def _names(entry: Mapping[str, Any], member: str) -> frozenset[str] | None:
    values = entry.get(member)
    if values is None:
        return None
    if not isinstance(values, list) or not all(isinstance(value, str) and value for value in values):
        raise ValueError(f"policy: {member} must be a list of texts")
    return frozenset(values)
