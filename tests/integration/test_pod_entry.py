"""What runs in the injected containers, as real processes with the variables that inject gives them.

The pod's paths are folders of the test; the seed script has run in /bin/sh; data and saved work are on a real S3
server.
"""

from __future__ import annotations

import http.server
import json
import os
import shutil
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamount import names
from datamount.pod import probe
from tests import servers
from tests.pod_processes import Pod, wait_for
from tests.s3_proxy import S3Proxy


def s3_manifest(s3: servers.S3Server) -> Any:
    bucket = s3.make_bucket("public-data")
    s3.put(bucket, {"codes/a.csv": b"x,y\n", "codes/b.csv": b"z\n"})
    source = {"url": f"s3://{bucket}/codes/", "endpoint_url": s3.endpoint_url, "anonymous": True}
    return {"version": 1, "datasets": {"codes": {"s3": source}}}


def test_a_session_from_launch_to_relaunch(s3: servers.S3Server, pods: Callable[..., Pod]) -> None:
    """A launch has the home, the data, the variables and the Jupyter extension; what the student writes is saved; the
    pod is killed without grace; the next pod has the work back and the course's other files too."""
    store = {"store": f"s3://{s3.make_bucket()}/work", "store_endpoint_url": s3.endpoint_url}
    manifest = s3_manifest(s3)
    first = pods(manifest, s3.env(), **store)
    log = first.fetch()
    assert "codes: ready (2 files" in log
    assert (first.data / "codes" / "a.csv").read_bytes() == b"x,y\n"
    assert (first.home / "data").readlink() == first.data
    assert (first.home / ".hidden").read_text() == "kept\n"
    assert f"CODES_PATH='{first.data}/codes'" in (first.run / names.ENV_FILE).read_text()
    assert (first.jupyter / "jupyter_server_config.py").is_file()
    assert (first.jupyter / names.IMAGE_CONFIG_FILE).read_text() == ""
    assert first.status()["state"] == "ready"
    assert first.status()["course"] == "https://github.com/org/course"
    first.sidecar()
    assert first.ready() == 0
    (first.home / "answer.txt").write_text("42\n")
    saved = first.call("POST", "snapshots", {"message": "done"})
    assert saved["created"] is True
    first.kill()

    second = pods(manifest, s3.env(), **store)
    assert "datamount: 1 file restored\n" in second.fetch()
    assert (second.home / "answer.txt").read_text() == "42\n"
    assert (second.home / "lesson.txt").read_text() == "one\n"
    second.sidecar()
    assert second.ready() == 0
    assert saved["snapshot"]["id"] in [version["id"] for version in second.call("GET", "snapshots")]
    assert second.notes() == ""


def test_the_containers_may_run_again(s3: servers.S3Server, pods: Callable[..., Pod]) -> None:
    """When the pod's containers run again (a node came back), the student's files stay as they are."""
    store = {"store": f"s3://{s3.make_bucket()}/work", "store_endpoint_url": s3.endpoint_url}
    pod = pods(s3_manifest(s3), s3.env(), **store)
    pod.fetch()
    (pod.home / "lesson.txt").write_text("mine\n")
    pod.seed()
    pod.fetch()
    assert (pod.home / "lesson.txt").read_text() == "mine\n"


def test_the_notebook_opens_whatever_the_manifest(pods: Callable[..., Pod]) -> None:
    """A manifest with a fault: fetch succeeds, the status names the line, variables and home are there."""
    pod = pods("version: 1\ndatasets:\n  x: {uurl: https://example.edu/x}\n")
    pod.fetch()
    assert "line 3" in pod.status()["error"]["detail"]
    assert (pod.home / "lesson.txt").exists()
    assert "DATAMOUNT_DATA=" in (pod.run / names.ENV_FILE).read_text()


def test_a_course_without_a_manifest_has_no_fault(pods: Callable[..., Pod]) -> None:
    """A course that declares nothing is no failure."""
    pod = pods("")
    (pod.handover / "tree" / "binder" / names.MANIFEST).unlink()
    pod.fetch()
    assert pod.status()["error"] is None
    assert pod.status()["state"] == "ready"


def test_a_dead_store_is_said_and_the_data_comes(s3: servers.S3Server, pods: Callable[..., Pod]) -> None:
    """With a store that does not answer, the data is there, the student reads why the work is not, and the sidecar
    answers."""
    dead = f"http://127.0.0.1:{servers.free_port()}"
    pod = pods(s3_manifest(s3), s3.env(), store="s3://none/work", store_endpoint_url=dead)
    pod.fetch()
    assert pod.status()["datasets"]["codes"]["state"] == "ready"
    assert "saved work" in pod.notes()
    pod.sidecar()
    assert pod.ready() == 0
    assert pod.call("GET", "status")["save"]["store"] == "s3://none/work"


