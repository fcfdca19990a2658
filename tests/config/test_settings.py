"""The environment: all of it is needed, and what is missing or wrong is told at once and by name."""

from datetime import timedelta

import pytest

from quarantine_release.config.settings import Settings, SettingsInvalid
from quarantine_release.domain.call_limit import Mark
from quarantine_release.domain.guard import Guard, Mode
from quarantine_release.domain.policy import Policy
from quarantine_release.domain.rows import WireForm
from quarantine_release.domain.transitions import Terms

ENVIRONMENT = {
    "TABLE_NAME": "ledger",
    "CLOUDFLARE_SECRET_ID": "cloudflare",
    "CLIENTS_SECRET_ID": "clients",
    "CLOUDFLARE_API_BASE_URL": "https://api.cloudflare.com/client/v4",
    "CLOUDFLARE_WIRE_FORM": "auto",
    "LEASE_SECONDS": "90",
    "SETTLE_SECONDS": "120",
    "RETENTION_DAYS": "400",
    "EXPIRE_AFTER": "48h",
    "SECRET_SECONDS": "60",
    "QUEUE_URL": "https://sqs.eu-central-1.amazonaws.com/123456789012/hints",
    "BUDGET_INLINE_CALLS": "300",
    "BUDGET_CALLS": "900",
    "BULK_4XX_IS_ATOMIC": "false",
    "KEEP_RECIPIENTS": "true",
    "GUARD_MODE": "strict",
    "GUARD_DISPOSITIONS": "SPAM,BULK",
    "GUARD_MAX_AGE_DAYS": "7",
    "GUARD_RECIPIENT_DOMAINS": "Example.com, example.net",
    "LOOKUP_DAYS": "14",
    "SEARCH_LAG_SECONDS": "60",
    "CONFIRM": "true",
}


def problems(**changed: str) -> str:
    with pytest.raises(SettingsInvalid) as invalid:
        Settings.from_env(ENVIRONMENT | changed)
    return str(invalid.value)


def test_every_variable_is_read() -> None:
    assert Settings.from_env(ENVIRONMENT) == Settings(
        table="ledger",
        cloudflare_secret_id="cloudflare",
        clients_secret_id="clients",
        cloudflare_api_base_url="https://api.cloudflare.com/client/v4",
        wire_form=None,
        terms=Terms(timedelta(seconds=90), timedelta(seconds=120), timedelta(days=400), timedelta(hours=48)),
        queue_url="https://sqs.eu-central-1.amazonaws.com/123456789012/hints",
        marks={Mark.INLINE: 300, Mark.ALL: 900},
        bulk_4xx_is_atomic=False,
        keeps_recipients=True,
        guard=Guard(
            Mode.STRICT,
            Policy(frozenset({"SPAM", "BULK"}), timedelta(days=7), frozenset({"example.com", "example.net"})),
            window=timedelta(days=14),
            confirms=True,
            search_lag=timedelta(seconds=60),
        ),
        secrets_fresh=timedelta(seconds=60),
    )


def test_the_environment_of_the_process_is_what_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    assert Settings.from_env() == Settings.from_env(ENVIRONMENT)


def test_a_lifetime_in_seconds_is_taken_too() -> None:
    assert Settings.from_env(ENVIRONMENT | {"EXPIRE_AFTER": "90s"}).terms.request_lifetime == timedelta(seconds=90)


@pytest.mark.parametrize(
    "value", ["24", "0h", "0s", "024h", "1000h", "24 h", "1.5h", "-1h", "1d", "24H", "24h\n", "100000s"]
)
def test_a_lifetime_has_a_unit(value: str) -> None:
    said = problems(EXPIRE_AFTER=value)
    assert said == "EXPIRE_AFTER must be a whole number of hours or seconds, such as 24h or 90s"


@pytest.mark.parametrize("form", WireForm)
def test_a_wire_form_may_be_forced(form: WireForm) -> None:
    assert Settings.from_env(ENVIRONMENT | {"CLOUDFLARE_WIRE_FORM": form}).wire_form is form


