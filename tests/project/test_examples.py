"""The examples under deploy/ and the image: they name only settings and metrics that exist."""

import re
from pathlib import Path

import pytest
import yaml

from config.catalogue import variables
from deploy.render import rules
from gateway.runbooks import RUNBOOK_OF, Runbook
from tests.project.repository import text, tracked
from tests.project.surface import metrics

EXAMPLES = [path for path in tracked() if path.parts[0] == "deploy" or path.name == "Dockerfile"]


@pytest.mark.parametrize("path", EXAMPLES, ids=str)
def test_an_example_names_only_settings_that_exist(path: Path) -> None:
    """Every CALLSPOOL_ variable in an example is known to the configuration, which refuses unknown ones."""
    assert set(re.findall(r"\bCALLSPOOL_[A-Z0-9_]+", text(path))) <= variables()


def test_the_alerts_watch_only_metrics_that_exist() -> None:
    """An alert on a metric that nobody writes would never fire."""
    rules = yaml.safe_load(text("deploy/prometheus/alerts.yml"))["groups"][0]["rules"]
    watched = {name for rule in rules for name in re.findall(r"\bcallspool_\w+", rule["expr"])}
    assert watched
    series = {f"{name}_bucket" for name, (kind, _) in metrics().items() if kind == "histogram"}
    assert watched <= metrics().keys() | series


def test_the_kustomize_base_has_these_alerts() -> None:
    """Whoever changes an alert renders its PrometheusRule, which needs nothing but Python."""
    path, rendered = rules()
    assert path.read_text(encoding="utf-8") == rendered, "run `python -m deploy.render`"
    assert yaml.safe_load(rendered)["spec"] == yaml.safe_load(text("deploy/prometheus/alerts.yml"))


def test_each_alert_leads_to_its_runbook() -> None:
    """Who is woken finds what to do: each alert, command and message names a section that there is."""
    sections = {
        f"docs/runbooks.md#{re.sub(r'[^a-z0-9 -]', '', line[3:].lower()).replace(' ', '-')}"
        for line in text("docs/runbooks.md").splitlines()
        if line.startswith("## ")
    }
    rules = yaml.safe_load(text("deploy/prometheus/alerts.yml"))["groups"][0]["rules"]
    assert {rule["annotations"]["runbook"] for rule in rules} | set(Runbook) <= sections
    assert {rule["alert"] for rule in rules} <= set(re.findall(r"`(Callspool\w+)`", text("docs/runbooks.md")))
    code = [text(path) for path in tracked() if path.suffix == ".py" and path.parts[0] in {"gateway", "uploaders"}]
    logged = {name for each in code for name in re.findall(r"log\.(?:warning|error)\(\s*\"(\w+)\"", each)}
    codes = {
        name for each in code for name in re.findall(r"\b(?:Rejection|refused|_full)\(\s*(?:\d+,\s*)?\"(\w+)\"", each)
    }
    assert RUNBOOK_OF.keys() <= logged | codes | {"spool_full", "no_gateway"}
    assert not any("runbooks.md#" in each for each in code if "class Runbook(" not in each)


YAML = [path for path in EXAMPLES if path.suffix in {".yml", ".yaml"} and path.parent.name != "templates"]
"""Templates are rendered in tests/deploy."""


@pytest.mark.parametrize("path", YAML, ids=str)
def test_an_example_is_valid_yaml(path: Path) -> None:
    """Every example can be read."""
    assert all(isinstance(document, dict) for document in yaml.safe_load_all(text(path)))


def test_the_image_runs_as_a_number_and_stops_by_sigterm() -> None:
    """Kubernetes can verify that it is not root, and a stop reaches the drain."""
    assert re.search(r"^USER \d+:\d+$", text("Dockerfile"), re.MULTILINE)
    assert re.search(r"^STOPSIGNAL SIGTERM$", text("Dockerfile"), re.MULTILINE)
    assert re.search(r"^VOLUME /var/lib/callspool$", text("Dockerfile"), re.MULTILINE)


def test_the_image_is_built_from_nothing_but_what_it_needs() -> None:
    """.dockerignore starts from nothing, and names all that the Dockerfile's build reads."""
    lines = text(".dockerignore").splitlines()
    assert lines[1] == "*"
    kept = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert {"gateway", "spool", "uploaders", "config", "pyproject.toml", "README.md", "LICENSE"} <= kept
    assert {"requirements-image.lock", "requirements-build.lock"} <= kept