def test_a_hub_without_a_store_says_so(s3: servers.S3Server, pods: Callable[..., Pod]) -> None:
    """Where no store is set up, the sidecar says that nothing is kept."""
    pod = pods(s3_manifest(s3))
    pod.fetch()
    pod.sidecar()
    assert pod.ready() == 0
    error = wait_for(lambda: pod.call("GET", "status")["save"]["error"])
    assert "keeps no work" in error["detail"]
    assert pod.notes() == ""


def test_background_data_comes_beside_the_notebook(http: servers.HTTPServer, pods: Callable[..., Pod]) -> None:
    """Datasets that the start need not wait for are fetched by the sidecar."""
    (http.root / "later.csv").write_text("a\n")
    manifest = {
        "version": 1,
        "datasets": {"later": {"url": f"{http.url}/later.csv", "when": "background"}},
    }
    pod = pods(manifest)
    pod.fetch()
    assert pod.status()["datasets"]["later"]["state"] == "pending"
    pod.sidecar()
    wait_for(lambda: pod.state_of("later") == "ready")
    assert (pod.data / "later" / "later.csv").read_text() == "a\n"


def test_slow_data_goes_on_beside_the_notebook(s3: servers.S3Server, pods: Callable[..., Pod]) -> None:
    """After the budget the notebook opens; the sidecar fetches the rest, and the status says both."""
    content = os.urandom(3 << 20)
    s3.put(s3.make_bucket("public-data"), {"slow/a.bin": content})
    with S3Proxy(s3.endpoint_url, pause=0.1) as proxy:
        source = {"url": "s3://public-data/slow/", "endpoint_url": proxy.url, "anonymous": True}
        pod = pods({"version": 1, "datasets": {"slow": {"s3": source}}}, fetch_seconds=1)
        assert "still coming" in pod.fetch()
        # A busy machine has used the second up before there is a status.
        assert pod.state_of("slow") in ("", "pending", "fetching")
        pod.sidecar()
        wait_for(lambda: pod.state_of("slow") == "ready")
    assert (pod.data / "slow" / "a.bin").read_bytes() == content


def test_files_and_metadata_of_the_fetching_machine_are_refused(
    s3: servers.S3Server, http: servers.HTTPServer, pods: Callable[..., Pod], tmp_path: Path
) -> None:
    """A course cannot read the token beside fetch, a link-local address, or the keys of the hub's own store; the
    refusals say who can do what, and the other data is there."""
    secret = tmp_path / "token"
    secret.write_text("the-projected-token")
    work = s3.make_bucket()
    s3.put(work, {"work/of-others": b"private"})
    manifest = s3_manifest(s3)
    manifest["datasets"] |= {
        "token": {"url": secret.as_uri()},
        "wrapped": {"url": f"simplecache::{secret.as_uri()}"},
        "registry": {"quilt": {"package": "a/b", "registry": tmp_path.as_uri()}},
        "metadata": {"url": "http://169.254.169.254/latest/meta-data/iam/"},
        "decimal": {"url": "http://2852039166/latest/"},
        "mapped": {"url": "http://[::ffff:169.254.169.254]/latest/"},
        "endpoint": {"s3": {"url": "s3://bucket/", "endpoint_url": "http://169.254.169.254", "anonymous": True}},
        "database": {"mysql": {"host": "169.254.169.254", "database": "d"}},
        "others": {"s3": {"url": f"s3://{work}/work/", "endpoint_url": s3.endpoint_url}},
    }
    pod = pods(manifest, s3.env(), store=f"s3://{work}/work", store_endpoint_url=s3.endpoint_url)
    pod.fetch()
    found = pod.status()["datasets"]
    assert found["codes"]["state"] == "ready"
    for name in manifest["datasets"].keys() - {"codes"}:
        assert found[name]["error"]["status"] == 403, (name, found[name])
        assert found[name]["error"]["who"], name
    assert not [path for path in pod.data.rglob("*") if path.is_file() and "the-projected" in path.read_text("latin-1")]


