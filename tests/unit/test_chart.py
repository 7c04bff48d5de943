"""The Helm chart: linted and rendered by Helm itself, and every object held to Kubernetes' own types."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import helm_python as helm
import pytest
import yaml

from charts import schema
from datamount import names
from datamount.controller.metrics import Metrics
from datamount.controller.policy import parse
from datamount.controller.settings import load
from datamount.inject import inject, read_inject_settings
from tests.unit.kubernetes_types import faults

CHART = Path(__file__).parents[2] / "charts" / "datamount"
VALUES = {path.name.removesuffix("-values.yaml"): path for path in sorted((CHART / "ci").glob("*-values.yaml"))}
NAMESPACE = "datamount"
FOREIGN = {
    ("cert-manager.io/v1", "Certificate"),
    ("cert-manager.io/v1", "Issuer"),
    ("monitoring.coreos.com/v1", "ServiceMonitor"),
}
"""Kinds that Kubernetes itself does not have: of cert-manager and of the Prometheus operator."""

Object = dict[str, Any]
by_values = pytest.mark.parametrize("case", VALUES)


def values_of(case: str) -> Object:
    return yaml.safe_load(VALUES[case].read_text(encoding="utf-8"))


def render_files(values: Object, *, release: str = "datamount") -> dict[str, str]:
    with helm.Chart.load(CHART) as chart:
        return chart.render(values, name=release, namespace=NAMESPACE)


def render(values: Object, *, release: str = "datamount") -> list[Object]:
    documents: list[Object] = []
    for name, text in render_files(values, release=release).items():
        if not name.endswith("NOTES.txt"):
            documents += [document for document in yaml.safe_load_all(text) if document]
    return documents


def one(objects: list[Object], kind: str, name: str = "", namespace: str = "") -> Object:
    found = [
        found
        for found in objects
        if found["kind"] == kind
        and (not name or found["metadata"]["name"] == name)
        and (not namespace or found["metadata"].get("namespace") == namespace)
    ]
    assert len(found) == 1, f"{len(found)} of {kind} {name}"
    return found[0]


def minimal(**changes: Any) -> Object:
    return {"sessionNamespaces": ["jhub"], **changes}


# --- Form ---------------------------------------------------------------------------------------------------------


@by_values
def test_helm_lints_without_warning(case: str) -> None:
    """`helm lint --strict` has nothing to say but that there is no icon."""
    report = helm.lint(CHART, values_of(case), strict=True, namespace=NAMESPACE)
    assert report["errors"] == []
    assert [found["error"] for found in report["messages"]] == ["icon is recommended"]


@by_values
def test_objects_fit_kubernetes_types(case: str) -> None:
    """Every object has the fields of its Kubernetes type, of the right form, and no other."""
    for found in render(values_of(case)):
        if (found["apiVersion"], found["kind"]) not in FOREIGN:
            assert faults(found) == [], f"{found['kind']} {found['metadata']['name']}"


def test_unknown_and_misshapen_fields_are_found() -> None:
    """The check of types finds an unknown field, a wrong form and a missing field, at any depth."""
    deployment = one(render(minimal()), "Deployment")
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    container["securityContext"]["privilegd"] = True
    container["ports"][0]["containerPort"] = "8443"
    del container["name"]
    where = "spec.template.spec.containers[0]"
    assert {fault.split(":")[0] for fault in faults(deployment)} == {
        f"{where}.securityContext.privilegd",
        f"{where}.ports[0].containerPort",
        f"{where}.name",
    }


@by_values
def test_names_are_unique_and_labelled(case: str) -> None:
    """No object replaces another, and each says which release it is of."""
    objects = render(values_of(case))
    keys = [(o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]) for o in objects]
    assert len(keys) == len(set(keys))
    for found in objects:
        assert found["metadata"]["labels"]["app.kubernetes.io/instance"] == "datamount"


def test_two_releases_do_not_meet() -> None:
    """Another release in the cluster has other names, of cluster-wide objects too."""

    def keys(release: str) -> set[tuple[str, str]]:
        return {(found["kind"], found["metadata"]["name"]) for found in render(minimal(), release=release)}

    assert not keys("one") & keys("two")


def test_schema_is_that_of_the_models() -> None:
    """values.schema.json is what the models say now (mend: python -m charts.schema)."""
    assert schema.text() == schema.FILE.read_text(encoding="utf-8")


def test_every_value_is_documented() -> None:
    """values.yaml names every key that the schema knows, except the models' own."""
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))

    def missing(given: Any, known: Object, at: str) -> list[str]:
        found = []
        for key, below in known.get("properties", {}).items():
            path = f"{at}{key}"
            if path in ("global", "policy", "inject", "controller", "store"):
                continue
            found += [path] if key not in given else missing(given[key], below, f"{path}.")
        return found

    assert missing(values, schema.schema(), "") == []


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, "sessionNamespaces"),
        ({"sessionNamespaces": ["datamount"]}, "namespace of its own"),
        ({"sessionNamespaces": ["kube-system"]}, "namespace of its own"),
        (minimal(replicaCount=2), "replicaCount"),
        (minimal(inject={"fetch_second": 3}), "fetch_second"),
        (minimal(inject={"image": "mine"}), "image"),
        (minimal(controller={"namespaces": ["all"]}), "namespaces"),
        (minimal(policy={"credentials": {"a": {"mysql": {"host": "h", "admin_pasword": "x"}}}}), "admin_pasword"),
        (minimal(serviceAccount={"create": False}), "serviceAccount.name"),
        (minimal(certificates={"mode": "none"}), "certificates"),
        (minimal(store={"url": "s3://work", "qouta": "1 GB"}), "qouta"),
    ],
)
def test_wrong_values_are_refused(values: Object, told: str) -> None:
    """A wrong value stops `helm install` with its name."""
    with pytest.raises(helm.HelmError, match=re.escape(told)):
        render(values)


