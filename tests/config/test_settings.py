"""Tests of the settings themselves: defaults, rules between fields, frozen, secrets masked."""

import pytest
from pydantic import BaseModel, SecretStr, ValidationError

from config.destinations import FileDestination, LaneConcurrency, PipelineDestination, TokenMode
from config.destinations.pipeline import VectorSettings
from config.listeners import IntakeSettings
from config.settings import Settings, WhispeySettings
from config.sources import SourceSettings
from config.tenants import TenantSettings
from config.values import KB, MB, MIB
from tests.config.destinations import http_destination


def test_settings_without_arguments_are_the_documented_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings come from arguments alone: neither variables of the process nor a file are read."""
    monkeypatch.setenv("INTAKE", '{"batch_max_lines": 1}')
    monkeypatch.setenv("CALLSPOOL_INTAKE_BATCH_MAX_LINES", "1")
    settings = Settings()
    assert str(settings.intake.listen) == "127.0.0.1:7717"
    assert str(settings.admin.listen) == "127.0.0.1:7718"
    assert settings.intake.batch_max_lines == 10_000
    assert (settings.intake.memory_budget, settings.intake.inline_max) == (64 * MIB, 16 * MIB)
    assert settings.spool.max_bytes is None
    assert settings.split.two_phase_threshold == 4 * MIB
    assert settings.split.two_phase_raw_threshold == 5 * MIB
    assert settings.split.core_max_bytes == 500 * KB
    assert (settings.shutdown.deadline, settings.shutdown.quiet) == (25.0, 2.0)
    assert settings.destinations == ()


def test_settings_cannot_be_changed() -> None:
    """Checked settings stay as they were checked."""
    settings = Settings()
    with pytest.raises(ValidationError):
        settings.intake.batch_max_lines = 1
    with pytest.raises(ValidationError):
        settings.destinations = ()


@pytest.mark.parametrize(
    ("model", "field", "others"),
    [
        (IntakeSettings, "token", {}),
        (WhispeySettings, "outbox_token", {}),
        (TenantSettings, "endpoint_token", {}),
        (SourceSettings, "token", {"name": "a", "provider": "vapi"}),
        (PipelineDestination, "token", {"name": "a", "type": "pipeline"}),
        (VectorSettings, "token", {}),
    ],
)
def test_a_token_that_no_header_takes_is_refused(model: type[BaseModel], field: str, others: dict[str, object]) -> None:
    """At the start, in place of failing each request."""
    with pytest.raises(ValidationError, match="visible ASCII"):
        model.model_validate({**others, field: "two\nlines"})


def test_an_http_destination_has_the_defaults_of_its_endpoint() -> None:
    """Limits and lanes of an endpoint are those that endpoints are known to have."""
    destination = http_destination()
    assert destination.max_request_bytes == 6 * MB
    assert destination.concurrency == LaneConcurrency(core=8, detail=2)
    assert (destination.connect_timeout, destination.send_timeout) == (10.0, 20.0)
    assert (destination.first_byte_timeout, destination.total_timeout) == (45.0, 120.0)
    retry = destination.retry
    assert (retry.initial, retry.max, retry.give_up_after) == (1.0, 300.0, 86_400.0)


@pytest.mark.parametrize(
    ("fields", "mode"),
    [
        ({}, TokenMode.FORWARD),
        ({"token": "t"}, TokenMode.REPLACE),
        ({"token": "t", "token_mode": "Forward"}, TokenMode.FORWARD),
        ({"token": "t", "token_mode": "replace"}, TokenMode.REPLACE),
    ],
)
def test_the_agents_token_is_forwarded_unless_there_is_one_to_replace_it(
    fields: dict[str, str], mode: TokenMode
) -> None:
    """A destination with a token of its own gets that; without one it gets the agent's."""
    assert http_destination(**fields).token_mode is mode


