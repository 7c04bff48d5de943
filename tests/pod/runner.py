"""A Pod as a kubelet would run it, with podman: what the API server would be sent, realised on this machine.

    cluster = Cluster(engine, images={"registry.example.edu/course:1": "localhost/course:test"})
    with cluster.run(pod) as running:            # init containers, native sidecars with their probes, containers
        running.logs("datamount-fetch")
        running.kill()                           # SIGKILL of everything at once, no grace

Realised: init containers in order; native sidecars (`restartPolicy: Always` and startup probe); volumes (emptyDir, in
memory or not, projected tokens and ConfigMaps, Secrets, ConfigMaps, images, PersistentVolumeClaims, hostPath) with
fsGroup; users, groups, capabilities, privilege escalation, read-only root; command and args; variables with $(…),
fieldRef, secretRef and secretKeyRef; memory limits. Not realised: a network of its own (a pod has the machine's), CPU
limits, restarts, sizeLimits of disk. A field that the runner does not know raises, so that no test passes by what was
left out.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.pod.engine import Engine, EngineFailed, restricted

Object = dict[str, Any]
Token = Callable[[Object, str, int], str]
"""Makes what the kubelet would project: of this pod, for this audience, for so many seconds."""
PROBE_SECONDS = 60.0

_KNOWN_POD = {
    *("automountServiceAccountToken", "containers", "initContainers", "restartPolicy", "securityContext", "volumes"),
    *("enableServiceLinks", "imagePullSecrets", "nodeSelector", "affinity", "tolerations", "schedulerName"),
}
_KNOWN_CONTAINER = {
    *("name", "image", "imagePullPolicy", "command", "args", "env", "envFrom", "volumeMounts", "securityContext"),
    *("resources", "ports", "lifecycle", "restartPolicy", "startupProbe"),
}
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


class PodFailed(RuntimeError):
    """The pod would not have started; the text has the container, its exit code and its log."""


@dataclass(frozen=True)
class Cluster:
    """What a node has beside the pod: images by the name that pods call them, Secrets, ConfigMaps, tokens."""

    engine: Engine
    images: Mapping[str, str]
    secrets: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    config_maps: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    claims: Path | None = None
    """Where the volumes of PersistentVolumeClaims are, by name: they outlive pods."""
    token: Token | None = None

    @contextmanager
    def run(self, pod: Object) -> Iterator[RunningPod]:
        """The pod with all of its containers started; gone, with its volumes, at the end."""
        running = RunningPod(self, pod)
        try:
            running.start()
            yield running
        finally:
            running.remove()


class RunningPod:
    """A pod on this machine."""

    def __init__(self, cluster: Cluster, pod: Object) -> None:
        self.cluster = cluster
        self.engine = cluster.engine
        self.pod = pod
        self.name: str = pod["metadata"]["name"]
        self.metadata: Object = {"namespace": "default", "uid": str(uuid.uuid4())} | pod["metadata"]
        self.spec: Object = pod["spec"]
        self.seconds: dict[str, float] = {}
        """Of init containers from start to end, of native sidecars to the end of their startup probe; by the wall,
        podman's own time included."""
        self._folder = self.engine.folder / "pods" / f"{self.name}-{uuid.uuid4().hex[:6]}"
        self._started: list[str] = []
        _known(self.spec, _KNOWN_POD, "spec")

    def volume(self, name: str) -> Path:
        """The folder of a volume on this machine."""
        return self._folder / name

    def container(self, name: str) -> str:
        """podman's name of a container."""
        return f"{self.name}-{name}"

    # --- Life -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        for volume in self.spec.get("volumes") or []:
            self._make_volume(volume)
        # Network of the machine, because the test servers are on its loopback; processes are not shared.
        self.engine.podman("pod", "create", "--name", self.name, "--network", "host", "--share", "net,ipc,uts")
        for container in self.spec.get("initContainers") or []:
            began = time.monotonic()
            if container.get("restartPolicy") == "Always":
                self._detach(container)
                self._probe(container)
            else:
                self._to_end(container)
            self.seconds[container["name"]] = time.monotonic() - began
        for container in self.spec["containers"]:
            self._detach(container)

    def kill(self) -> None:
        """End every process of the pod at once, as a node that fails or a grace period of 0 does."""
        processes = [self.engine.process(self.container(name)) for name in self._started]
        for process in processes:
            if process:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)

    def remove(self) -> None:
        """Take the pod and its volumes away, without grace."""
        # Again where it failed: beside containers that have just ended, conmon cleans up too, and one comes too late.
        until = time.monotonic() + 30
        while self.engine.podman("pod", "exists", self.name, check=False).returncode == 0:
            removed = self.engine.podman("pod", "rm", "--force", "--time", "0", self.name, check=False)
            if removed.returncode and time.monotonic() > until:
                raise EngineFailed(f"the pod {self.name} cannot be removed: {removed.stderr.decode()[-1000:]}")
        for volume in self.spec.get("volumes") or []:
            if _in_memory(volume) and self.volume(volume["name"]).exists():
                subprocess.run(["umount", "--lazy", self.volume(volume["name"])], check=False, timeout=30)
        shutil.rmtree(self._folder, ignore_errors=True)

    # --- What tests look at -----------------------------------------------------------------------------------

    def logs(self, name: str) -> str:
        """What a container has written to stdout and stderr."""
        done = self.engine.podman("logs", self.container(name))
        return (done.stdout + done.stderr).decode(errors="replace")

    def exec(self, name: str, *command: str) -> subprocess.CompletedProcess[bytes]:
        """Run a command in a running container, as its user."""
        return self.engine.podman("exec", self.container(name), *command, check=False)

    def moment(self, name: str, which: str) -> float:
        """Unix time of StartedAt or FinishedAt of a container."""
        template = f"{{{{.State.{which}.UnixMilli}}}}"
        return int(self.engine.text("inspect", "--format", template, self.container(name))) / 1000

    # --- Containers -------------------------------------------------------------------------------------------

    def _to_end(self, container: Object) -> None:
        done = self.engine.podman("run", *self._arguments(container), check=False)
        if done.returncode != 0:
            log = (done.stdout + done.stderr).decode(errors="replace")
            raise PodFailed(f"{container['name']} ended with {done.returncode}: {log[-3000:]}")

    def _detach(self, container: Object) -> None:
        self.engine.podman("run", "--detach", *self._arguments(container))
        self._started.append(container["name"])

    def _probe(self, container: Object) -> None:
        probe = container.get("startupProbe")
        if probe is None:
            return
        _known(probe, {"exec", "periodSeconds", "timeoutSeconds", "failureThreshold"}, "startupProbe")
        for _ in range(probe.get("failureThreshold", 3)):
            with contextlib.suppress(EngineFailed):  # in time, or a failure
                command = ("exec", self.container(container["name"]), *probe["exec"]["command"])
                # Of the kubelet's bound a part is podman's own start.
                if self.engine.podman(*command, seconds=probe["timeoutSeconds"] + 10, check=False).returncode == 0:
                    return
            time.sleep(probe.get("periodSeconds", 10))
        raise PodFailed(f"{container['name']} did not start: {self.logs(container['name'])[-3000:]}")

    def _arguments(self, container: Object) -> list[str]:
        """Options, image and command of `podman run`."""
        _known(container, _KNOWN_CONTAINER, container["name"])
        found = ["--name", self.container(container["name"]), "--pod", self.name]
        found += self._rights(container.get("securityContext") or {})
        memory = ((container.get("resources") or {}).get("limits") or {}).get("memory")
        found += ["--memory", str(_bytes(memory))] if memory else []
        environment = self._environment(container)
        for name, value in environment.items():
            found += ["--env", f"{name}={value}"]
        for mount in container.get("volumeMounts") or []:
            found += self._mount(mount)
        command = [_expanded(part, environment) for part in container.get("command") or []]
        arguments = [_expanded(part, environment) for part in container.get("args") or []]
        if command:
            # podman takes one word; with it the image's own command is gone, as with a pod's `command`.
            found += ["--entrypoint", command[0]]
        return [*found, self._image(container["image"]), *command[1:], *arguments]

    def _image(self, name: str) -> str:
        if name not in self.cluster.images:
            raise PodFailed(f"ErrImagePull: {name}")
        return self.cluster.images[name]

    def _rights(self, context: Object) -> list[str]:
        known = {"allowPrivilegeEscalation", "capabilities", "privileged", "readOnlyRootFilesystem", "runAsGroup"}
        _known(context, known | {"runAsNonRoot", "runAsUser", "seccompProfile"}, "securityContext")
        of_pod: Object = self.spec.get("securityContext") or {}
        _known(of_pod, {"fsGroup", "supplementalGroups", "runAsUser", "runAsGroup", "runAsNonRoot"}, "securityContext")
        found: list[str] = []
        if context.get("privileged"):
            raise PodFailed("a privileged container is not run on this machine")
        if context.get("allowPrivilegeEscalation") is False:
            found += ["--security-opt", "no-new-privileges"]
        capabilities = context.get("capabilities") or {}
        for option, key in (("--cap-drop", "drop"), ("--cap-add", "add")):
            for capability in capabilities.get(key) or []:
                found += [option, capability]
        if context.get("readOnlyRootFilesystem"):
            found += [part for part in restricted(read_only=True) if part.startswith("--read-only")]
        user, group = (context.get(key, of_pod.get(key)) for key in ("runAsUser", "runAsGroup"))
        if user is not None:
            # Without a group, a runtime takes the user's in the image's /etc/passwd, else 0.
            found += ["--user", str(user) if group is None else f"{user}:{group}"]
        if context.get("runAsNonRoot", of_pod.get("runAsNonRoot")) and user == 0:
            raise PodFailed("CreateContainerConfigError: runAsNonRoot, and user 0")
        groups = [of_pod["fsGroup"]] if of_pod.get("fsGroup") is not None else []
        for extra in [*groups, *(of_pod.get("supplementalGroups") or [])]:
            found += ["--group-add", str(extra)]
        return found

    def _environment(self, container: Object) -> dict[str, str]:
        found: dict[str, str] = {}
        for source in container.get("envFrom") or []:
            _known(source, {"secretRef"}, "envFrom")
            found |= self._object(self.cluster.secrets, source["secretRef"], "secret")
        for entry in container.get("env") or []:
            if "valueFrom" in entry:
                found[entry["name"]] = self._value_from(entry["valueFrom"])
            else:
                found[entry["name"]] = _expanded(entry.get("value") or "", found)
        return found

    def _value_from(self, source: Object) -> str:
        _known(source, {"fieldRef", "secretKeyRef"}, "valueFrom")
        if "secretKeyRef" in source:
            return self._object(self.cluster.secrets, source["secretKeyRef"], "secret")[source["secretKeyRef"]["key"]]
        path = source["fieldRef"]["fieldPath"]
        if keyed := re.fullmatch(r"metadata\.(annotations|labels)\['([^']+)'\]", path):
            return str((self.metadata.get(keyed[1]) or {}).get(keyed[2], ""))
        if plain := re.fullmatch(r"metadata\.(name|namespace|uid)", path):
            return str(self.metadata[plain[1]])
        raise PodFailed(f"the runner does not know the field {path}")

    def _object(self, objects: Mapping[str, Mapping[str, str]], reference: Object, kind: str) -> Mapping[str, str]:
        name = reference.get("name") or reference.get("secretName")
        if name not in objects:
            if reference.get("optional"):
                return {}
            raise PodFailed(f'{kind} "{name}" not found')
        return objects[str(name)]

    # --- Volumes ----------------------------------------------------------------------------------------------

    def _mount(self, mount: Object) -> list[str]:
        _known(mount, {"name", "mountPath", "readOnly", "subPath"}, "volumeMounts")
        path = self.volume(mount["name"]) / mount.get("subPath", "")
        volume = next(volume for volume in self.spec["volumes"] if volume["name"] == mount["name"])
        if "image" in volume:
            image = self._image(volume["image"]["reference"])
            return ["--mount", f"type=image,source={image},destination={mount['mountPath']},rw=false"]
        # Projected volumes, Secrets and ConfigMaps are read-only whatever the mount says.
        fixed = any(kind in volume for kind in ("projected", "secret", "configMap"))
        # `Z` and `U` are left out: nothing may re-own or re-label a volume but fsGroup.
        return ["--volume", f"{path}:{mount['mountPath']}:{'ro' if mount.get('readOnly') or fixed else 'rw'}"]

    def _make_volume(self, volume: Object) -> None:
        path = self.volume(volume["name"])
        path.mkdir(parents=True)
        if "emptyDir" in volume:
            if _in_memory(volume):
                size = volume["emptyDir"].get("sizeLimit")
                options = f"mode=0777,size={_bytes(size)}" if size else "mode=0777"
                subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], check=True, timeout=30)
            path.chmod(0o777)
            self._own(path)
        elif "image" in volume:
            _known(volume["image"], {"reference", "pullPolicy"}, "image")
        elif "persistentVolumeClaim" in volume:
            assert self.cluster.claims is not None, "the cluster has no claims"
            claimed = self.cluster.claims / volume["persistentVolumeClaim"]["claimName"]
            if not claimed.exists():
                claimed.mkdir(parents=True)
                self._own(claimed)
            path.rmdir()
            path.symlink_to(claimed)
        elif "hostPath" in volume:
            path.rmdir()
            path.symlink_to(volume["hostPath"]["path"])
        elif "projected" in volume:
            self._project(path, volume["projected"])
        elif "secret" in volume:
            self._write(path, self._object(self.cluster.secrets, volume["secret"], "secret"), 0o444)
        elif "configMap" in volume:
            self._write(path, self._object(self.cluster.config_maps, volume["configMap"], "configmap"), 0o444)
        else:
            raise PodFailed(f"the runner does not know the volume {volume}")

    def _own(self, path: Path) -> None:
        """What fsGroup does: the group owns the volume, new files get it, and it may read and write."""
        group = (self.spec.get("securityContext") or {}).get("fsGroup")
        if group is not None:
            os.chown(path, -1, group)
            path.chmod(path.stat().st_mode | 0o2060)

    def _project(self, path: Path, projected: Object) -> None:
        for source in projected["sources"]:
            _known(source, {"serviceAccountToken", "configMap"}, "projected")
            if "configMap" in source:
                given = self._object(self.cluster.config_maps, source["configMap"], "configmap")
                items = source["configMap"].get("items") or [{"key": key, "path": key} for key in given]
                self._write(path, {item["path"]: given[item["key"]] for item in items if item["key"] in given}, 0o644)
            else:
                wanted = source["serviceAccountToken"]
                assert self.cluster.token is not None, "the cluster makes no tokens"
                made = self.cluster.token(self.pod, wanted["audience"], wanted["expirationSeconds"])
                # As the kubelet: for fsGroup alone where there is one, else for everyone in the container
                # (kubernetes/kubernetes pkg/volume/projected/projected.go).
                group = (self.spec.get("securityContext") or {}).get("fsGroup")
                self._write(path, {wanted["path"]: made}, 0o640 if group is not None else 0o644)
                self._own(path)
                if group is not None:
                    os.chown(path / wanted["path"], 0, group)

    def _write(self, path: Path, files: Mapping[str, str], mode: int) -> None:
        for name, content in files.items():
            (path / name).write_text(content)
            (path / name).chmod(mode)


def _known(given: Object, keys: set[str], what: str) -> None:
    unknown = {key for key, value in given.items() if value is not None} - keys
    if unknown:
        raise PodFailed(f"the runner does not know {sorted(unknown)} of {what}")


def _expanded(text: str, environment: Mapping[str, str]) -> str:
    """Kubernetes' own $(NAME): known names only, and $$ for a dollar."""

    def value(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return environment.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([^()]+)\)", value, text)


def _bytes(quantity: str | int) -> int:
    found = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(quantity))
    assert found, quantity
    return int(float(found[1]) * _UNITS[found[2]])


def _in_memory(volume: Object) -> bool:
    return (volume.get("emptyDir") or {}).get("medium") == "Memory"
