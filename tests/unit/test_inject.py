"""Injection, whole pods compared: each file in `pods/` is settings, a pod, and what becomes of it (or why not).

After a change that is meant, `DATAMOUNT_WRITE_PODS=1 pytest tests/unit/test_inject.py` writes the results anew; read
the difference before you commit it.
"""

from __future__ import annotations

import copy
import cProfile
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from datamount import names
from datamount.cli import app
from datamount.controller.webhook import review
from datamount.errors import UsageError
from datamount.inject import SEED_SCRIPT, InjectSettings, inject, read_inject_settings, why_not

PODS = Path(__file__).with_name("pods")
FILES = sorted(PODS.glob("*.yaml"))
OURS = (names.SEED_CONTAINER, names.FETCH_CONTAINER, names.SIDECAR_CONTAINER)
WRITE = os.environ.get("DATAMOUNT_WRITE_PODS") == "1"
FUZZ = int(os.environ.get("DATAMOUNT_FUZZ_STEPS", "300"))


def load(file: Path) -> tuple[InjectSettings, Any, Any]:
    options, pod, expected = yaml.safe_load_all(file.read_text(encoding="utf-8"))
    return InjectSettings.model_validate(options), pod, expected


def shown(pod: Any) -> Any:
    """The pod with the seed script abbreviated."""
    pod = copy.deepcopy(pod)
    for container in pod["spec"]["initContainers"]:
        if "command" in container:
            container["command"] = ["<seed.sh>" if part == SEED_SCRIPT else part for part in container["command"]]
    return pod


class Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def write(file: Path, documents: list[Any]) -> None:
    why = file.read_text(encoding="utf-8").splitlines()[0]
    titles = ("", "--- # before\n", "--- # after\n")
    text = "".join(
        title + yaml.dump(document, Dumper=Dumper, sort_keys=False, default_flow_style=None, width=118)
        for title, document in zip(titles, documents, strict=True)
    )
    file.write_text(f"{why}\n{text}", encoding="utf-8")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_pod_becomes_what_its_file_shows(file: Path) -> None:
    """Each pod of the table becomes exactly the pod beside it, keys in the same order; the argument is not changed."""
    options, pod, expected = load(file)
    before = copy.deepcopy(pod)
    injected = inject(pod, options)
    assert pod == before
    if isinstance(expected, str):
        assert injected is pod
        assert why_not(pod, options) == expected
        return
    if WRITE:
        write(file, [json.loads(options.model_dump_json(exclude_defaults=True)), pod, shown(injected)])
        _, _, expected = load(file)
    assert why_not(pod, options) is None
    assert shown(injected) == expected
    assert json.dumps(shown(injected)) == json.dumps(expected), "the order of the keys"


def test_the_table_is_large_enough() -> None:
    """At least 40 pods are compared as a whole."""
    assert len([file for file in FILES if not isinstance(load(file)[2], str)]) >= 40


@pytest.mark.parametrize("name", ["z2jh", "binderhub"])
def test_the_table_has_the_pods_of_the_installed_kubespawner(name: str) -> None:
    """The pods of the table that are said to be KubeSpawner's are what the installed KubeSpawner makes."""
    import asyncio

    pytest.importorskip("kubespawner", reason="pip install jupyterhub-kubespawner")
    from kubernetes_asyncio.client import ApiClient

    from tests.unit import kubespawner_pods

    async def serialised() -> Any:
        async with ApiClient() as client:
            return client.sanitize_for_serialization(getattr(kubespawner_pods, f"{name}_pod")())

    _, pod, _ = load(PODS / f"kubespawner-{name}.yaml")
    assert pod == asyncio.run(serialised())


def injected_pods() -> list[tuple[str, InjectSettings, Any]]:
    found = []
    for file in FILES:
        options, pod, expected = load(file)
        if not isinstance(expected, str):
            found.append((file.stem, options, inject(pod, options)))
    return found


INJECTED = injected_pods()


def of(pod: Any, *kinds: str) -> list[Any]:
    return [container for kind in kinds for container in pod["spec"].get(kind) or ()]


def ours(pod: Any) -> list[Any]:
    """The containers that were added: those with a script or command of ours."""
    found = []
    for container in of(pod, "initContainers", "containers"):
        command = container.get("command")  # of the pod's own, it may be anything
        if isinstance(command, list) and (SEED_SCRIPT in command or "datamount.pod" in command):
            found.append(container)
    return found


