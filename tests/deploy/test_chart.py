"""The Helm chart and the Kustomize bases, rendered by Helm's own engine and held against the schemas of Kubernetes."""

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from config.catalogue import variables
from config.values import parse_duration
from tests.project.repository import ROOT, text, tracked

pytest.importorskip("helm_python", reason="make check-deploy installs helm-python-sdk")
pytest.importorskip("kubernetes_validate", reason="make check-deploy installs kubernetes-validate")

import helm_python
import kubernetes_validate

from deploy.render import BASES, CHART, VALUES, bases, manifests, rules

VERSIONS = ("1.29", "1.37")
"""The oldest that the chart allows, and the newest whose schemas are there."""
OF_THE_OPERATOR = {"PodMonitor", "PrometheusRule"}
"""Of Prometheus's operator: Kubernetes has no schemas of them."""
EVERYTHING: dict[str, Any] = {
    "image": {"repository": "registry.example.com/callspool", "digest": f"sha256:{'0' * 64}"},
    "imagePullSecrets": [{"name": "registry"}],
    "config": '[[destinations]]\nname = "evacuation"\ntype = "s3"\nbucket = "b"\nstandby = true\n',
    "env": {"CALLSPOOL_ENDPOINT_URL": "https://dashboard.example.com/send-call-log"},
    "existingSecret": "callspool",
    "traces": {"endpoint": "http://collector:4318", "sampleRatio": 0.1},
    "serviceAccountName": "uploads",
    "shutdown": {"deadline": "110s", "evacuateTo": "evacuation", "evacuateWithin": "30s"},
    "sidecar": {"enabled": True, "storage": "emptyDir", "agent": {"image": "a", "ports": [{"containerPort": 8081}]}},
    "daemonset": {"enabled": True, "nodeSelector": {"calls": "yes"}, "tolerations": [{"operator": "Exists"}]},
    "receiver": {"enabled": True},
    "worker": {"enabled": True},
    "orphans": ["spool-callspool-sidecar-3"],
    "chaos": {"enabled": True, "storageClassName": "fast"},
    "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
    "dashboards": {"enabled": True},
}
WAYS = {**VALUES, "everything": EVERYTHING}


def documents(values: Any) -> list[dict[str, Any]]:
    """The objects that the chart gives."""
    return [each for part in manifests(values).values() for each in yaml.safe_load_all(part) if each]


