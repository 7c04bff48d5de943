"""What a pod of unknown shape is, as far as injection needs to know: read once, checked, or left alone.

Nothing here changes the pod, and nothing is assumed of it but that it is JSON.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import count
from pathlib import PurePosixPath
from typing import Any

from datamount import names
from datamount.inject.settings import InjectSettings

Object = dict[str, Any]

_REFERENCE = re.compile(r"(?<!\$)\$\(([^()]+)\)")
_VOLUMES = (
    names.HOME_VOLUME,
    names.DATA_VOLUME,
    names.RUN_VOLUME,
    names.STATE_VOLUME,
    names.COURSE_VOLUME,
    names.JUPYTER_VOLUME,
    names.TOKEN_VOLUME,
    names.CREDENTIALS_VOLUME,
    names.CACHE_VOLUME,
    names.IMAGE_VOLUME,
    names.EXTENSION_VOLUME,
)
_OUR_FOLDERS = (
    names.STATE_DIR,
    names.COURSE_DIR,
    names.SEED_HOME_DIR,
    names.IMAGE_DIR,
    names.CACHE_DIR,
    names.TOKEN_DIR,
    names.CREDENTIALS_DIR,
    names.JUPYTER_DIR,
)
_CONTAINERS = (names.SEED_CONTAINER, names.FETCH_CONTAINER, names.SIDECAR_CONTAINER)


MOST = 1000
"""Entries of a list that is looked at. No session has so many; whoever reaches the webhook's port could send any
number, and finding what changed between two long lists takes time that grows with their square."""


class LeftAlone(Exception):
    """The pod is not one of ours, or not one that can be changed without doubt."""


@dataclass(frozen=True)
class Plan:
    """What was found in a pod, and the names that are free in it."""

    pod: Object
    settings: InjectSettings
    notebook: Object
    home: str
    home_mount: Object | None
    """The notebook's mount that covers the home; None where home is in the image."""
    uid: int
    gid: int
    own_uid: int | None
    own_gid: int | None
    """Of the notebook, where the pod fixes them and they are not root."""
    non_root: bool
    data_dir: str
    run_dir: str
    jupyter_dir: str
    volumes: Mapping[str, str]
    containers: Mapping[str, str]
    home_env: Sequence[Object] = field(default=())
    """Variables that the home mount's subPathExpr is made of."""


