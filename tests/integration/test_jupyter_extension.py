"""The Jupyter server extension, added to a real Jupyter server by JUPYTER_CONFIG_PATH alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from sidecar.jupyter import install
from tests import servers
from tests.jupyter_client import Jupyter

TOKEN = "x" * 20
BASE = "/user/ada/"


class Session:
    """A Jupyter server, with a sidecar once one is started; the base URL is one as hubs have."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = folder / "run"
        self.work = folder / "work"
        for place in (self.run, self.work):
            place.mkdir()
        (self.run / "env").write_text("COURSE_PATH='/some where/else'\nQUOTED='it'\"'\"'s'\n")
        self.extensions = folder / "extensions"
        install(self.extensions)
        lab = self.extensions / "labextensions/datamount"
        lab.mkdir(parents=True, exist_ok=True)
        if not (lab / "package.json").exists():
            build = {"load": "static/remoteEntry.js", "extension": "./extension"}
            package = {"name": "datamount", "version": "1", "jupyterlab": {"_build": build}}
            (lab / "package.json").write_text(json.dumps(package))
        self._make_image_config()
        self.processes: list[subprocess.Popen[bytes]] = []

    def _make_image_config(self) -> None:
        """Two folders as a course's image may have in its own JUPYTER_CONFIG_PATH."""
        first, second = self.folder / "image-1", self.folder / "image-2"
        (first / "jupyter_server_config.d").mkdir(parents=True)
        second.mkdir()
        hidden = {"ServerApp": {"jpserver_extensions": {"extension_of_the_image": True}}}
        (first / "jupyter_server_config.d" / "x.json").write_text(json.dumps(hidden))
        (first / "jupyter_server_config.py").write_text("c.ContentsManager.hide_globs = ['*.first']\n")
        (second / "jupyter_server_config.py").write_text("c.ContentsManager.hide_globs = ['*.second']\n")
        untitled = {"ContentsManager": {"untitled_notebook": "Of the image"}, "version": 1}
        (second / "jupyter_server_config.json").write_text(json.dumps(untitled))
        (self.extensions / "image-config-path").write_text(f"{first}:{second}")

    def start_jupyter(self) -> Jupyter:
        port = servers.free_port()
        self._start(
            *("jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"),
            *(f"--ServerApp.root_dir={self.work}", f"--ServerApp.base_url={BASE}"),
        )
        jupyter = Jupyter(f"http://127.0.0.1:{port}{BASE}", TOKEN)
        self._wait(lambda: jupyter.http.get("/api/status").status_code == 200)
        return jupyter

    def start_sidecar(self) -> subprocess.Popen[bytes]:
        place = self.run / "sidecar.json"
        place.unlink(missing_ok=True)
        process = self._start(
            *("sidecar", "--folder", str(self.work), "--run", str(self.run), "--state", str(self.folder / "state")),
            # A save of its own between a test's edit and the save that the test asks for would leave that nothing new.
            *("--store", (self.folder / "store").as_uri(), "--owner", "ada", "--course", "c", "--no-autosave"),
        )
        self._wait(lambda: place.exists() and servers.answers(json.loads(place.read_text())["url"] + "/healthz") == 200)
        return process

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def close(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start(self, *module: str) -> subprocess.Popen[bytes]:
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        # The session outlives the home of one test, and must not have the configuration of the person who runs them.
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "IPYTHON", "XDG_"))
        }
        environment = kept | {
            "HOME": str(home),
            "JUPYTER_CONFIG_PATH": str(self.extensions),
            "DATAMOUNT_RUN": str(self.run),
            "JUPYTER_TOKEN": TOKEN,
        }
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *module], env=environment, stdout=log, stderr=log, cwd=self.folder
            )
        self.processes.append(process)
        return process

    def _wait(self, ready: Callable[[], bool]) -> None:
        until = time.monotonic() + 120
        while True:
            assert self.processes[-1].poll() is None, self.log()
            assert time.monotonic() < until, self.log()
            try:
                if ready():
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """A session whose Jupyter is started by the first test that needs it."""
    found = Session(tmp_path_factory.mktemp("session"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def jupyter(session: Session) -> Jupyter:
    return session.start_jupyter()


@pytest.fixture(scope="module")
def sidecar(session: Session, jupyter: Jupyter) -> subprocess.Popen[bytes]:
    return session.start_sidecar()


def test_without_a_sidecar_it_says_so(session: Session, jupyter: Jupyter) -> None:
    """Without a sidecar, or with one that is gone, the answer is a 503 problem document; the page still opens."""
    place, running = session.run / "sidecar.json", session.run / "running.json"
    if place.exists():  # of a test before
        place.rename(running)
    for left in (None, '{"url": "http://127.0.0.1:9", "token": "t"}', "{", '{"url": 3}'):
        if left is not None:
            place.write_text(left)
        answer = jupyter.datamount("GET", "status")
        assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
        assert answer.json()["who"] == "the hub's operator"
    assert jupyter.http.get("/datamount/").status_code == 200
    place.unlink()
    if running.exists():
        running.rename(place)


def test_kernels_have_the_variables(jupyter: Jupyter) -> None:
    """Variables of the run folder's env file are in the environment of kernels, as they were written."""
    assert jupyter.run("import os; print(os.environ['COURSE_PATH'], os.environ['QUOTED'])") == "/some where/else it's\n"


def test_the_images_own_configuration_counts(session: Session, jupyter: Jupyter) -> None:
    """What an image names in a JUPYTER_CONFIG_PATH of its own is read though the pod's variable hides it: Python and
    JSON files, the first folder first, what is found later by the variable, and programs inherit it."""
    for name in ("a.first", "a.second"):
        (session.work / name).touch()
    shown = [entry["name"] for entry in jupyter.http.get("/api/contents").json()["content"]]
    assert ("a.first" in shown, "a.second" in shown) == (False, True)
    made = jupyter.http.post("/api/contents", json={"type": "notebook"}).json()
    assert made["name"] == "Of the image.ipynb"
    assert "extension_of_the_image" in session.log()
    path = jupyter.run("import os; print(os.environ['JUPYTER_CONFIG_PATH'])").strip().split(":")
    assert path == [str(session.folder / "image-1"), str(session.folder / "image-2"), str(session.extensions)]


def test_lab_loads_the_extension_of_the_folder(jupyter: Jupyter) -> None:
    """JupyterLab and Notebook list the Lab extension that lies in the installed folder, beside the image's own."""
    for page in ("/lab", "/tree"):
        text = jupyter.http.get(page, follow_redirects=True).text
        config = json.loads(text.split('id="jupyter-config-data"')[1].split(">", 1)[1].split("</script>")[0])
        names = [extension["name"] for extension in config["federated_extensions"]]
        assert "datamount" in names, page
        assert len(names) > 1, page


def test_only_who_is_logged_in(jupyter: Jupyter, sidecar: object) -> None:
    """Without Jupyter's token nothing is forwarded, and the page asks to log in."""
    with httpx.Client(base_url=jupyter.url, trust_env=False, timeout=120) as stranger:
        assert stranger.get("/datamount/api/v1/status").status_code == 403
        assert stranger.post("/datamount/api/v1/snapshots", json={}).status_code == 403
        for page in ("/datamount/", "/datamount/page.js"):
            answer = stranger.get(page)
            assert answer.status_code == 302
            assert "/login" in answer.headers["location"]


def test_a_page_of_elsewhere_cannot_save(jupyter: Jupyter, sidecar: object) -> None:
    """With the browser's cookies alone a POST is refused; with the page's XSRF token it saves."""
    with httpx.Client(base_url=jupyter.url, trust_env=False, timeout=120) as browser:
        page = browser.get("/datamount/", params={"token": TOKEN})
        assert page.status_code == 200
        refused = browser.post("/datamount/api/v1/snapshots", json={})
        assert refused.status_code == 403
        token = page.text.split('name="xsrf" content="')[1].split('"')[0]
        saved = browser.post("/datamount/api/v1/snapshots", json={}, headers={"X-XSRFToken": token})
        assert saved.status_code in (200, 201), saved.text


def test_save_history_and_downloads_go_through(session: Session, jupyter: Jupyter, sidecar: object) -> None:
    """Status codes, headers, names with special characters and large downloads arrive as the sidecar sent them."""
    name = "a b#ü%.bin"
    content = os.urandom(20_000_000)
    (session.work / name).write_bytes(content)
    key = {"Idempotency-Key": "k"}
    made = jupyter.datamount("POST", "snapshots", json={"message": "m"}, headers=key)
    assert made.status_code == 201
    assert jupyter.datamount("POST", "snapshots", json={"message": "m"}, headers=key).json() == made.json()
    id = made.json()["snapshot"]["id"]
    file = jupyter.datamount("GET", f"snapshots/{id}/files/a%20b%23%C3%BC%25.bin")
    assert file.content == content
    assert file.headers["content-disposition"].startswith("attachment")
    assert (
        "sandbox" in file.headers["content-security-policy"]
        or "default-src 'none'" in file.headers["content-security-policy"]
    )
    zipped = jupyter.datamount("GET", f"snapshots/{id}/archive.zip")
    assert zipped.headers["content-type"] == "application/zip"
    assert zipped.content[:2] == b"PK"
    detail = jupyter.datamount("GET", f"snapshots/{id}")
    same = jupyter.datamount("GET", f"snapshots/{id}", headers={"If-None-Match": detail.headers["etag"]})
    assert same.status_code == 304
    missing = jupyter.datamount("GET", "snapshots/00000099-aaaaaaaa")
    assert (missing.status_code, missing.headers["content-type"]) == (404, "application/problem+json")


def test_events_arrive_when_they_happen(session: Session, jupyter: Jupyter, sidecar: object) -> None:
    """The stream of states passes piece by piece: a save shows up while the stream is open."""
    made = ""
    with jupyter.http.stream("GET", "/datamount/api/v1/events") as stream:
        for line in stream.iter_lines():
            if not line.startswith("data: "):
                continue
            state = json.loads(line[6:])["save"]
            if not made:
                (session.work / "event.txt").write_text(str(time.time_ns()))
                answer = jupyter.datamount("POST", "snapshots", json={})
                assert answer.status_code == 201
                made = answer.json()["snapshot"]["id"]
            # What is told is how things are: a state that a quick save has passed already may never be.
            elif state["state"] == "saved" and state["last"]["id"] == made:
                break
        else:
            pytest.fail("the stream ended and did not tell of the save")


def test_asking_is_no_activity(jupyter: Jupyter, sidecar: object) -> None:
    """Polling the status does not keep an idle server from being culled."""
    before = jupyter.http.get("/api/status?no_track_activity=1").json()["last_activity"]
    time.sleep(0.01)
    assert jupyter.datamount("GET", "status").status_code == 200
    assert jupyter.http.get("/datamount/").status_code == 200
    assert jupyter.http.get("/api/status?no_track_activity=1").json()["last_activity"] == before


def test_the_page_loads_nothing_from_elsewhere(jupyter: Jupyter) -> None:
    """Page, script and style come from this server, under a policy that allows nothing else."""
    page = jupyter.http.get("/datamount/")
    assert page.headers["content-security-policy"].startswith("default-src 'self'")
    assert "http" not in page.text.replace("http-equiv", "")
    for name in ("page.js", "page.css"):
        assert jupyter.http.get(f"/datamount/{name}").status_code == 200
    assert jupyter.http.get("/datamount").headers["location"].endswith("/datamount/")


def test_jupyter_starts_whatever_is_wrong_with_us(tmp_path: Path) -> None:
    """With an extension that cannot be imported Jupyter starts without it, and kernels still have the variables."""
    session = Session(tmp_path)
    (session.extensions / "datamount_jupyter/handlers.py").write_text("raise RuntimeError('broken')\n")
    try:
        jupyter = session.start_jupyter()
        assert jupyter.datamount("GET", "status").status_code == 404
        assert jupyter.run("import os; print(os.environ['COURSE_PATH'])") == "/some where/else\n"
        assert "Jupyter starts without it (RuntimeError: broken)" in session.log()
    finally:
        session.close()