def test_everything_that_is_missing_is_told_at_once() -> None:
    with pytest.raises(SettingsInvalid) as invalid:
        Settings.from_env({"TABLE_NAME": ""})
    assert str(invalid.value) == "; ".join(
        f"{name} is not set" for name in ENVIRONMENT if name != "GUARD_RECIPIENT_DOMAINS"
    )


@pytest.mark.parametrize(
    "value", ["0", "-1", "1.5", "ninety", "100000", "1" * 20, "000012345678", "\u0661", "90 ", "90\n"]
)
@pytest.mark.parametrize(
    "name", ["LEASE_SECONDS", "SETTLE_SECONDS", "RETENTION_DAYS", "SECRET_SECONDS", "BUDGET_CALLS"]
)
def test_a_number_must_be_a_whole_one_of_a_sensible_size(name: str, value: str) -> None:
    assert problems(**{name: value}) == f"{name} must be a whole number between 1 and 99999"


@pytest.mark.parametrize("value", ["-1", "00", "0.0", "100000", "none", " 0"])
def test_inline_calls_may_be_none_but_not_fewer(value: str) -> None:
    said = problems(BUDGET_INLINE_CALLS=value)
    assert said == "BUDGET_INLINE_CALLS must be a whole number between 0 and 99999"
    assert Settings.from_env(ENVIRONMENT | {"BUDGET_INLINE_CALLS": "0"}).marks[Mark.INLINE] == 0


def test_whether_a_rejected_call_had_no_effect_is_true_or_false() -> None:
    assert Settings.from_env(ENVIRONMENT | {"BULK_4XX_IS_ATOMIC": "true"}).bulk_4xx_is_atomic
    for value in ("True", "1", "yes", " true"):
        assert problems(BULK_4XX_IS_ATOMIC=value) == "BULK_4XX_IS_ATOMIC must be true or false"


def test_whether_recipients_are_kept_is_true_or_false() -> None:
    assert Settings.from_env(ENVIRONMENT).keeps_recipients
    without = Settings.from_env(ENVIRONMENT | {"KEEP_RECIPIENTS": "false"})
    assert (without.keeps_recipients, without.guard.keeps_recipients) == (False, False)
    assert problems(KEEP_RECIPIENTS="no") == "KEEP_RECIPIENTS must be true or false"


def test_the_largest_number_is_accepted() -> None:
    assert Settings.from_env(ENVIRONMENT | {"RETENTION_DAYS": "99999"}).terms.retention == timedelta(days=99999)


def test_an_unknown_wire_form_is_told() -> None:
    assert problems(CLOUDFLARE_WIRE_FORM="list") == "CLOUDFLARE_WIRE_FORM must be auto, array or object"


@pytest.mark.parametrize(
    "url", ["https://example.com/v4", "http://localhost:1", "http://127.0.0.1:8080/x", "http://[::1]:1"]
)
def test_a_credential_may_travel_encrypted_or_within_the_machine(url: str) -> None:
    assert Settings.from_env(ENVIRONMENT | {"CLOUDFLARE_API_BASE_URL": url}).cloudflare_api_base_url == url


@pytest.mark.parametrize(
    "url",
    ["http://api.cloudflare.com", "http://localhost.example.com", "ftp://localhost", "https://", "x", "https://[::1"],
)
def test_a_credential_may_not_travel_anywhere_else(url: str) -> None:
    said = problems(CLOUDFLARE_API_BASE_URL=url)
    assert said == "CLOUDFLARE_API_BASE_URL must be an https URL, or http on this very machine"


def test_several_problems_are_told_together() -> None:
    said = problems(TABLE_NAME="", LEASE_SECONDS="x", CLOUDFLARE_WIRE_FORM="x")
    assert said.count(";") == 2


def test_what_the_guard_is_told_is_checked() -> None:
    assert problems(GUARD_MODE="loose") == "GUARD_MODE must be standard, strict or off"
    assert problems(GUARD_DISPOSITIONS="SPAM,HAM").startswith("GUARD_DISPOSITIONS must be of BULK, ")
    assert problems(CONFIRM="maybe") == "CONFIRM must be true or false"
    without = Settings.from_env(ENVIRONMENT | {"GUARD_MAX_AGE_DAYS": "0", "GUARD_RECIPIENT_DOMAINS": ""}).guard.policy
    assert (without.max_age, without.recipient_domains) == (None, None)