# --- What the controller reads --------------------------------------------------------------------------------------


def written(objects: list[Object], folder: Path) -> dict[str, Path]:
    """The ConfigMaps' files, as the pod has them."""
    files = {}
    for found in objects:
        if found["kind"] == "ConfigMap":
            for name, text in found["data"].items():
                files[name] = folder / name
                files[name].write_text(text, encoding="utf-8")
    return files


@by_values
def test_config_maps_load(case: str, tmp_path: Path) -> None:
    """Settings, injection and policy as rendered are valid for the models that read them, at the mounted paths."""
    objects = render(values_of(case))
    files = written(objects, tmp_path)
    settings = load(files["controller.yaml"])
    injection = read_inject_settings(files["inject.yaml"])
    if "existingPolicyConfigMap" not in values_of(case):
        policy = parse(files["policy.yaml"].read_bytes(), "policy.yaml")
        assert set(policy.credentials) == set(values_of(case).get("policy", {}).get("credentials", {}))
    assert settings.namespaces == values_of(case)["sessionNamespaces"]
    assert (settings.store is not None) is ("store" in values_of(case))
    assert settings.namespace == NAMESPACE
    service = one(objects, "Service")["metadata"]["name"]
    assert settings.service == service
    assert injection.controller_url == f"https://{service}.{NAMESPACE}.svc"
    assert settings.tls.webhook == one(objects, "MutatingWebhookConfiguration")["metadata"]["name"]
    assert settings.tls.ca_config_map == injection.ca_config_map
    pod = one(objects, "Deployment")["spec"]["template"]["spec"]
    mounts = [mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]]
    for path in (settings.inject, settings.policy):
        assert str(path.parent) in mounts
    if settings.tls.mode == "files":
        assert str(settings.tls.folder) in mounts
    assert pod["containers"][0]["args"] == ["controller", "--config", "/etc/datamount/settings/controller.yaml"]
    assert settings.port == pod["containers"][0]["ports"][0]["containerPort"]


def test_secrets_of_the_policy_are_mounted(tmp_path: Path) -> None:
    """The files that the policy names are where the chart mounts the Secrets."""
    objects = render(values_of("full"))
    text = written(objects, tmp_path)["policy.yaml"].read_text()
    mounts = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    paths = {mount["mountPath"] for mount in mounts}
    named = {str(Path(path).parent) for path in re.findall(r"/etc/datamount/secrets/\S+", text)}
    assert named == {"/etc/datamount/secrets/mimic2", "/etc/datamount/secrets/bucket"}
    assert named <= paths


def test_what_the_operator_sets_wins(tmp_path: Path) -> None:
    """`false`, 0 and large numbers reach the settings as they are."""
    values = minimal(
        inject={"native_sidecar": False, "default_gid": 0},
        controller={"review_seconds": 0, "max_body": 67108864},
    )
    files = written(render(values), tmp_path)
    injection, settings = read_inject_settings(files["inject.yaml"]), load(files["controller.yaml"])
    assert (injection.native_sidecar, injection.default_gid) == (False, 0)
    assert (settings.review_seconds, settings.max_body) == (0, 67108864)