@pytest.mark.parametrize(("name", "options", "pod"), INJECTED, ids=[name for name, _, _ in INJECTED])
def test_what_holds_for_every_injected_pod(name: str, options: InjectSettings, pod: Any) -> None:
    """Every injected pod: is left alone a second time; has no two volumes, containers or mount paths of one name;
    mounts only volumes it has; has requests and limits on, and a restricted security context in, each of our
    containers; and shows its notebook neither our state nor our token."""
    assert inject(pod, options) is pod
    volumes = [volume["name"] for volume in pod["spec"]["volumes"]]
    assert len(volumes) == len(set(volumes))
    everyone = of(pod, "initContainers", "containers")
    assert len(everyone) == len({container["name"] for container in everyone})
    for container in ours(pod):
        mounts = container["volumeMounts"]
        assert {mount["name"] for mount in mounts} <= set(volumes)
        assert len(mounts) == len({mount["mountPath"].rstrip("/") for mount in mounts})
        for key in ("requests", "limits"):
            assert set(container["resources"][key]) == {"cpu", "memory"}
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["readOnlyRootFilesystem"] is True
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert security.get("runAsUser") != 0
        assert security.get("runAsNonRoot") or "runAsUser" not in security
        if "datamount.pod" in container["command"]:
            assert security["runAsNonRoot"] is True
    notebook = next(c for c in pod["spec"]["containers"] if c["name"] == "notebook" or c.get("ports"))
    paths = [mount["mountPath"].rstrip("/") for mount in notebook["volumeMounts"]]
    assert len(paths) == len(set(paths))
    private = (names.STATE_VOLUME, names.COURSE_VOLUME, names.TOKEN_VOLUME, names.CREDENTIALS_VOLUME)
    assert not [m for m in notebook["volumeMounts"] if m["name"].startswith(private)]
    added = [m for m in notebook["volumeMounts"] if m["name"].startswith("datamount-") and "home" not in m["name"]]
    assert all(mount.get("readOnly") for mount in added)
    assert SEED_SCRIPT not in json.dumps(notebook)


@pytest.mark.parametrize(("name", "options", "pod"), INJECTED, ids=[name for name, _, _ in INJECTED])
def test_kubespawner_still_finds_the_notebook_port(name: str, options: InjectSettings, pod: Any) -> None:
    """In no injected pod a container of ours without ports stands before the notebook."""
    for container in pod["spec"]["containers"]:
        if any(port.get("name") == names.NOTEBOOK_PORT for port in container.get("ports") or ()):
            return
        assert container["name"] not in OURS
        assert container not in ours(pod)


# The pod of unknown fields is left out: its own fields are made up, and the models would drop them.
OF_KNOWN_FIELDS = [case for case in INJECTED if case[0] != "unknown-fields"]


@pytest.mark.parametrize(("name", "options", "pod"), OF_KNOWN_FIELDS, ids=[name for name, _, _ in OF_KNOWN_FIELDS])
def test_the_pod_is_of_the_kubernetes_models(name: str, options: InjectSettings, pod: Any) -> None:
    """What is added to a pod are fields that Kubernetes knows, with values of its types."""
    from kubernetes.client import V1Pod

    # KubeSpawner gives quantities as numbers, which the API server takes and the models do not.
    pod = json.loads(re.sub(r'("(?:memory|cpu)"): ([0-9.]+)', r'\1: "\2"', json.dumps(pod)))
    back = V1Pod.from_dict(pod).model_dump(mode="json", by_alias=True, exclude_none=True)

    def lost(before: Any, after: Any, path: str) -> list[str]:
        if isinstance(before, dict):
            gone = [f"{path}.{key}" for key in before if key not in after and before[key] is not None]
            return gone + [p for key in before if key in after for p in lost(before[key], after[key], f"{path}.{key}")]
        if isinstance(before, list):
            return [p for i, (b, a) in enumerate(zip(before, after, strict=True)) for p in lost(b, a, f"{path}[{i}]")]
        return [] if before == after else [f"{path}: {before!r} {after!r}"]

    assert lost(pod, back, "pod") == []


