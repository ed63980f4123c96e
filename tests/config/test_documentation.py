"""Tests of the settings' own documentation."""

import re

import pytest

from config.catalogue import (
    HEADER,
    Setting,
    destination_rows,
    destination_settings,
    scalar_settings,
    setting_rows,
    variables,
)
from config.loader import effective_settings, load, read_environment
from tests.config.conftest import WriteFile

STABLE_VARIABLES = {
    "CALLSPOOL_ENDPOINT_URL": "destinations[type=http].url",
    "CALLSPOOL_ENDPOINT_TOKEN": "destinations[type=http].token",
    "CALLSPOOL_S3_BUCKET": "destinations[type=s3].bucket",
    "CALLSPOOL_S3_ENDPOINT_URL": "destinations[type=s3].endpoint_url",
    "CALLSPOOL_S3_PREFIX": "destinations[type=s3].prefix",
    "CALLSPOOL_SPOOL_DIR": "spool.dir",
    "CALLSPOOL_INTAKE_LISTEN": "intake.listen",
    "CALLSPOOL_ADMIN_LISTEN": "admin.listen",
    "CALLSPOOL_INTAKE_TOKEN": "intake.token",
    "CALLSPOOL_TWO_PHASE_THRESHOLD": "split.two_phase_threshold",
    "CALLSPOOL_TWO_PHASE_RAW_THRESHOLD": "split.two_phase_raw_threshold",
    "CALLSPOOL_CORE_MAX_BYTES": "split.core_max_bytes",
    "CALLSPOOL_SPOOL_MAX_BYTES": "spool.max_bytes",
    "CALLSPOOL_MEMORY_BUDGET": "intake.memory_budget",
}
"""The names that others build on."""


@pytest.mark.parametrize("setting", [*scalar_settings(), *destination_settings()], ids=lambda setting: setting.key)
def test_every_setting_is_documented(setting: Setting) -> None:
    """Every setting has a sentence that says what it is for."""
    assert re.fullmatch(r"[^|\n]{10,220}\.", setting.meaning), setting.meaning


def test_every_setting_outside_the_destinations_has_a_variable_of_its_own() -> None:
    """Each has exactly one variable, no two the same, and setting it reaches that setting and no other."""
    settings = scalar_settings()
    assert len({setting.variable for setting in settings}) == len(settings)
    for setting in settings:
        assert setting.variable is not None
        layer = read_environment({setting.variable: "7"})
        assert layer.origins == {setting.path: setting.variable}


def test_the_stable_variables_keep_their_names() -> None:
    """The variables that others build on stand for the settings that they always stood for."""
    named = {setting.variable: setting.key for setting in (*destination_settings(), *scalar_settings())}
    assert {name: named.get(name) for name in STABLE_VARIABLES} == STABLE_VARIABLES
    assert set(STABLE_VARIABLES) < variables()


def test_the_table_has_one_row_for_each_setting() -> None:
    """The documentation names each setting once, with its variable and its default."""
    rows = setting_rows()
    assert len(rows) == len(scalar_settings()) + 2
    columns = HEADER[0].count("|")
    assert all(row.count("|") == columns for row in (*rows, *destination_rows()))
    assert "| `intake.memory_budget` | `CALLSPOOL_MEMORY_BUDGET` | `64MiB` |" in "\n".join(rows)
    assert "| `destinations[type=file].path` | - | - |" in "\n".join(destination_rows())


def test_what_is_in_effect_is_listed_with_its_origin_and_without_secrets() -> None:
    """Every setting is listed as it is in effect; tokens and query values are masked."""
    environment = {
        "CALLSPOOL_ENDPOINT_URL": "https://host/x?code=hidden",
        "CALLSPOOL_ENDPOINT_TOKEN": "hidden",
        "CALLSPOOL_INTAKE_TOKEN": "hidden",
        "CALLSPOOL_SPOOL_MAX_BYTES": "10 GiB",
    }
    listed = {each.key: each for each in effective_settings(load(None, environment, local=True))}
    assert "hidden" not in "".join(each.value for each in listed.values())
    maximum = listed["spool.max_bytes"]
    assert (maximum.value, maximum.origin) == ("10GiB", "CALLSPOOL_SPOOL_MAX_BYTES")
    assert listed["log.level"].origin == "default"
    assert listed["destinations[endpoint].token"].value == "***"
    assert listed["destinations[endpoint].encoding"].value == "auto"
    assert listed["destinations[local].path"].value == "./callspool-data/delivered"
    assert listed["destinations[local].path"].origin == "--local"
    assert {setting.key for setting in scalar_settings()} <= set(listed)


def test_tenants_are_listed_as_well(write_file: WriteFile) -> None:
    """Whose calls they are is a setting like any other: shown with its origin, and without secrets."""
    file = write_file("""
        [tenants.acme]
        agents = ["acme-*", "a-1"]
        read_token = "hidden-hidden-hidden"
        redaction.detect = ["email"]
    """)
    listed = {each.key: each for each in effective_settings(load(file, {}, local=True))}
    assert "hidden" not in "".join(each.value for each in listed.values())
    assert listed["tenants.acme.read_token"].value == "***"
    agents = listed["tenants.acme.agents"]
    assert (agents.value, agents.origin) == ("acme-*, a-1", str(file))
    assert listed["tenants.acme.redaction.detect"].value == "email"
    assert listed["tenants.acme.weight"].origin == "default"
