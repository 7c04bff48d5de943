"""A session from end to end in real containers: KubeSpawner's pod, what inject makes of it, two launches."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest

from datamount import names
from tests.pod import engine as engines
from tests.pod.courses import CODES
from tests.pod.hub import Hub
from tests.pod.runner import RunningPod

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("podman"), pytest.mark.timeout(900)]
INIT = (names.SEED_CONTAINER, names.FETCH_CONTAINER)


READ_DATA = """
import csv, os
rows = list(csv.reader(open(os.path.join(os.environ["CODES_PATH"], "codes.csv"))))
print(len(rows), rows[-1][1], open(os.path.join(os.environ["SMALL_PATH"], "a.csv")).read().split())
"""


def test_work_and_data_survive_a_killed_pod(hub: Hub) -> None:
    """An unchanged Jupyter image gets the course, its data (leased and public) and Save; after SIGKILL of everything,
    the next pod has the saved work. A dataset that cannot be had is reported and keeps nobody from working."""
    with hub.launch() as session:
        assert session.jupyter.run("print(open('notes/.hidden').read())") == "kept\n\n"
        assert session.file("a b/ü.txt") == "odd names\n"
        assert session.jupyter.run(READ_DATA) == "50000 code 49999 ['x', '1']\n"
        found = session.status()["datasets"]
        assert {name: entry["state"] for name, entry in found.items()} == {
            "codes": "ready",
            "small": "ready",
            "gone": "failed",
        }, session.pod.logs(names.FETCH_CONTAINER)
        assert "no-such-bucket" in found["gone"]["error"]["detail"]
        session.write("answer.txt", "42\n")
        session.jupyter.run("open('from-kernel.txt', 'w').write('kernel\\n'); import os; os.remove('lesson.ipynb')")
        assert session.save()["created"] is True
        session.pod.kill()
    with hub.launch() as session:
        assert session.file("answer.txt") == "42\n"
        assert session.file("from-kernel.txt") == "kernel\n"
        assert session.jupyter.http.get("/api/contents/lesson.ipynb").status_code == 404
        assert session.jupyter.run(READ_DATA) == "50000 code 49999 ['x', '1']\n"


LAUNCHES = int(os.environ.get("DATAMOUNT_POD_LAUNCHES", "1"))
"""How often to measure; docs/benchmarks/pod.md has more than a test needs."""


def test_what_a_launch_costs(hub: Hub) -> None:
    """A warm launch, with saved work and data, opens as one without datamount does; prints what it took."""
    with hub.launch("edsger") as session:
        session.write("answer.txt", "45\n")
        session.save()
    for _ in range(LAUNCHES):
        began = time.monotonic()
        with hub.launch("edsger", injected=False) as session:
            plain = time.monotonic() - began
        began = time.monotonic()
        with hub.launch("edsger") as session:
            seconds = time.monotonic() - began
            assert session.file("answer.txt") == "45\n"
            print(f"\nplain {plain:.2f} s, injected {seconds:.2f} s; {times(session.pod)}")


def times(pod: RunningPod) -> str:
    """What our containers cost this launch: by their own clocks, so without the engine's start of each container."""
    ran = {name: pod.moment(name, "FinishedAt") - pod.moment(name, "StartedAt") for name in INIT}
    listens = (pod.volume(names.RUN_VOLUME) / names.SIDECAR_FILE).stat().st_mtime
    ready = listens - pod.moment(names.SIDECAR_CONTAINER, "StartedAt")
    parts = {"seed": ran[names.SEED_CONTAINER], "fetch": ran[names.FETCH_CONTAINER], "sidecar listens": ready}
    shown = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in parts.items())
    wall = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in pod.seconds.items())
    return f"{shown}, together {sum(parts.values()):.2f} s (with the engine: {wall})"


def test_a_manifest_that_cannot_be_read_opens(hub: Hub) -> None:
    """A course whose manifest is no YAML opens with its files, says what is wrong, and keeps work."""
    with hub.launch("grace", course="broken") as session:
        assert session.jupyter.http.get("/api/contents/lesson.ipynb").status_code == 200
        said = session.jupyter.datamount("GET", "status").json()
        assert "datamount.yaml" in json.dumps(said)
        session.write("answer.txt", "43\n")
        assert session.save()["created"] is True