def test_a_redirect_to_the_metadata_address_is_refused(pods: Callable[..., Pod], tmp_path: Path) -> None:
    """A web server cannot lead fetch to a link-local address by a redirect."""

    class Redirect(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", "http://169.254.169.254/latest/meta-data/")
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Redirect)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/x"
        pod = pods({"version": 1, "datasets": {"led": {"url": url}, "wrapped": {"url": f"simplecache::{url}"}}})
        pod.fetch()
        found = pod.status()["datasets"]
        assert "169.254.169.254" in found["led"]["error"]["detail"]
        assert found["led"]["error"]["status"] == 403
        assert found["wrapped"]["state"] == "failed"
    finally:
        server.shutdown()
        server.server_close()


def test_the_operator_may_allow_it(pods: Callable[..., Pod], tmp_path: Path) -> None:
    """The settings allow_local_files and allow_addresses lift the refusal."""
    (tmp_path / "x.csv").write_text("a\n")
    manifest = {"version": 1, "datasets": {"x": {"url": (tmp_path / "x.csv").as_uri()}}}
    pod = pods(manifest, allow_local_files=True)
    pod.fetch()
    assert (pod.data / "x" / "x.csv").read_text() == "a\n"


def test_a_killed_fetch_lets_the_notebook_open_at_last(pods: Callable[..., Pod]) -> None:
    """A fetch that was killed twice (out of memory) does nothing the third time but say so."""
    pod = pods({"version": 1, "datasets": {"x": {"url": "http://127.0.0.1:9/x"}}})
    (pod.state / "fetch-tries").write_text("2")
    pod.fetch()
    assert "stopped 2 times" in pod.status()["error"]["detail"]
    assert (pod.jupyter / "jupyter_server_config.py").is_file()


def test_a_hostile_hand_over_is_not_followed(pods: Callable[..., Pod], tmp_path: Path) -> None:
    """Links and devices in the hand-over folder, which code of the course's image wrote, are not read."""
    secret = tmp_path / "secret"
    secret.write_text("the-projected-token: [")
    pod = pods("version: 1\n")
    manifest = pod.handover / "tree" / "binder" / names.MANIFEST
    manifest.unlink()
    manifest.symlink_to(secret)
    (pod.handover / "origin").unlink()
    (pod.handover / "origin").symlink_to(secret)
    os.mkfifo(manifest.with_name(names.LOCK))
    log = pod.fetch()
    everything = log + json.dumps(pod.status()) + pod.notes()
    assert "the-projected-token" not in everything


def test_a_broken_volume_ends_with_success(pods: Callable[..., Pod]) -> None:
    """Even when no folder can be written, fetch ends with success: the notebook opens."""
    pod = pods("version: 1\n")
    shutil.rmtree(pod.state)
    pod.state.write_text("not a folder")
    pod.fetch()


def test_ready_never_fails(pods: Callable[..., Pod]) -> None:
    """The startup probe succeeds though no sidecar runs: else the notebook would stay closed."""
    assert pods("version: 1\n").ready() == 0


def test_the_probe_tells_who_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the startup probe waits for is a sidecar that answers with success; another answer, and none, are not."""
    codes = [200, 503]
    connect = socket.create_connection
    # A machine that stands still for a second is none of the three.
    monkeypatch.setattr(socket, "create_connection", lambda address, timeout: connect(address, timeout=60 * timeout))

    class Service(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(codes[0] if self.path == "/healthz" else 404)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", servers.free_port()), Service)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        assert probe.answers(url)
        codes.reverse()
        assert not probe.answers(url)
    finally:
        server.shutdown()
        server.server_close()
    with pytest.raises(ConnectionRefusedError):
        probe.answers(url)


def test_the_sidecar_goes_on_after_a_fault(pods: Callable[..., Pod]) -> None:
    """A sidecar that cannot start tries again, and is there once the fault is gone."""
    pod = pods("version: 1\n", store="s3://none/work", store_endpoint_url="http://127.0.0.1:9")
    blocker = pod.run / "sidecar.token"
    blocker.mkdir()
    process = pod.sidecar()
    wait_for(lambda: "Traceback" in (pod.folder / "sidecar.log").read_text())
    assert process.poll() is None
    blocker.rmdir()
    wait_for(lambda: (pod.run / names.SIDECAR_FILE).exists())
    assert pod.ready() == 0
    process.terminate()
    assert process.wait(120) in (0, 5)


def test_the_sidecars_token_is_never_that_of_a_link(tmp_path: Path) -> None:
    """A link at the place of the sidecar's own token is not followed: what it led to would be shown to the student."""
    from sidecar.__main__ import keep_token

    secret = tmp_path / "projected"
    secret.write_text("x" * 64)
    place = tmp_path / "sidecar.token"
    place.symlink_to(secret)
    token = keep_token(place)
    assert token != "x" * 64
    assert secret.read_text() == "x" * 64
    assert keep_token(place) == token