def test_the_seed_script_survives_the_kubelet() -> None:
    """Nothing in the seed script is a reference that the kubelet would fill in: it expands $(NAME) in commands."""
    assert "$$" not in SEED_SCRIPT
    assert not re.search(r"\$\([A-Za-z_][A-Za-z0-9_.-]*\)", SEED_SCRIPT)


# --- Anything at all --------------------------------------------------------------------------------------------

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
)
CONTAINER_KEYS = ["name", "image", "env", "value", "valueFrom", "fieldRef", "volumeMounts", "mountPath", "subPathExpr"]
SECURITY_KEYS = ["ports", "securityContext", "runAsUser", "runAsGroup", "runAsNonRoot", "command", "os"]
POD_KEYS = ["containers", "initContainers", "volumes", "labels", "annotations", "metadata", "spec", "kind"]
KEYS = st.sampled_from([*CONTAINER_KEYS, *SECURITY_KEYS, *POD_KEYS])
WORDS = st.sampled_from(
    ["notebook", "notebook-port", "datamount-home", "/home/jovyan", "/data", "/run", "$(A)", "A", "1000", "Pod", ""]
)
plausible = st.recursive(
    scalars | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=4), inner, max_size=6),
    max_leaves=20,
)


BEFORE = [load(file)[1] for file in FILES]


@st.composite
def mangled(draw: st.DrawFn) -> Any:
    """A pod of the table in which something, anywhere, is something else."""
    pod = copy.deepcopy(draw(st.sampled_from(BEFORE)))
    for _ in range(draw(st.integers(1, 3))):
        node, key = None, None
        current: Any = pod
        while isinstance(current, dict | list) and current and (node is None or draw(st.integers(0, 4))):
            node = current
            key = (
                draw(st.sampled_from(sorted(current)))
                if isinstance(current, dict)
                else draw(st.integers(0, len(current) - 1))
            )
            current = node[key]
        if node is not None:
            node[key] = draw(plausible)
    return pod


MODES = [
    InjectSettings(),
    InjectSettings(controller_url="https://c", native_sidecar=False, cache_host_path="/c"),
    InjectSettings(image_volumes=True, credentials_secret="s", store="s3://b", store_secret="x"),
]


@settings(max_examples=FUZZ, deadline=None, suppress_health_check=list(HealthCheck))
@given(pod=anything | plausible | mangled(), options=st.sampled_from(MODES))
@example(pod=json.loads("[" * 900 + "]" * 900), options=MODES[0])
@example(pod={"spec": None}, options=MODES[0])
def test_no_json_at_all_breaks_it(pod: Any, options: InjectSettings) -> None:
    """Whatever JSON comes in: it comes back as it is, or whole and injected; nothing is raised, the input is not
    changed, and a second pass does nothing."""
    before = json.dumps(pod)
    injected = inject(pod, options)
    assert json.dumps(pod) == before
    if injected is pod:
        assert why_not(pod, options)
        return
    assert why_not(pod, options) is None
    assert injected["metadata"]["annotations"][names.ANNOTATION_STATUS] == names.STATUS_INJECTED
    assert len(ours(injected)) >= (2 if options.image_volumes else 3)
    assert inject(injected, options) is injected
    json.dumps(injected)


# --- Settings and the command -------------------------------------------------------------------------------------


def test_settings_are_read_from_yaml(tmp_path: Path) -> None:
    """A settings file's keys are the fields of InjectSettings; an empty file is all defaults."""
    file = tmp_path / "inject.yaml"
    file.write_text("controller_url: https://c.svc\nfetch_seconds: 30\nallow_addresses: [10.0.0.0/8]\n")
    found = read_inject_settings(file)
    assert (found.controller_url, found.fetch_seconds, found.allow_addresses) == ("https://c.svc", 30, ("10.0.0.0/8",))
    file.write_text("")
    assert read_inject_settings(file) == InjectSettings()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("imagge: x", "imagge"),
        ("fetch_seconds: -1", "fetch_seconds"),
        ("allow_addresses: [x]", "allow_addresses"),
        ("home: relative", "home"),
        ("default_uid: 0", "default_uid"),
        ("[1]", "file"),
        ("a: [", "not YAML"),
    ],
)
def test_wrong_settings_name_the_key(tmp_path: Path, text: str, says: str) -> None:
    """A wrong settings file is refused with the name of what is wrong."""
    file = tmp_path / "inject.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match=re.escape(says)):
        read_inject_settings(file)
    with pytest.raises(UsageError, match="cannot be read"):
        read_inject_settings(tmp_path / "none")


