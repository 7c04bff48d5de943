"""What `make demo CHECK=1` holds the whole path to, on real servers and through the real Jupyter server.

A student opens the course, runs both notebooks, changes a cell and saves; everything is killed; an empty folder is
opened, and work and data are there again, byte for byte. Then the same with Ctrl-C, and with a broken dataset.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.demo_jupyter import Jupyter, Output
from tests.demo_session import Session, datamount
from tests.demo_site import Site, commit, git

DATASETS = ("mimic2", "labels", "images", "codes", "glossary")
REPORTS = "mimic2/noteevents.parquet"
ANSWER = 'answer = "consolidation – the readers saw it twice as often"  # 肺炎'
NOTE_PATH, NOTE = "notes/first try.md", "# What I saw\n\nEdema is often called *heart failure*.\n"


@dataclass
class Row:
    """One line of the table. `size` in bytes; `error` says why it did not hold."""

    what: str
    found: str = ""
    size: int = 0
    seconds: float = 0.0
    error: str = ""


class Stopped(Exception):
    """A check did not hold; what follows would mean nothing."""


class Check:
    """The run of all checks; `rows` is what was found so far."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site = site
        self.folder = folder
        self.origin = folder / "origin" / "mimic-radiology"
        self.course = folder / "mimic-radiology"
        self.home = folder / "home"
        self.saved = ""
        self.rows = [Row(f"{told.server} loaded", told.what, told.size, told.seconds) for told in site.loaded]
        self._sessions: list[Session] = []

    @property
    def env(self) -> dict[str, str]:
        return self.site.environment() | {"DATAMOUNT_HOME": str(self.home)}

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[Row]:
        """A check: it holds when its block ends without an exception."""
        row = Row(what)
        self.rows.append(row)
        began = time.monotonic()
        try:
            yield row
        except Exception as error:
            row.error = f"{type(error).__name__}: {error}" if not isinstance(error, AssertionError) else str(error)
            raise Stopped(what) from error
        finally:
            row.seconds = time.monotonic() - began

    def run(self) -> None:
        """All checks in their order. Stopped at the first that does not hold; no process of a session is left."""
        try:
            self._declare()
            self._work_and_lose_the_machine()
            self._come_back()
            self._break_a_dataset()
        finally:
            for session in self._sessions:
                session.kill()

    def _declare(self) -> None:
        self.site.write_course(self.origin)
        with self.step("the manifest is valid") as row:
            row.found = _first_line(datamount("validate", self.origin, env=self.env))
        with self.step("all sources are pinned by a lock") as row:
            datamount("lock", self.origin, env=self.env)
            path = self.origin / "binder" / "datamount.lock"
            row.found, row.size = f"{path.name}, committed to the course's repo", path.stat().st_size
        commit(self.origin, "Pin the data")
        with self.step("no secret is in the course") as row:
            row.found = f"{self._search_secrets()} secrets looked for in every file"

    def _search_secrets(self) -> int:
        credentials = yaml.safe_load(self.site.credentials.read_text())
        secrets = [str(v) for fields in credentials.values() for v in fields.values()]
        assert all(len(secret) >= 8 for secret in secrets)
        for path in (path for path in self.origin.rglob("*") if path.is_file() and ".git" not in path.parts):
            text = path.read_bytes()
            held = [secret for secret in secrets if secret.encode() in text]
            assert not held, f"{path} holds {len(held)} of the credentials' values"
        return len(secrets)

    def _work_and_lose_the_machine(self) -> None:
        self._empty()
        session = self._session("first")
        with self.step("`datamount up` opens JupyterLab") as row:
            server = session.open()
            row.found = server.base
        self._datasets_ready(server)
        with self.step("the Python notebook runs") as row:
            outputs = self._run_notebook(server, "reports.ipynb", "python3")
            images = sum(output.images for output in outputs.values())
            assert images == 2, f"{images} pictures instead of 2"
            row.found = (
                f"{len(outputs)} cells, {images} pictures, {len(self.site.reports())} reports by SQL and from Parquet"
            )
        if "ir" in server.kernels():
            with self.step("the R notebook reads the same database") as row:
                outputs = self._run_notebook(server, "reports-r.ipynb", "ir")
                row.found = f"{len(outputs)} cells, {len(self.site.reports())} reports by RMySQL's option file"
        else:
            missing = "no R kernel on this machine: apt-get install r-cran-irkernel r-cran-rmysql"
            with self.step("the R notebook reads the same database") as row:
                assert os.environ.get("DATAMOUNT_REQUIRE_ALL") != "1", missing
                row.found = f"left out: {missing}"
        with self.step("an edit and a new file are saved") as row:
            self._edit(server, ANSWER)
            (self.course / NOTE_PATH).parent.mkdir()
            (self.course / NOTE_PATH).write_text(NOTE, encoding="utf-8")
            saved = server.datamount("POST", "snapshots", {"message": "answered"})
            assert saved["created"], saved
            self.saved = saved["snapshot"]["id"]
            row.found, row.size = f"version {self.saved}", saved["snapshot"]["bytes"]
        with (
            self.step("everything is killed with SIGKILL") as row,
            server.kernel("reports.ipynb", "python3") as running,
        ):
            running.run("busy = True")
            kinds = [_kind(command) for command in session.kill()]
            expected = {"datamount up", "JupyterLab", "sidecar", "Python kernel"}
            assert expected <= set(kinds), f"only {kinds} was running"
            row.found = f"{len(kinds)} processes: {', '.join(sorted(set(kinds)))}"

    def _come_back(self) -> None:
        session = self._session("second")
        with self.step("an empty folder is opened again") as row:
            self._empty()
            server = session.open()
            row.found = "a fresh clone of the course, no state of the first session"
        with self.step("the edit and the new file are back") as row:
            assert _answer(server) == ANSWER, _answer(server)
            assert (self.course / NOTE_PATH).read_text(encoding="utf-8") == NOTE
            history = {version["id"]: version["message"] for version in server.datamount("GET", "snapshots")}
            assert history.get(self.saved) == "answered", history
            row.found = f"cell “answer” of reports.ipynb, {NOTE_PATH}; the version is in the history"
            row.size = (self.course / "reports.ipynb").stat().st_size + len(NOTE.encode())
        self._datasets_ready(server)
        with self.step("every delivered byte is the source's") as row:
            files, row.size = self._compare_data()
            reports = self._compare_reports()
            row.found = f"{files} files compared by SHA-256, {reports} reports of the Parquet file by their text"
        with self.step("Ctrl-C saves what was not saved, and stops") as row:
            self._edit(server, f"{ANSWER} and later")
            session.interrupt()
            row.found = "exit code 0, no process left"

    def _break_a_dataset(self) -> None:
        self._empty()
        self.site.web.stop()
        session = self._session("third")
        with self.step("it opens although the glossary's server is down") as row:
            server = session.open()
            status = self._status(server, failing={"glossary"})
            row.found = str(status["glossary"]["error"]["detail"])
            assert "glossary" in row.found, row.found
        with self.step("the other datasets, and the last edit, are there") as row:
            states = {name: dataset["state"] for name, dataset in status.items()}
            assert states == dict.fromkeys(DATASETS, "ready") | {"glossary": "failed"}, states
            assert _answer(server) == f"{ANSWER} and later", _answer(server)
            row.found = "4 of 5 ready; the cell that Ctrl-C saved"
        with self.step("it stops, and nothing is left running"):
            session.interrupt()

    def _session(self, name: str) -> Session:
        session = Session(self.course, self.site.store, env=self.env, log=self.folder / f"{name}.log")
        self._sessions.append(session)
        return session

    def _empty(self) -> None:
        """Another machine: no state of ours, and the course as git gives it."""
        shutil.rmtree(self.home, ignore_errors=True)
        shutil.rmtree(self.course, ignore_errors=True)
        git("clone", "--quiet", self.origin, self.course, cwd=self.folder)

    def _datasets_ready(self, server: Jupyter) -> None:
        with self.step("all five datasets are delivered and verified") as row:
            status = self._status(server)
            states = {name: dataset["state"] for name, dataset in status.items()}
            assert states == dict.fromkeys(DATASETS, "ready"), states
            row.found = ", ".join(f"{name} {dataset['files_done']}" for name, dataset in status.items()) + " files"
            row.size = sum(dataset["bytes_done"] for dataset in status.values())

    def _status(self, server: Jupyter, failing: Set[str] = frozenset()) -> dict[str, Any]:
        """The datasets' status once none is on its way."""
        deadline = time.monotonic() + 240
        while True:
            data = server.datamount("GET", "status")["data"]
            datasets: dict[str, Any] = (data or {}).get("datasets", {})
            moving = [n for n, d in datasets.items() if d["state"] in ("pending", "fetching")]
            if datasets and not moving:
                failed = {n: d["error"]["detail"] for n, d in datasets.items() if d["state"] == "failed"}
                assert failed.keys() == failing, f"failed: {failed or 'none'}; expected: {failing or 'none'}"
                return datasets
            assert time.monotonic() < deadline, f"still not delivered after minutes: {moving or 'no status'}"
            time.sleep(0.2)

    def _run_notebook(self, server: Jupyter, path: str, kernel: str) -> dict[str, Output]:
        """Run the cells in order; what each showed, by its ID, compared with what the data must give."""
        with server.kernel(path, kernel) as running:
            cells = [cell for cell in server.notebook(path)["cells"] if cell["cell_type"] == "code"]
            outputs = {cell["id"]: running.run(cell["source"]) for cell in cells}
        for cell, text in self.site.expected().items():
            assert cell not in outputs or text in outputs[cell].text, f"{text!r} is not in {outputs[cell].text!r}"
        return outputs

    def _edit(self, server: Jupyter, text: str) -> None:
        document = server.notebook("reports.ipynb")
        next(cell for cell in document["cells"] if cell["id"] == "answer")["source"] = text
        server.write_notebook("reports.ipynb", document)

    def _compare_data(self) -> tuple[int, int]:
        """Number and bytes of the files below `data`, each compared with what was generated."""
        data, made = self._data(), self.site.generated
        parts = ("labels", "images", "codes")
        wanted = {f"{part}/{path.name}": path for part in parts for path in (made / part).iterdir()}
        wanted["glossary/glossary.csv"] = made / "glossary.csv"
        files = (path for path in data.rglob("*") if path.is_file())
        there = {str(path.relative_to(data)): path for path in files if ".datamount" not in path.parts}
        for name in {*parts, "glossary", "mimic2"}:  # what datamount adds beside each: compared by the tests
            del there[f"{name}.datapackage.json"]
        assert json.loads(there.pop("labels/.quilt.json").read_bytes())["package"], "the package's metadata"
        del there[REPORTS]
        assert there.keys() == wanted.keys(), sorted(there.keys() ^ wanted.keys())
        for name, path in wanted.items():
            assert _sha256(there[name]) == _sha256(path), f"{name} is not what the source holds"
        return len(there), sum(path.stat().st_size for path in there.values())

    def _compare_reports(self) -> int:
        """Number of the reports in the Parquet file, each compared with what was generated."""
        import pyarrow.parquet

        columns = pyarrow.parquet.read_table(self._data() / REPORTS, columns=["row_id", "text"]).to_pydict()
        delivered = dict(zip(columns["row_id"], columns["text"], strict=True))
        assert delivered == self.site.reports()
        return len(delivered)

    def _data(self) -> Path:
        """Where the course's link leads."""
        return (self.course / "data").resolve(strict=True)


def _answer(server: Jupyter) -> str:
    cells = server.notebook("reports.ipynb")["cells"]
    return str(next(cell for cell in cells if cell["id"] == "answer")["source"])


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def _kind(command: str) -> str:
    """What a person calls the process with this command line."""
    for part, name in (
        ("datamount up", "datamount up"),
        ("ipykernel", "Python kernel"),
        ("IRkernel", "R kernel"),
        ("jupyter", "JupyterLab"),
        ("sidecar", "sidecar"),
    ):
        if part in command:
            return name
    return command.split(" ", maxsplit=1)[0].rpartition("/")[2]
