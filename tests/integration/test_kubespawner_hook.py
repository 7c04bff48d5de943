"""The KubeSpawner hook on KubeSpawner's own pods, and the stop that saves first on a real Jupyter server."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from kubespawner import KubeSpawner
from traitlets import HasTraits
from traitlets.config import Config

from datamount import names
from datamount.inject import InjectSettings, inject, read_inject_settings
from datamount.kubespawner import SETTINGS_VARIABLE, SavingSpawnerMixin, make_hook, modify_pod_hook
from tests import servers
from tests.pod_processes import Pod, wait_for
from tests.unit import kubespawner_pods
from tests.unit.kubespawner_pods import binderhub_pod

SPAWNER = SimpleNamespace(log=logging.getLogger("test-spawner"))
PATIENCE = 240.0
"""Seconds for a save that must succeed; a hub gives it five, which a busy machine may need for less."""
OPTIONS = InjectSettings(controller_url="https://datamount-controller.datamount.svc")


def serialise(pod: Any) -> Any:
    """What KubeSpawner's client would send to the API server."""
    from kubernetes_asyncio.client import ApiClient

    async def run() -> Any:
        async with ApiClient() as client:
            return client.sanitize_for_serialization(pod)

    return asyncio.run(run())


@pytest.mark.parametrize("name", ["z2jh_pod", "binderhub_pod"])
def test_a_model_becomes_an_injected_model(name: str) -> None:
    """A V1Pod comes back as one: what is sent to the API server is what inject makes of what would have been sent;
    the argument is as it was, and containers are still models that another hook can change."""
    pod = getattr(kubespawner_pods, name)()
    before = serialise(pod)
    changed = make_hook(OPTIONS)(SPAWNER, pod)
    assert serialise(changed) == inject(before, OPTIONS)
    assert serialise(pod) == before
    assert type(changed) is type(pod)
    assert changed.metadata.name == pod.metadata.name
    assert [container.name for container in changed.spec.init_containers][-1] == names.SIDECAR_CONTAINER
    assert "datamount-fetch" in changed.to_str()


def test_a_second_hook_changes_nothing() -> None:
    """A pod that is injected already is returned as it is."""
    hook = make_hook(OPTIONS)
    once = hook(SPAWNER, binderhub_pod())
    assert hook(SPAWNER, once) is once


def test_a_dict_stays_a_dict() -> None:
    """Older and newer KubeSpawners may hand a plain pod."""
    plain = serialise(binderhub_pod())
    assert make_hook(OPTIONS)(SPAWNER, plain) == inject(plain, OPTIONS)


def test_the_settings_file_is_named_by_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`modify_pod_hook` reads the file that DATAMOUNT_INJECT_SETTINGS names; without it the defaults count."""
    assert modify_pod_hook(SPAWNER, binderhub_pod()).spec.init_containers[-1].image == InjectSettings().image
    file = tmp_path / "inject.yaml"
    file.write_text(yaml.safe_dump({"image": "mine:1"}))
    monkeypatch.setenv(SETTINGS_VARIABLE, str(file))
    assert modify_pod_hook(SPAWNER, binderhub_pod()).spec.init_containers[-1].image == "mine:1"


@pytest.mark.parametrize("pod", [None, 3, "x", SimpleNamespace(spec=None), {"spec": 1}])
def test_no_fault_of_ours_keeps_a_server_from_starting(tmp_path: Path, pod: Any) -> None:
    """Settings that cannot be read, or a pod of no known kind: the pod is returned as it was, with a word in the
    log."""
    assert make_hook(OPTIONS)(SPAWNER, pod) is pod
    known = binderhub_pod()
    assert make_hook(tmp_path / "none.yaml")(SPAWNER, known) is known


class Recorder:
    """What stands below the mixin: the spawner's own stop, which here only notes that it was called."""

    stopped: Any = None

    async def stop(self, now: bool = False) -> None:
        self.stopped = now


def make_spawner(url: str | None, **traits: Any) -> Any:
    class Spawner(SavingSpawnerMixin, Recorder, HasTraits):
        log = logging.getLogger("test-spawner")
        _log_name = "ada"

    spawner = Spawner(**traits)
    spawner.server = SimpleNamespace(url=url) if url else None
    spawner.api_token = "secret"
    return spawner


def of_jupyterhub(url: str) -> Any:
    """jupyterhub-singleuser takes the hub's token."""
    return make_spawner(url, save_timeout=PATIENCE)