@pytest.fixture(params=WAYS)
def objects(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return documents(WAYS[request.param])


def pods(objects: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each object that makes pods, with their template."""
    for each in objects:
        template = each.get("spec", {}).get("template")
        if template is not None:
            yield each, template


def containers(template: dict[str, Any]) -> list[dict[str, Any]]:
    return [*template["spec"].get("initContainers", ()), *template["spec"]["containers"]]


def test_the_bases_are_what_the_chart_gives() -> None:
    """Whoever changes the chart renders them again; the drawer has no others."""
    wanted = dict(bases())
    assert {path: path.read_text(encoding="utf-8") for path in wanted} == wanted, "run `python -m deploy.render`"
    there = {ROOT / path for path in tracked() if path.is_relative_to(BASES.relative_to(ROOT))}
    kustomizations = {path.with_name("kustomization.yaml") for path in wanted}
    assert there == {*wanted, *kustomizations, rules()[0], BASES / "README.md"}
    for path in kustomizations:
        named = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert named["kind"] == "Kustomization"
        assert all((path.parent / name).exists() for name in named["resources"])


def test_helm_finds_no_fault_with_the_chart() -> None:
    """`helm lint`, but for the missing icon."""
    found = helm_python.lint(str(CHART))
    assert found["errors"] == []
    assert [message["error"] for message in found["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize("version", VERSIONS)
def test_each_object_is_one_of_kubernetes(objects: list[dict[str, Any]], version: str) -> None:
    """Every field is known and of its type, in the oldest version and in the newest."""
    for each in objects:
        if each["kind"] not in OF_THE_OPERATOR:
            kubernetes_validate.validate(each, version, strict=True)


def test_a_field_that_kubernetes_does_not_know_is_found() -> None:
    """The check above is strict: a name that is misspelt fails it."""
    (each,) = [one for one in documents(VALUES["worker"]) if one["kind"] == "Deployment"]
    wrong = copy.deepcopy(each)
    wrong["spec"]["template"]["spec"]["terminationGracePeriodSecond"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)


@pytest.mark.parametrize(
    "values",
    [
        {"recevier": {"enabled": True}},
        {"sidecar": {"storage": "nfs"}},
        {"image": {"repository": "callspool", "digest": "latest"}},
        {"terminationGracePeriodSeconds": 5},
    ],
)
def test_values_that_mean_nothing_are_refused(values: Any) -> None:
    """A key that is misspelt, or a value that cannot be, is an error of `helm install`."""
    with pytest.raises(helm_python.HelmError):
        manifests(values)


def test_no_container_can_do_more_than_it_must(objects: list[dict[str, Any]]) -> None:
    """Not root, nothing of the image written, no capability, no token of Kubernetes, and every size has its limit; one
    container that ends at once gives a directory of the node to callspool's user."""
    for _, template in pods(objects):
        assert template["spec"]["automountServiceAccountToken"] is False
        for one in containers(template):
            if one["name"] == "agent":
                continue
            rights = one["securityContext"]
            assert rights["readOnlyRootFilesystem"]
            assert not rights["allowPrivilegeEscalation"]
            assert rights["capabilities"]["drop"] == ["ALL"]
            assert rights["seccompProfile"] == {"type": "RuntimeDefault"}
            assert {"memory", "ephemeral-storage"} <= one["resources"]["limits"].keys()
            if one["name"] == "own-the-directory":
                assert set(rights["capabilities"]["add"]) == {"CHOWN", "FOWNER", "DAC_OVERRIDE"}
            else:
                assert (rights["runAsNonRoot"], rights["runAsUser"]) == (True, 10001)
                assert "add" not in rights["capabilities"]
        for volume in template["spec"].get("volumes", ()):
            assert "emptyDir" not in volume or volume["emptyDir"]["sizeLimit"]


def test_what_is_named_is_there(objects: list[dict[str, Any]]) -> None:
    """Ports of probes and services, volumes that are mounted, pods that selectors select: each is in its pod."""
    labels = [template["metadata"]["labels"] for _, template in pods(objects)]
    for owner, template in pods(objects):
        claims = {each["metadata"]["name"] for each in owner["spec"].get("volumeClaimTemplates", ())}
        volumes = claims | {each["name"] for each in template["spec"].get("volumes", ())}
        assert owner["spec"].get("selector", {}).get("matchLabels", template["metadata"]["labels"]).items() <= (
            template["metadata"]["labels"].items()
        )
        for one in containers(template):
            ports = {port["name"] for port in one.get("ports", ()) if "name" in port}
            probes = [one[name] for name in ("startupProbe", "livenessProbe", "readinessProbe") if name in one]
            assert {probe["httpGet"]["port"] for probe in probes} <= ports
            assert {mount["name"] for mount in one.get("volumeMounts", ())} <= volumes
    for each in objects:
        selector = each["spec"].get("podSelector", {}).get("matchLabels") if "spec" in each else None
        selector = each["spec"]["selector"] if each["kind"] == "Service" else selector
        assert selector is None or any(selector.items() <= found.items() for found in labels), each["metadata"]["name"]


def test_every_pod_has_a_network_policy(objects: list[dict[str, Any]]) -> None:
    """What may reach it is said; the node's credentials cannot be reached by what callspool alone is in."""
    policies = [each["spec"] for each in objects if each["kind"] == "NetworkPolicy"]
    for _, template in pods(objects):
        labels = template["metadata"]["labels"]
        mine = [one for one in policies if one["podSelector"]["matchLabels"].items() <= labels.items()]
        assert len(mine) == 1
        blocks = [to["ipBlock"] for rule in mine[0].get("egress", ()) for to in rule.get("to", ())]
        assert all("169.254.169.254/32" in one.get("except", ()) for one in blocks if one["cidr"] == "0.0.0.0/0")


def test_a_pod_has_time_to_end(objects: list[dict[str, Any]]) -> None:
    """The gateway's own deadline, and a drain before it, end before Kubernetes kills the pod."""
    for owner, template in pods(objects):
        grace = template["spec"]["terminationGracePeriodSeconds"]
        for one in containers(template):
            found = {each["name"]: each["value"] for each in one.get("env", ())}
            deadline = parse_duration(found.get("CALLSPOOL_SHUTDOWN_DEADLINE", "0s"))
            assert deadline < grace, owner["metadata"]["name"]
            if one["name"] != "callspool" or owner["kind"] in {"Job", "DaemonSet"}:
                continue
            if any(volume.get("emptyDir", {}) and volume["name"] == "spool" for volume in template["spec"]["volumes"]):
                assert found["CALLSPOOL_SHUTDOWN_UNTIL"] == "empty"


def test_only_settings_that_exist_are_set(objects: list[dict[str, Any]]) -> None:
    """callspool refuses unknown variables."""
    named = {
        each["name"] for _, template in pods(objects) for one in containers(template) for each in one.get("env", ())
    }
    assert {name for name in named if name.startswith("CALLSPOOL_")} <= variables()


def test_every_workload_is_told_where_spans_go() -> None:
    """With a collector each callspool sends its spans, but that of the chaos Job; without one nobody does."""
    for values, wanted in ((EVERYTHING, True), (EVERYTHING | {"traces": {"endpoint": ""}}, False)):
        for owner, template in pods(documents(values)):
            named = {each["name"] for one in containers(template) for each in one.get("env", ())}
            if "chaos" not in owner["metadata"]["name"]:
                assert ("CALLSPOOL_TRACES_ENDPOINT" in named) == wanted, owner["metadata"]["name"]


def test_the_rules_are_those_of_the_one_file() -> None:
    """The PrometheusRule holds deploy/prometheus/alerts.yml."""
    (rule,) = [each for each in documents(EVERYTHING) if each["kind"] == "PrometheusRule"]
    assert rule["spec"] == yaml.safe_load(text("deploy/prometheus/alerts.yml"))


def test_the_dashboards_are_those_of_grafana() -> None:
    """Each ConfigMap that Grafana's sidecar collects holds a file of deploy/grafana, as it is."""
    found = {
        name: content
        for each in documents(EVERYTHING)
        if each["kind"] == "ConfigMap"
        for name, content in each["data"].items()
    }
    for name in ("gateway.json", "fleet.json"):
        assert json.loads(found[name]) == json.loads(text(f"deploy/grafana/{name}"))


def test_prometheus_finds_the_pods() -> None:
    """The monitor selects what the workloads are labelled with, and names the job as the alerts do."""
    (monitor,) = [each for each in documents(VALUES["monitoring"]) if each["kind"] == "PodMonitor"]
    selector = monitor["spec"]["selector"]["matchLabels"].items()
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    for name in ("sidecar", "daemonset", "receiver", "worker"):
        (template,) = [template for _, template in pods(documents(VALUES[name]))]
        assert selector <= template["metadata"]["labels"].items()
        assert endpoint["port"] in {port["name"] for one in containers(template) for port in one.get("ports", ())}
    job = next(each["replacement"] for each in endpoint["relabelings"] if each["targetLabel"] == "job")
    assert re.search(rf'up\{{job="{job}"\}}', text("deploy/prometheus/alerts.yml"))
