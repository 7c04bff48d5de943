"""Sessions of every kind of pod that injection has a setting or a case for, in real containers."""

from __future__ import annotations

import json
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pymysql
import pytest

from datamount import names
from datamount.inject import InjectSettings
from datamount.kubespawner import make_hook
from tests import servers
from tests.pod.courses import SCHEMA
from tests.pod.hub import OURS, Hub, Session
from tests.pod_processes import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("podman"), pytest.mark.timeout(900)]
READ_SMALL = "import os; print(open(os.path.join(os.environ['SMALL_PATH'], 'a.csv')).read().split())"


def answers(session: Session) -> bool:
    """Whether the sidecar is there behind the Jupyter server."""
    return session.jupyter.datamount("GET", "status").status_code == 200


def test_a_sidecar_of_an_older_cluster(hub: Hub) -> None:
    """Before Kubernetes 1.29 the sidecar is a container after the notebook: data, Save and the way back are the
    same."""
    with hub.launch("plain", course="public", settings={"native_sidecar": False}) as session:
        assert [c["name"] for c in session.pod.spec["containers"]] == [
            names.NOTEBOOK_CONTAINER,
            names.SIDECAR_CONTAINER,
        ]
        assert session.jupyter.run(READ_SMALL) == "['x', '1']\n"
        made = session.jupyter.http.post("/api/contents", json={"type": "notebook"}).json()
        assert made["name"] == "Of the image.ipynb", "the image's own configuration of Jupyter"
        wait_for(lambda: answers(session))
        session.write("answer.txt", "42\n")
        assert session.save()["created"] is True
        session.pod.kill()
    with hub.launch("plain", course="public", settings={"native_sidecar": False}) as session:
        assert session.file("answer.txt") == "42\n"


CLAIM: dict[str, Any] = {
    "volumes": [{"name": "volume-ada", "persistentVolumeClaim": {"claimName": "claim-ada"}}],
    "volume_mounts": [{"name": "volume-ada", "mountPath": "/home/jovyan"}],
}
"""The home as Zero to JupyterHub gives it."""


def test_a_home_on_a_claim(hub: Hub) -> None:
    """A home that is the hub's own volume: the manifest comes out of the image that it hides, the data is there, what
    is saved is in History; the next pod has the home as it was left, unsaved work too, and nothing is put over it."""
    with hub.launch("claim", course="public", **CLAIM) as session:
        assert session.jupyter.run(READ_SMALL) == "['x', '1']\n"
        assert session.jupyter.run("import os; print('small' in os.listdir('data'))") == "True\n"
        session.write("answer.txt", "saved\n")
        saved = session.save()
        session.write("answer.txt", "newer than what is saved\n")
        session.pod.kill()
    with hub.launch("claim", course="public", **CLAIM) as session:
        assert session.file("answer.txt") == "newer than what is saved\n"
        assert session.jupyter.run(READ_SMALL) == "['x', '1']\n"
        versions = session.jupyter.datamount("GET", "snapshots").json()
        assert saved["snapshot"]["id"] in [version["id"] for version in versions]


QUERY = f"""
import pymysql, time
connection = pymysql.connect(read_default_file="{names.RUN_DIR}/{names.MYSQL_DIR}/clinic.cnf", database="{SCHEMA}")
cursor = connection.cursor()
cursor.execute("SELECT text, CURRENT_USER() FROM notes")
print(*cursor.fetchone())
"""


def test_a_leased_database_account(hub: Hub, mariadb: servers.MariaDBServer) -> None:
    """The notebook queries the course's database with an account of its own, by the option file; when the pod is
    killed, that account and its open connections are gone after the reaper's next pass."""
    with hub.launch("clinic", course="clinic") as session:
        text, account = session.jupyter.run(QUERY).strip().rsplit(" ", 1)
        assert text == "a note"
        user = account.partition("@")[0]
        assert user.startswith("dm_")
        file = session.pod.volume(names.RUN_VOLUME) / names.MYSQL_DIR / "clinic.cnf"
        options = dict(line.split("=", 1) for line in file.read_text().splitlines() if "=" in line)
        password = options["password"].strip('"')
        assert password in hub.leased
        beside = mariadb.connect(user=user, password=password, database=SCHEMA)
        assert hub.reap() == 0, "the pod is alive"
        session.pod.kill()
    assert hub.reap() == 1
    with pytest.raises(pymysql.err.OperationalError, match="Access denied"):
        mariadb.connect(user=user, password=password)
    with closing(beside), pytest.raises(pymysql.err.OperationalError):
        beside.cursor().execute("SELECT 1")


def test_a_hub_without_a_controller(hub: Hub, s3: servers.S3Server) -> None:
    """KubeSpawner's hook alone, with a store and its Secret: data, Save and the way back; the Secret's keys are in our
    containers and not in the notebook's."""
    hub.secrets["datamount-store"] = {
        name: value for name, value in s3.env("admin").items() if not name.startswith("AWS_ENDPOINT")
    }
    settings = InjectSettings(
        image=OURS,
        store=f"s3://{s3.make_bucket()}/work",
        store_endpoint_url=s3.endpoint_url,
        store_secret="datamount-store",
    )
    hook = make_hook(settings)
    spawner = SimpleNamespace(log=None)
    with hub.launch("alone", course="public", hook=lambda pod: hook(spawner, pod)) as session:
        assert session.jupyter.run(READ_SMALL) == "['x', '1']\n"
        seen = json.loads(session.jupyter.run("import json, os; print(json.dumps(dict(os.environ)))"))
        assert [name for name in seen if name.startswith("AWS_")] == []
        environment = session.pod.exec(names.SIDECAR_CONTAINER, "/usr/bin/env").stdout.decode()
        assert s3.identities["admin"].secret_access_key in environment
        session.write("answer.txt", "42\n")
        assert session.save()["created"] is True
        session.pod.kill()
    with hub.launch("alone", course="public", hook=lambda pod: hook(spawner, pod)) as session:
        assert session.file("answer.txt") == "42\n"


READ_ONLY: dict[str, Any] = {
    "container_security_context": {"readOnlyRootFilesystem": True},
    "volumes": [{"name": "tmp", "emptyDir": {}}],
    "volume_mounts": [{"name": "tmp", "mountPath": "/tmp"}],
}


def test_a_notebook_with_a_read_only_root(hub: Hub) -> None:
    """A notebook container that can write nothing but its volumes has home, data and Save."""
    with hub.launch("fixed", course="public", **READ_ONLY) as session:
        assert "Read-only" in session.jupyter.run("import os\ntry: open('/x', 'w')\nexcept OSError as e: print(e)")
        assert session.jupyter.run(READ_SMALL) == "['x', '1']\n"
        session.write("answer.txt", "42\n")
        assert session.save()["created"] is True


def test_image_volumes(hub: Hub) -> None:
    """With image volumes there is no seed container: course, data, Save and the way back are the same."""
    with hub.launch("image", settings={"image_volumes": True}) as session:
        assert names.SEED_CONTAINER not in [c["name"] for c in session.pod.spec["initContainers"]]
        assert session.file("a b/ü.txt") == "odd names\n"
        assert session.jupyter.run(READ_SMALL) == "['x', '1']\n"
        extensions = session.jupyter.http.get("/lab/api/extensions")
        assert "datamount" in extensions.text
        session.write("answer.txt", "42\n")
        assert session.save()["created"] is True
        session.pod.kill()
    with hub.launch("image", settings={"image_volumes": True}) as session:
        assert session.file("answer.txt") == "42\n"