def of_binderhub(url: str) -> Any:
    """Without sign-in: the server takes the token of the launch alone (binderhub/binderspawner_mixin.py)."""
    spawner = make_spawner(url, save_timeout=PATIENCE)
    spawner.auth_enabled = False
    spawner.api_token, spawner.user_options = "the hub's", {"token": "secret", "image": "course:1"}
    return spawner


@pytest.mark.timeout(900)
@pytest.mark.parametrize("make", [of_jupyterhub, of_binderhub])
def test_stop_saves_first(tmp_path: Path, pods: Callable[..., Pod], make: Callable[[str], Any]) -> None:
    """A stop through the mixin has what was just written saved before the spawner's own stop, through the user's own
    Jupyter server, with what that server takes for the user's word."""
    pod = pods("version: 1\n", store=(tmp_path / "store").as_uri())
    pod.fetch()
    pod.sidecar()
    pod.call("GET", "healthz")
    port = servers.free_port()
    jupyter = subprocess.Popen(
        [
            *(sys.executable, "-m", "jupyter_server", "--no-browser", f"--ServerApp.port={port}", "--allow-root"),
            *("--ServerApp.base_url=/user/ada/", "--ServerApp.ip=127.0.0.1", f"--ServerApp.root_dir={pod.home}"),
        ],
        env=os.environ
        | {names.JUPYTER_CONFIG_PATH: str(pod.jupyter), names.ENV_RUN: str(pod.run), "JUPYTER_TOKEN": "secret"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    pod.processes.append(jupyter)
    url = f"http://127.0.0.1:{port}/user/ada/"
    wait_for(lambda: servers.answers(f"{url}api/status?token=secret") == 200, PATIENCE)
    (pod.home / "last.txt").write_text("just written\n")
    spawner = make(url)
    asyncio.run(spawner.stop())
    assert spawner.stopped is False
    pod.kill()
    versions = list((tmp_path / "store").rglob("versions/*.json"))
    assert any("last.txt" in version.read_text() for version in versions)


class BinderSpawner(KubeSpawner):
    """As in BinderHub's `00-binder`, which chooses the image and the token of each server."""


@pytest.mark.parametrize("of_the_hub", ["kubespawner.KubeSpawner", BinderSpawner])
def test_the_documented_configuration_builds_on_the_spawner_of_the_hub(
    of_the_hub: type | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What docs/operators/install.md writes into the hub's configuration makes the spawner that is there already, of
    Zero to JupyterHub or BinderHub, inject with the settings beside it and save first at a stop; its own
    configuration still counts, and ours can be set."""
    page = Path(__file__).parents[2] / "docs/operators/install.md"
    values = next(
        loaded["hub"]
        for text in re.findall(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M)
        if "extraConfig" in (loaded := yaml.safe_load(text)).get("hub", {})
    )
    (given,) = values["extraFiles"].values()
    file = tmp_path / "inject.yaml"
    file.write_text(given["stringData"])
    (written,) = values["extraConfig"].values()
    assert given["mountPath"] in written
    config = Config()
    config.JupyterHub.spawner_class = of_the_hub
    exec(written.replace(given["mountPath"], str(file)), {"c": config})
    made = config.JupyterHub.spawner_class
    base = KubeSpawner if isinstance(of_the_hub, str) else of_the_hub
    assert issubclass(made, base)
    assert made.stop is SavingSpawnerMixin.stop
    assert made.__mro__.index(SavingSpawnerMixin) < made.__mro__.index(base)
    assert made.class_traits(config=True)["save_timeout"].default_value == 5.0
    assert base.__name__ in made.section_names()
    pod = config.KubeSpawner.modify_pod_hook(SPAWNER, binderhub_pod())
    assert pod.spec.init_containers[-1].image == read_inject_settings(file).image


@pytest.mark.parametrize(
    "spawner",
    [
        lambda: make_spawner(None),
        lambda: make_spawner(f"http://127.0.0.1:{servers.free_port()}/"),
        lambda: make_spawner("http://192.0.2.1:8888/", save_timeout=0.3),
        lambda: make_spawner("not a url"),
        lambda: make_spawner("http://127.0.0.1:9/", save_timeout=0.0),
    ],
    ids=["no server", "refused", "silent", "nonsense", "switched off"],
)
def test_stop_stops_whatever_happens(spawner: Callable[[], Any]) -> None:
    """A server that is gone, silent or foreign is stopped all the same; `now` is passed on."""
    made = spawner()
    asyncio.run(made.stop())
    assert made.stopped is False
    asyncio.run(made.stop(now=True))
    assert made.stopped is True