def run(text: str, *arguments: str) -> Any:
    return CliRunner().invoke(app, ["inject", *arguments], input=text)


def test_the_command_keeps_the_form(tmp_path: Path) -> None:
    """YAML in, YAML out; JSON in, JSON out; Lists and several documents; what is no pod is printed as it was; the
    settings file counts; a date stays a string."""
    options, pod, _ = load(PODS / "plain.yaml")
    pod["metadata"]["creationTimestamp"] = "2026-01-02T03:04:05Z"
    injected = inject(pod, options)
    other = {"kind": "ConfigMap", "data": {"b": "on", "a": "0x1"}}
    as_yaml = run(yaml.safe_dump(pod, sort_keys=False))
    assert (as_yaml.exit_code, yaml.load(as_yaml.stdout, yaml.BaseLoader)) == (
        0,
        yaml.load(yaml.safe_dump(injected, sort_keys=False), yaml.BaseLoader),
    )
    assert json.loads(run(json.dumps(pod)).stdout) == injected
    assert list(json.loads(run(json.dumps(pod)).stdout)["spec"]) == list(injected["spec"])
    listed = {"kind": "List", "items": [pod, other]}
    assert json.loads(run(json.dumps(listed)).stdout) == {"kind": "List", "items": [injected, other]}
    several = run(yaml.safe_dump_all([other, pod], sort_keys=False))
    first, second = yaml.safe_load_all(several.stdout)
    assert (first, second["spec"]) == (other, injected["spec"])
    unquoted = run(yaml.safe_dump(pod, sort_keys=False).replace("'2026-01-02T03:04:05Z'", "2026-01-02T03:04:05Z"))
    assert yaml.safe_load(unquoted.stdout)["metadata"]["creationTimestamp"] == "2026-01-02T03:04:05Z"
    file = tmp_path / "pod.json"
    file.write_text(json.dumps(pod))
    chosen = tmp_path / "inject.yaml"
    chosen.write_text("image: mine:1\n")
    printed = run("", str(file), "--settings", str(chosen)).stdout
    assert json.loads(printed) == inject(pod, InjectSettings(image="mine:1"))


def test_the_command_says_why_a_pod_is_left_alone(tmp_path: Path) -> None:
    """A pod that is not injected is printed as it was, with the reason on stderr; a file that is neither JSON nor
    YAML is a usage error."""
    done = run('{"kind": "Pod", "metadata": {"name": "x"}}')
    assert json.loads(done.stdout) == {"kind": "Pod", "metadata": {"name": "x"}}
    assert "x is left as it is: its label component is not singleuser-server" in done.stderr
    assert run("a: [").exit_code != 0
    assert isinstance(run("", str(tmp_path / "none")).exception, UsageError)


def session_pod(**notebook: Any) -> Any:
    return {
        "kind": "Pod",
        "metadata": {"name": "jupyter-ada", "labels": {"component": "singleuser-server"}},
        "spec": {"containers": [{"name": "notebook", "image": "course:1"} | notebook]},
    }


def filled_in(value: str, variables: dict[str, str]) -> str:
    """What the kubelet makes of a variable's value (kubernetes/third_party/forked/golang/expansion)."""
    known = re.compile(r"\$(?:(\$)|\(([^()]*)\))")
    return known.sub(lambda found: "$" if found[1] else variables.get(found[2], found[0]), value)


def test_what_a_user_typed_is_not_filled_in() -> None:
    """A repo's URL or ref that names a variable of our containers does not get its value: the store's key would be
    shown to the student as the course's address."""
    ref = "$(AWS_SECRET_ACCESS_KEY)"
    url = f"https://evil.example/{ref}/${ref}/$HOME.git"
    environment = [{"name": "BINDER_REPO_URL", "value": url}, {"name": "BINDER_REF_URL", "value": f"{url}/tree/{ref}"}]
    options = InjectSettings(store="s3://work", store_secret="store")
    containers = [c for c in ours(inject(session_pod(env=environment), options)) if "envFrom" in c]
    assert len(containers) == 2
    for container in containers:
        secret = {"AWS_SECRET_ACCESS_KEY": "planted"}
        seen = {entry["name"]: filled_in(entry.get("value", ""), secret) for entry in container["env"]}
        assert (seen[names.ENV_COURSE_URL], seen[names.ENV_COURSE_REF]) == (url, ref)
        assert "planted" not in json.dumps(seen)


