"""A real JupyterHub: login, KubeSpawner's pod in real containers, a stop that saves, and the way back."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests import servers
from tests.gateway import COURSE_IMAGE
from tests.pod.hub import OURS, Hub
from tests.pod.jupyterhub import Browser, JupyterHub
from tests.pod.kubelet import Kubelet
from tests.pod_processes import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("podman"), pytest.mark.timeout(900)]


def test_a_login_a_stop_and_the_next_session(hub: Hub, s3: servers.S3Server, tmp_path: Path) -> None:
    """A student signs in, gets a server with the course's data, writes, and stops it at once: the hub's stop has it
    saved first, though its pod is ended without grace; the next server has it back."""
    hub.secrets["hub-store"] = {
        name: value for name, value in s3.env("admin").items() if not name.startswith("AWS_ENDPOINT")
    }
    bucket = s3.make_bucket()
    settings = {
        "image": OURS,
        "store": f"s3://{bucket}/work",
        "store_endpoint_url": s3.endpoint_url,
        "store_secret": "hub-store",
    }
    file = tmp_path / "inject.yaml"
    file.write_text(yaml.safe_dump(settings))
    with Kubelet(hub.cluster) as kubelet, JupyterHub(kubelet, f"{COURSE_IMAGE}:public", file) as jupyterhub:
        browser = jupyterhub.login("ada")
        try:
            start(browser, kubelet)
            assert browser.jupyter("GET", "api/contents/data/small/a.csv").json()["content"] == "x\n1\n"
            body = {"type": "file", "format": "text", "content": "just written\n"}
            browser.jupyter("PUT", "api/contents/last.txt", json=body)
            stop(browser, kubelet)
            assert "Saved when the server was stopped" in messages(s3, bucket)
            start(browser, kubelet)
            assert browser.jupyter("GET", "api/contents/last.txt").json()["content"] == "just written\n"
        except BaseException:
            print((jupyterhub.folder / "server.log").read_text()[-6000:], kubelet.failures)
            raise
        stop(browser, kubelet)


def messages(s3: servers.S3Server, bucket: str) -> str:
    """All versions' own words."""
    client = s3.client()
    listed = client.list_objects_v2(Bucket=bucket).get("Contents", [])
    keys = [found["Key"] for found in listed if "/versions/" in found["Key"]]
    return "".join(client.get_object(Bucket=bucket, Key=key)["Body"].read().decode() for key in keys)


def start(browser: Browser, kubelet: Kubelet) -> None:
    """Start My Server, and open it: the hub's and the server's sign-in follow each other."""
    assert browser.hub("POST", f"users/{browser.user}/server").status_code in (201, 202)
    wait_for(
        lambda: kubelet.failures or browser.hub("GET", f"users/{browser.user}").json()["servers"][""]["ready"], 180
    )
    assert kubelet.failures == []
    browser.jupyter("GET", "lab")


def stop(browser: Browser, kubelet: Kubelet) -> None:
    """Stop My Server; returns when its pod is gone."""
    assert browser.hub("DELETE", f"users/{browser.user}/server").status_code in (202, 204)
    wait_for(
        lambda: not kubelet.objects["pods"] and not browser.hub("GET", f"users/{browser.user}").json()["servers"], 180
    )