@pytest.mark.parametrize(
    "shown", [repr, str, lambda value: str(value.model_dump()), lambda value: value.model_dump_json()]
)
def test_a_secret_is_in_no_text_made_of_the_settings(shown: object) -> None:
    """Tokens are masked however the settings are turned into text."""
    assert callable(shown)
    settings = Settings.model_validate(
        {"intake": {"token": "in-secret"}, "destinations": (http_destination(token="out-secret"),)}
    )
    assert "secret" not in shown(settings)
    assert settings.intake.token == SecretStr("in-secret")


def test_a_url_is_in_no_text_made_of_the_settings() -> None:
    """A URL may carry a secret in its query, so that the text of a destination leaves it out."""
    assert "hidden" not in repr(http_destination(url="https://h/x?code=hidden"))


def test_a_smaller_memory_budget_lowers_the_default_of_inline_max() -> None:
    """Who sets only the budget gets no error about a default."""
    assert Settings.model_validate({"intake": {"memory_budget": "8MiB"}}).intake.inline_max == 8 * MIB


@pytest.mark.parametrize(
    "tree",
    [
        {"intake": {"memory_budget": "8MiB", "inline_max": "9MiB"}},
        {"intake": {"batch_max_lines": 0}},
        {"intake": {"token": "two words "}},
        {"intake": {"token": ""}},
        {"spool": {"compression_level": 20}},
        {"spool": {"max_bytes": "10MB", "reserve_for_cores": "6MB"}},
        {"spool": {"when_full": "forget"}},
        {"shutdown": {"deadline": 0}},
        {"log": {"level": "loud"}},
        {"admin": {"listen": "127.0.0.1:7717"}},
        {"destinations": [{"type": "file", "name": "UPPER", "path": "x"}]},
        {"destinations": [{"type": "file", "name": "a" * 33, "path": "x"}]},
        {"destinations": [{"type": "file", "name": "a", "path": "x", "retry": {"initial": "10m"}}]},
        {"destinations": [{"type": "http", "name": "a", "url": "https://h", "token_mode": "replace"}]},
        {"destinations": [{"type": "http", "name": "a", "url": 7}]},
        {"destinations": [{"type": "http", "name": "a", "url": "https://h", "ca_file": "/does/not/exist"}]},
        {"destinations": [{"type": "http", "name": "a", "url": "https://h", "concurrency": {"core": 0}}]},
    ],
)
def test_settings_that_contradict_a_rule_are_refused(tree: dict[str, object]) -> None:
    """No combination that could not work is taken."""
    with pytest.raises(ValidationError):
        Settings.model_validate(tree)


@pytest.mark.parametrize("word", ["none", "OFF"])
def test_none_undoes_an_optional_setting(word: str) -> None:
    """An optional limit can be turned off by word, so that a variable can undo what a file sets."""
    settings = Settings.model_validate({"intake": {"body_max": word}, "spool": {"expire_after": word}})
    assert (settings.intake.body_max, settings.spool.expire_after) == (None, None)
    assert Settings.model_validate({"spool": {"expire_after": "30d"}}).spool.expire_after == 30 * 86_400


def test_a_file_destination_needs_a_name_and_a_path_alone() -> None:
    """A file destination has a default for everything else."""
    destination = FileDestination.model_validate({"type": "file", "name": "local", "path": "delivered"})
    assert destination.concurrency == LaneConcurrency(core=2, detail=1)


def test_rules_of_confirmation_are_read() -> None:
    """`delivered_when` takes a list of rules, or one."""
    listed, alone = (
        http_destination(delivered_when=["/ok == true", "!/errors"]),
        http_destination(delivered_when="/stored"),
    )
    rules = (*listed.delivered_when, *alone.delivered_when)
    assert rules == ("/ok == true", "!/errors", "/stored")


@pytest.mark.parametrize("given", [["ok"], 7, ["/a == b"], ["/ok", 7]])
def test_a_rule_of_confirmation_that_cannot_be_read_is_named(given: object) -> None:
    """A mistake is found at the start, with the setting and what would be right."""
    with pytest.raises(ValidationError, match=r"delivered_when"):
        http_destination(delivered_when=given)