def test_our_volume_is_not_the_one_that_a_pod_means() -> None:
    """A mount of a volume that the pod does not have stays without one, though ours would have had its name."""
    mounts = [{"name": name, "mountPath": f"/x/{name}"} for name in (names.TOKEN_VOLUME, names.STATE_VOLUME)]
    injected = inject(session_pod(volumeMounts=mounts), InjectSettings(controller_url="https://c"))
    assert not {mount["name"] for mount in mounts} & {volume["name"] for volume in injected["spec"]["volumes"]}


def test_a_mount_that_only_a_privileged_notebook_may_have() -> None:
    """A home that the notebook mounts into both ways is mounted into our containers one way: Kubernetes refuses pods
    whose containers without privileges ask for more."""
    home = {"name": "home", "mountPath": "/home/jovyan", "mountPropagation": "Bidirectional"}
    pod = session_pod(volumeMounts=[home], securityContext={"privileged": True})
    pod["spec"]["volumes"] = [{"name": "home", "emptyDir": {}}]
    injected = inject(pod, InjectSettings())
    asked = [mount.get("mountPropagation") for c in ours(injected) for mount in c["volumeMounts"]]
    assert set(asked) == {None, "HostToContainer"}
    assert of(injected, "containers")[0]["volumeMounts"][0] == home


def test_datasets_leave_room_on_a_limited_disk() -> None:
    """Where the pod limits what it takes of the node's disk, datasets get half of that: all volumes count."""
    pod = session_pod(resources={"limits": {"ephemeral-storage": "8Gi"}})
    given = {entry["name"]: entry.get("value") for entry in ours(inject(pod, InjectSettings()))[-1]["env"]}
    assert given[names.ENV_DATA_BYTES] == str(4 << 30)
    assert given[names.ENV_STATE_BYTES] == str(1 << 30)
    unbounded = InjectSettings(data_size=None, state_size=None)
    given = {entry["name"]: entry.get("value") for entry in ours(inject(session_pod(), unbounded))[-1]["env"]}
    assert not {names.ENV_DATA_BYTES, names.ENV_STATE_BYTES} & given.keys()


def test_limits_of_the_whole_pod_stay_enough() -> None:
    """Where a pod has requests and limits as a whole, our containers have none of their own that could exceed them."""
    pod = session_pod()
    pod["spec"]["resources"] = {"limits": {"cpu": "1", "memory": "1Gi"}}
    assert not [container for container in ours(inject(pod, InjectSettings())) if "resources" in container]


def hostile(count: int) -> dict[str, Any]:
    """Parts of a notebook container that take long to look through, where looking is done in the wrong way."""
    return {
        "names": {"volumeMounts": [{"name": f"datamount-data-{n}", "mountPath": f"/x/{n}"} for n in range(count)]},
        "paths": {"volumeMounts": [{"name": "x", "mountPath": f"/datamount-{n}/data"} for n in range(count)]},
        "variables": {"env": [{"name": f"V{n}" if n % 2 else "DATAMOUNT_DATA", "value": "x"} for n in range(count)]},
    }


@pytest.mark.parametrize("part", hostile(0))
def test_no_pod_takes_long_to_look_through(part: str) -> None:
    """Whatever a stranger sends to the webhook costs little: lists as long as no session's are left alone, and the work
    for the longest that is not grows with its length only."""
    options = InjectSettings()
    longest, longer = (session_pod(**hostile(count)[part]) for count in (1000, 1001))
    assert "over 1000 entries" in (why_not(longer, options) or "")

    def steps(pod: Any) -> int:
        """Python's function calls on the way to the patch."""
        profile = cProfile.Profile()
        profile.runcall(review, json.dumps(as_review(pod)).encode(), lambda pod: inject(pod, options))
        return sum(entry.callcount for entry in profile.getstats())

    assert steps(longest) < 15 * steps(session_pod(**hostile(100)[part]))


def as_review(pod: Any) -> Any:
    request = {"uid": "u", "kind": {"group": "", "version": "v1", "kind": "Pod"}, "operation": "CREATE", "object": pod}
    return {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request}