LOOK = f"""
import glob, json, os
def may_write(folder):
    try:
        open(folder + "/planted", "w").close()
    except OSError:
        return False
    return True
places = {[names.TOKEN_DIR, names.STATE_DIR, names.COURSE_DIR, names.CREDENTIALS_DIR, "/var/run/secrets"]}
print(json.dumps({{
    "uid": os.getuid(),
    "seen": [place for place in places if os.path.exists(place)],
    "writable": [place for place in {[names.DATA_DIR, names.RUN_DIR, names.JUPYTER_DIR]} if may_write(place)],
    "processes": [path for path in glob.glob("/proc/[0-9]*/cmdline") if b"datamount.pod" in open(path, "rb").read()],
    "variables": sorted(name for name in os.environ if name.startswith(("AWS_", "DATAMOUNT_"))),
}}))
"""


def test_the_notebook_is_kept_out(hub: Hub) -> None:
    """Code of the student, as the notebook's user: no token, no state, no process of ours, no bucket's key; data, run
    and Jupyter's folder are read-only. The sidecar holds the token, so the look would have found it."""
    with hub.launch() as session:
        assert json.loads(session.jupyter.run(LOOK)) == {
            "uid": 1000,
            "seen": [],
            "writable": [],
            "processes": [],
            "variables": [names.ENV_DATA, names.ENV_RUN],
        }
        shown = session.pod.exec(names.SIDECAR_CONTAINER, "cat", f"{names.TOKEN_DIR}/token").stdout.decode()
        assert shown == hub.tokens[-1]
        assert session.save()
        notebook = next(c for c in session.pod.spec["containers"] if c["name"] == names.NOTEBOOK_CONTAINER)
        readable = b"".join(
            path.read_bytes()
            for mount in notebook["volumeMounts"]
            for path in session.pod.volume(mount["name"]).rglob("*")
            if path.is_file()
        )
        assert CODES.encode() in readable
        assert hub.leased
        assert [secret for secret in all_secrets(hub) if secret.encode() in readable] == []


def all_secrets(hub: Hub) -> list[str]:
    """Everything planted, leased or projected."""
    return [*hub.site.secrets.values(), *hub.leased, *hub.tokens]


def test_no_secret_is_anywhere(hub: Hub) -> None:
    """After a launch with a lease, a save and a refusal, no pod spec, variable, log, Event, audit line or metric has
    a secret; ours do not have the visitor's address either, which BinderHub puts into the pod's variables."""
    hub.seen.clear()
    with hub.launch() as session:
        session.write("answer.txt", "44\n")
        session.save()
        session.jupyter.datamount("GET", "snapshots")
    audit, metrics = json.dumps(hub.site.audit()), hub.site.metrics().decode()
    events = json.dumps(hub.site.kube.events())
    assert "icd" in audit
    assert "datamount_leases" in metrics
    assert any("codes" in event["message"] for event in hub.site.kube.events())
    assert hub.log.getvalue()
    by_controller = [audit, metrics, events, hub.log.getvalue()]
    everything = "\n".join([*by_controller, *hub.seen])
    assert names.SIDECAR_CONTAINER in everything
    assert [secret for secret in all_secrets(hub) if secret in everything] == []
    assert re.findall(r"eyJ[\w-]{10,}\.eyJ[\w-]+", everything) == [], "a token of any kind"
    assert "203.0.113.77" not in "\n".join(by_controller)


def test_a_removed_pod_leaves_nothing(hub: Hub, engine: engines.Engine) -> None:
    """After a pod is removed there is no process, mount, container or folder of it."""
    with hub.launch() as session:
        name = session.pod.name
        processes = [
            engine.process(session.pod.container(container))
            for container in (names.NOTEBOOK_CONTAINER, names.SIDECAR_CONTAINER)
        ]
        folder = session.pod.volume(names.RUN_VOLUME).parent
        assert str(folder) in Path("/proc/self/mounts").read_text()
    assert str(folder) not in Path("/proc/self/mounts").read_text()
    assert not folder.exists()
    assert not [process for process in processes if Path(f"/proc/{process}").exists()]
    assert name not in engine.text("ps", "--all", "--format", "{{.Names}}")
