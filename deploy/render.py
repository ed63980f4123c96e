"""Writes the Kustomize bases from the Helm chart, so that there is one description of each workload.

`python -m deploy.render` writes `deploy/kubernetes/`; a test holds what is committed against it. Helm's own engine
renders, out of `helm-python-sdk` (requirements-deploy.lock).
"""

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
    "monitoring": {"podMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}},
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


def main() -> None:
    """Write them."""
    for path, text in bases():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