def read_pod(pod: Any, settings: InjectSettings) -> Plan:
    """The plan for this pod. Raises LeftAlone with the reason, and RecursionError for what is nested too deeply."""
    _dict(pod, "the pod")
    if pod.get("kind", "Pod") != "Pod":
        raise LeftAlone("it is not a Pod")
    metadata = _dict(pod.get("metadata"), "metadata")
    annotations = _strings(metadata.get("annotations"), "metadata.annotations")
    labels = _strings(metadata.get("labels"), "metadata.labels")
    spec = _dict(pod.get("spec"), "spec")
    containers = _named(spec.get("containers"), "spec.containers")
    init_containers = _named(spec.get("initContainers"), "spec.initContainers")
    volumes = _named(spec.get("volumes"), "spec.volumes")
    wanted = annotations.get(names.ANNOTATION_INJECT)
    if wanted == "false":
        raise LeftAlone(f"its annotation {names.ANNOTATION_INJECT} says so")
    if names.ANNOTATION_STATUS in annotations:
        raise LeftAlone("it is injected already")
    if labels.get("component") != settings.component and wanted != "true":
        raise LeftAlone(f"its label component is not {settings.component}")
    if _dict(spec.get("os"), "spec.os").get("name") == "windows":
        raise LeftAlone("it is a Windows pod")
    if spec.get("shareProcessNamespace") is True or spec.get("hostPID") is True:
        # The notebook runs as the same user: through /proc it could read the sidecar's token.
        raise LeftAlone("its containers share their processes, so our token would not be safe from the notebook")
    notebook = _notebook(containers)
    everyone = containers + init_containers
    # A mount of a volume that is not there counts as well: ours must not become the volume that it means.
    mounted = [mount for container in everyone for mount in _named(container.get("volumeMounts"), "volumeMounts")]
    environment = _named(notebook.get("env"), "env")
    if not isinstance(notebook.get("image"), str) or not notebook["image"]:
        raise LeftAlone("its notebook container has no image")
    if not isinstance(notebook.get("imagePullPolicy", ""), str):
        raise LeftAlone("its imagePullPolicy is not a string")
    for entry in environment:
        if not isinstance(entry.get("value", ""), str | None):
            raise LeftAlone("a variable of its notebook container is not a string")
    mounts = _mounts(notebook)
    home = _home(annotations.get(names.ANNOTATION_HOME, settings.home))
    home_mount = _covering(home, mounts)
    shared = home_mount["mountPath"] if home_mount else home
    if any(_within(shared, path) or _within(path, shared) for path in _OUR_FOLDERS):
        raise LeftAlone(f"its home {shared} is where our own folders are")
    own_uid, own_gid = _identity(spec, notebook)
    uid = own_uid or _number_of(environment, "NB_UID") or settings.default_uid
    gid = own_gid if own_gid is not None else _number_of(environment, "NB_GID") or settings.default_gid
    taken = [mount["mountPath"] for mount in mounts] + [home]
    return Plan(
        pod=pod,
        settings=settings,
        notebook=notebook,
        home=home,
        home_mount=home_mount,
        uid=uid,
        gid=gid,
        # A notebook that starts as root goes on as another user, who has to own what is copied.
        own_uid=uid if own_uid == 0 else own_uid,
        own_gid=gid if own_uid == 0 else own_gid,
        non_root=_non_root(spec, notebook),
        data_dir=_free_path(names.DATA_DIR, taken),
        run_dir=_free_path(names.RUN_DIR, taken),
        jupyter_dir=_free_path(names.EXTENSION_DIR if settings.image_volumes else names.JUPYTER_DIR, taken),
        volumes=_free_names(_VOLUMES, {entry["name"] for entry in (*volumes, *mounted)}),
        containers=_free_names(_CONTAINERS, {container["name"] for container in everyone}),
        home_env=_home_variables(home_mount, environment),
    )


def _dict(value: Any, what: str) -> Object:
    """A mapping with string keys; an absent one is empty."""
    if value is None and what != "the pod":
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise LeftAlone(f"{what} is not an object")
    return value


def _strings(value: Any, what: str) -> dict[str, str]:
    found = _dict(value, what)
    if not all(isinstance(entry, str) for entry in found.values()):
        raise LeftAlone(f"{what} has a value that is not a string")
    return found