@pytest.mark.parametrize(
    ("version", "native"), [("v1.28.15-gke.100", False), ("v1.29.0", True), ("v1.29.1-eks-7a", True)]
)
def test_sidecar_fits_the_cluster(tmp_path: Path, version: str, native: bool) -> None:
    """Before Kubernetes 1.29, which drops an init container's restartPolicy, the sidecar is a plain container.

    As an init container it would never end there, and the notebook never start.
    """
    copied = shutil.copytree(CHART, tmp_path / "chart")
    helpers = copied / "templates" / "_helpers.tpl"
    text = helpers.read_text(encoding="utf-8")
    assert ".Capabilities.KubeVersion.Version" in text
    helpers.write_text(text.replace(".Capabilities.KubeVersion.Version", json.dumps(version)), encoding="utf-8")
    with helm.Chart.load(copied) as chart:
        rendered = chart.render(minimal(), name="datamount", namespace=NAMESPACE)
    objects = list(yaml.safe_load_all(rendered["datamount/templates/configmaps.yaml"]))
    assert read_inject_settings(written(objects, tmp_path)["inject.yaml"]).native_sidecar is native


def test_settings_roll_out_and_policy_does_not() -> None:
    """A change of the settings starts new pods; a change of the policy does not."""

    def template(**changes: Any) -> Object:
        return one(render(minimal(**changes)), "Deployment")["spec"]["template"]

    assert template(inject={"fetch_seconds": 30}) != template()
    assert template(policy={"version": 1, "groups": {"g": ["ada"]}}) == template()


# --- Safety -------------------------------------------------------------------------------------------------------


@by_values
def test_pods_are_restricted(case: str) -> None:
    """The controller's pod meets the restricted Pod Security Standard, on a root that cannot be written."""
    pod = one(render(values_of(case)), "Deployment")["spec"]["template"]["spec"]
    assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & pod.keys()
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    allowed = {"configMap", "secret", "emptyDir", "projected"}
    assert all(volume.keys() - {"name"} <= allowed for volume in pod["volumes"])
    for container in pod["containers"] + pod.get("initContainers", []):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert "privileged" not in context
        assert all("hostPort" not in port for port in container["ports"])
        assert {"requests", "limits"} <= container["resources"].keys()
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()


def rules(objects: list[Object], kind: str, namespace: str = "") -> list[tuple[str, ...]]:
    """The rules of the controller's role: "group/resource names: verbs"."""
    found = [o for o in objects if o["kind"] == kind and o["metadata"].get("namespace", "") == namespace]
    assert len(found) == 1
    return sorted(
        f"{','.join(rule['apiGroups'])}/{','.join(rule['resources'])} "
        f"{','.join(rule.get('resourceNames', ['*']))}: {','.join(rule['verbs'])}"
        for rule in found[0]["rules"]
    )


def test_rights_are_exactly_these() -> None:
    """The controller may do what its code does, and nothing else."""
    objects = render(minimal())
    assert rules(objects, "ClusterRole") == [
        "admissionregistration.k8s.io/mutatingwebhookconfigurations datamount: get,patch",
        "authentication.k8s.io/tokenreviews *: create",
    ]
    assert rules(objects, "Role", NAMESPACE) == [
        "/secrets *: create",
        "/secrets datamount-controller-tls: get,update",
    ]
    assert rules(objects, "Role", "jhub") == [
        "/configmaps *: create",
        "/configmaps datamount-ca: get,update",
        "/events *: create",
        "/pods *: get,list",
    ]
    assert {o["metadata"].get("namespace") for o in objects if o["kind"] == "Role"} == {NAMESPACE, "jhub"}


def test_cert_manager_needs_fewer_rights() -> None:
    """With cert-manager the controller touches neither Secrets nor its webhook's configuration."""
    objects = render(values_of("cert-manager"))
    assert rules(objects, "ClusterRole") == ["authentication.k8s.io/tokenreviews *: create"]
    assert {o["metadata"].get("namespace") for o in objects if o["kind"] == "Role"} == {"jhub"}


