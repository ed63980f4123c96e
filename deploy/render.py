"""Writes the Kustomize bases from the Helm chart, so that there is one description of each workload.

`python -m deploy.render` writes `deploy/kubernetes/`; tests hold what is committed against it. Helm's own engine
renders, out of `helm-python-sdk` (`make check-deploy` installs it). The rules of Prometheus need no engine: whoever
changes an alert renders them without.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CHART = HERE / "helm" / "callspool"
BASES = HERE / "kubernetes"
HEAD = "# Rendered from deploy/helm/callspool by `python -m deploy.render`: change that, not this.\n"

_SHARED: Mapping[str, Any] = {"existingSecret": "callspool"}
_ENDPOINT = {"env": {"CALLSPOOL_ENDPOINT_URL": "https://dashboard.example.com/send-call-log"}}
VALUES: Mapping[str, Mapping[str, Any]] = {
    "sidecar": {**_SHARED, **_ENDPOINT, "sidecar": {"enabled": True}},
    "daemonset": {**_SHARED, **_ENDPOINT, "daemonset": {"enabled": True}},
    "receiver": {**_SHARED, "receiver": {"enabled": True}},
    "worker": {**_SHARED, "worker": {"enabled": True}},
    "chaos": {"chaos": {"enabled": True}},
    "monitoring": {"podMonitor": {"enabled": True}},
}
"""What each base is rendered with."""


def manifests(values: Mapping[str, Any], release: str = "callspool") -> dict[str, str]:
    """What the chart gives for these values, by the name of its template; without those that give nothing."""
    import helm_python  # noqa: PLC0415  # only who renders needs it

    with helm_python.Chart.load(str(CHART)) as chart:
        rendered = chart.render(dict(values), name=release, namespace="default")
    found = {name.rpartition("/")[2]: text.strip() for name, text in sorted(rendered.items())}
    return {name: text for name, text in found.items() if text and name != "NOTES.txt"}


def bases() -> Iterator[tuple[Path, str]]:
    """Each file of the bases, with what is in it."""
    for base, values in VALUES.items():
        documents = "\n---\n".join(text.removeprefix("---\n") for text in manifests(values).values())
        yield BASES / base / "callspool.yaml", f"{HEAD}{documents}\n"


def rules() -> tuple[Path, str]:
    """The file of the PrometheusRule, with what is in it: deploy/prometheus/alerts.yml."""
    alerts = (HERE / "prometheus" / "alerts.yml").read_text(encoding="utf-8")
    indented = "".join(f"  {line}" if line.strip() else line for line in alerts.splitlines(keepends=True))
    labels = "".join(f"    app.kubernetes.io/{name}: callspool\n" for name in ("name", "instance"))
    head = "# Rendered from deploy/prometheus/alerts.yml by `python -m deploy.render`: change that, not this.\n"
    about = f"metadata:\n  name: callspool-rules\n  labels:\n{labels}"
    kind = "apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\n"
    return BASES / "monitoring" / "rules.yaml", f"{head}{kind}{about}spec:\n{indented}"


def main() -> None:
    """Write them."""
    try:
        rendered = [rules(), *bases()]
    except ImportError:
        sys.stderr.write("Only the rules: the rest needs Helm's engine (make check-deploy).\n")
        rendered = [rules()]
    for path, text in rendered:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