def _named(value: Any, what: str) -> list[Object]:
    """A list of objects that each have a name; an absent one is empty."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise LeftAlone(f"{what} is not a list")
    if len(value) > MOST:
        raise LeftAlone(f"{what} has over {MOST} entries")
    for entry in value:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise LeftAlone(f"{what} has an entry without a name")
    return value


def _notebook(containers: Sequence[Object]) -> Object:
    """The container named `notebook`, else the one with the port `notebook-port`."""
    for container in containers:
        if container["name"] == names.NOTEBOOK_CONTAINER:
            return container
    for container in containers:
        ports = container.get("ports") or []
        if isinstance(ports, list) and any(
            isinstance(port, dict) and port.get("name") == names.NOTEBOOK_PORT for port in ports
        ):
            return container
    raise LeftAlone(f"it has no container {names.NOTEBOOK_CONTAINER!r} and no port {names.NOTEBOOK_PORT!r}")


def _mounts(container: Object) -> list[Object]:
    mounts = _named(container.get("volumeMounts"), "volumeMounts")
    if not all(isinstance(mount.get("mountPath"), str) for mount in mounts):
        raise LeftAlone("a volume mount of its notebook container has no path")
    return mounts


def _home(value: str) -> str:
    path = PurePosixPath(value)
    if not path.is_absolute() or path == PurePosixPath("/") or ".." in path.parts or re.search(r"[\x00:$]", value):
        raise LeftAlone(f"{value!r} is not a usable home folder")
    return str(path)


def _covering(home: str, mounts: Sequence[Object]) -> Object | None:
    """The mount that the home is on: its own, or the nearest one above it."""
    above = [mount for mount in mounts if _within(home, mount["mountPath"])]
    return max(above, key=lambda mount: len(PurePosixPath(mount["mountPath"]).parts), default=None)


def _within(path: str, folder: str) -> bool:
    return PurePosixPath(path).is_relative_to(PurePosixPath(folder))


def _identity(spec: Object, notebook: Object) -> tuple[int | None, int | None]:
    """The user and group that the pod makes the notebook run as; None where the image decides."""
    of_container = _dict(notebook.get("securityContext"), "securityContext")
    of_pod = _dict(spec.get("securityContext"), "spec.securityContext")
    found: list[int | None] = []
    for key in ("runAsUser", "runAsGroup"):
        value = of_container.get(key) if of_container.get(key) is not None else of_pod.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31):
            raise LeftAlone(f"its {key} is not a number")
        found.append(value)
    return found[0], found[1]


def _non_root(spec: Object, notebook: Object) -> bool:
    of_container = _dict(notebook.get("securityContext"), "securityContext").get("runAsNonRoot")
    return bool(_dict(spec.get("securityContext"), "").get("runAsNonRoot") if of_container is None else of_container)


def _number_of(environment: Sequence[Object], name: str) -> int | None:
    """A positive number that the pod gives its start script, such as NB_UID of the Docker stacks."""
    for entry in environment:
        value = entry.get("value")
        if entry["name"] == name and value and re.fullmatch(r"[1-9][0-9]{0,8}", value):
            return int(value)
    return None


def _free_path(wanted: str, taken: Collection[str]) -> str:
    """The wanted path, or the same below a folder of its own where the notebook has a mount there, above or below.

    Two mounts at one path are refused by the API server, and nothing can be mounted inside of a read-only one.
    """
    if not any(_within(other, wanted) or _within(wanted, other) for other in taken):
        return wanted
    tops = {part for path in taken for part in PurePosixPath(path).parts[1:2]}
    return f"/{_free_name('datamount', tops, first=1)}{wanted}"


def _free_names(wanted: Sequence[str], taken: Set[str]) -> dict[str, str]:
    """For each name itself, or with a number where the pod has something of that name."""
    return {name: name if name not in taken else _free_name(name, taken) for name in wanted}


def _free_name(name: str, taken: Set[str], first: int = 2) -> str:
    """The name with the first number that makes it free."""
    return next(free for number in count(first) if (free := f"{name}-{number}") not in taken)


def _home_variables(mount: Object | None, environment: Sequence[Object]) -> list[Object]:
    """The notebook's variables that its home mount's subPathExpr names: our containers need them to mount the same."""
    expression = mount.get("subPathExpr") if mount else None
    if expression is None:
        return []
    if not isinstance(expression, str):
        raise LeftAlone("the path of its home volume is not a string")
    found = []
    for name in dict.fromkeys(_REFERENCE.findall(expression)):
        entry = next((entry for entry in reversed(environment) if entry["name"] == name), None)
        if entry is None or not _is_plain(entry):
            raise LeftAlone(f"its home volume's path needs the variable {name}")
        found.append(entry)
    return found


def _is_plain(entry: Object) -> bool:
    """Whether a variable means the same in another container: a literal, or a field of the pod."""
    if entry.get("value") is not None:
        return not _REFERENCE.search(entry["value"])
    return "fieldRef" in _dict(entry.get("valueFrom"), "valueFrom")