@by_values
def test_rights_are_bound_to_the_controller_alone(case: str) -> None:
    """Every binding names the pod's own service account, whose token no other pod mounts by itself."""
    objects = render(values_of(case))
    account = one(objects, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"]
    bindings = [found for found in objects if found["kind"].endswith("Binding")]
    assert bindings
    for binding in bindings:
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}]
        kind = binding["kind"].removesuffix("Binding")
        assert one(objects, kind, binding["roleRef"]["name"], binding["metadata"].get("namespace", ""))
    if "serviceAccount" not in values_of(case) or values_of(case)["serviceAccount"].get("create", True):
        assert one(objects, "ServiceAccount")["automountServiceAccountToken"] is False


@by_values
def test_webhook_cannot_stop_a_cluster(case: str) -> None:
    """Only new pods with the label, in the sessions' namespaces, for 2 s at most, and ignored when it fails."""
    values = values_of(case)
    objects = render(values)
    (webhook,) = one(objects, "MutatingWebhookConfiguration")["webhooks"]
    assert webhook["failurePolicy"] == "Ignore"
    assert webhook["timeoutSeconds"] == 2
    assert webhook["sideEffects"] == "None"
    assert webhook["admissionReviewVersions"] == ["v1"]
    assert webhook["rules"] == [
        {
            "operations": ["CREATE"],
            "apiGroups": [""],
            "apiVersions": ["v1"],
            "resources": ["pods"],
            "scope": "Namespaced",
        }
    ]
    assert webhook["objectSelector"]["matchLabels"]["component"] == names.SINGLEUSER_COMPONENT
    wanted = {entry["operator"]: entry["values"] for entry in webhook["namespaceSelector"]["matchExpressions"]}
    assert wanted["In"] == values["sessionNamespaces"]
    assert {NAMESPACE, "kube-system"} <= set(wanted["NotIn"])
    opt_in = values.get("webhook", {}).get("requireNamespaceLabel", True)
    assert ("matchLabels" in webhook["namespaceSelector"]) is opt_in
    service = one(objects, "Service")
    assert webhook["clientConfig"]["service"]["name"] == service["metadata"]["name"]
    assert webhook["clientConfig"]["service"]["port"] == service["spec"]["ports"][0]["port"]
    assert "caBundle" not in webhook["clientConfig"]


@by_values
def test_selectors_meet_the_pods(case: str) -> None:
    """Service, budget, anti-affinity and NetworkPolicies select the Deployment's pods."""
    objects = render(values_of(case))
    template = one(objects, "Deployment")["spec"]["template"]
    labels = template["metadata"]["labels"].items()
    assert one(objects, "Deployment")["spec"]["selector"]["matchLabels"].items() <= labels
    assert one(objects, "Service")["spec"]["selector"].items() <= labels
    for found in objects:
        if found["kind"] == "PodDisruptionBudget":
            assert found["spec"]["selector"]["matchLabels"].items() <= labels
        if found["kind"] == "NetworkPolicy" and found["metadata"]["namespace"] == NAMESPACE:
            assert found["spec"]["podSelector"]["matchLabels"].items() <= labels


def test_two_replicas_on_two_nodes_survive_a_drain() -> None:
    """By default two replicas that avoid one node, of which a drain takes one at a time."""
    objects = render(minimal())
    deployment = one(objects, "Deployment")["spec"]
    assert deployment["replicas"] == 2
    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    (term,) = deployment["template"]["spec"]["affinity"]["podAntiAffinity"][
        "preferredDuringSchedulingIgnoredDuringExecution"
    ]
    assert term["podAffinityTerm"]["topologyKey"] == "kubernetes.io/hostname"
    assert one(objects, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_sessions_reach_the_controller() -> None:
    """The sessions' egress rule leads to the controller's pods and their port, and exists only where it is asked for.

    The first egress policy of a pod denies everything else, so a hub without policies must not get one.
    """
    assert [o for o in render(minimal()) if o["kind"] == "NetworkPolicy" and o["metadata"]["namespace"] == "jhub"] == []
    objects = render(minimal(networkPolicy={"sessions": {"enabled": True}}))
    policy = one(objects, "NetworkPolicy", namespace="jhub")["spec"]
    assert policy["podSelector"] == {"matchLabels": {"component": names.SINGLEUSER_COMPONENT}}
    assert policy["policyTypes"] == ["Egress"]
    (rule,) = policy["egress"]
    pod = one(objects, "Deployment")["spec"]["template"]
    (to,) = rule["to"]
    assert to["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": NAMESPACE}
    assert to["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert rule["ports"][0]["port"] == pod["spec"]["containers"][0]["ports"][0]["name"]


def test_sessions_do_not_reach_the_metrics() -> None:
    """The metrics are on a port of their own, which the sessions' policy does not open and which the controller's opens
    to Prometheus only, or to nobody."""
    pod = one(render(minimal()), "Deployment")["spec"]["template"]["spec"]
    ports = {port["name"]: port["containerPort"] for port in pod["containers"][0]["ports"]}
    assert ports == {"https": 8443, "metrics": 9090}
    for values in (minimal(networkPolicy={"sessions": {"enabled": True}}), values_of("full")):
        opened = [
            (rule.get("from") or rule.get("to"), port["port"])
            for found in render(values)
            if found["kind"] == "NetworkPolicy"
            for rule in [*found["spec"].get("ingress", []), *found["spec"]["egress"]]
            for port in rule["ports"]
        ]
        metrics = [who for who, port in opened if port == "metrics"]
        assert all("component: singleuser-server" not in yaml.safe_dump(who) for who in metrics)
        assert len(metrics) == ("serviceMonitor" in values)
    service = one(render(values_of("full")), "Service")["spec"]
    assert {port["name"]: port["targetPort"] for port in service["ports"]} == {"https": "https", "metrics": "metrics"}


def test_accounts_of_two_releases_are_told_apart() -> None:
    """Each release has a name of its own for its database accounts, which the operator may replace."""

    def installation(release: str, values: Object) -> str:
        found = one(render(values, release=release), "ConfigMap", f"{release}-datamount-settings")
        return str(yaml.safe_load(found["data"]["controller.yaml"])["installation"])

    assert installation("one", minimal()) == f"{NAMESPACE}/one"
    assert installation("two", minimal(controller={"installation": "east"})) == "east"


def test_injected_pod_names_what_the_chart_makes(tmp_path: Path) -> None:
    """A pod that the rendered settings inject mounts the authority's ConfigMap and calls the chart's Service."""
    objects = render(minimal())
    injection = read_inject_settings(written(objects, tmp_path)["inject.yaml"])
    pod = {
        "kind": "Pod",
        "metadata": {"labels": {"component": names.SINGLEUSER_COMPONENT}},
        "spec": {"containers": [{"name": "notebook", "image": "course:1"}]},
    }
    text = json.dumps(inject(pod, injection))
    assert '"name": "datamount-ca"' in text
    assert f"https://datamount-controller.{NAMESPACE}.svc" in text
    assert "ghcr.io/datamount/session:0.1.0" in text


# --- What people read -----------------------------------------------------------------------------------------------


@by_values
def test_notes_name_what_to_set_in_the_hub(case: str, tmp_path: Path) -> None:
    """NOTES.txt tells the label, the grace period, the image to pull before, and the way without a webhook. The image
    is the one of the sessions, as zero-to-jupyterhub's puller puts it together (NAME:TAG)."""
    notes = next(text for name, text in render_files(values_of(case)).items() if name.endswith("NOTES.txt"))
    for wanted in ("delete_grace_period", "extraImages", "modify_pod_hook"):
        assert wanted in notes
    named = re.search(r'name: (\S+)\n +tag: "(\S+)"', notes)
    assert named is not None
    injection = read_inject_settings(written(render(values_of(case)), tmp_path)["inject.yaml"])
    assert f"{named[1]}:{named[2]}" == injection.image
    if values_of(case).get("webhook", {}).get("requireNamespaceLabel", True):
        assert "kubectl label namespace jhub datamount.dev/sessions=enabled" in notes
    assert "{{" not in notes


def test_dashboard_asks_for_metrics_that_exist() -> None:
    """Every metric of the Grafana dashboard is one of the controller's, and the chart carries it unchanged."""
    text = (CHART / "dashboards" / "datamount.json").read_text(encoding="utf-8")
    known = set()
    for family in Metrics().registry.collect():
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        known |= {family.name + suffix for suffix in suffixes}
    asked = set(re.findall(r"\bdatamount_[a-z_]+", text))
    assert asked - known == set()
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in known} == {
        re.sub(r"_(bucket|sum|count)$", "", name) for name in asked
    }, "a metric is not on the dashboard"
    rendered = one(render(values_of("full")), "ConfigMap", "course-data-dashboard")
    assert json.loads(rendered["data"]["datamount.json"]) == json.loads(text)
