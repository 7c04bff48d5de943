"""What a scan finds and leaves out, and that no file is ever taken torn."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from datamount.snapshots import scan as scanning
from datamount.snapshots.scan import Excludes, FileChanged, Patience, VerifiedFile, read_file, scan


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


SECRETS = [".env", "a/.env.local", ".ssh/id_rsa", ".aws/credentials", "k.pem", ".git-credentials", "token", ".my.cnf"]
CACHES = ["__pycache__/a.pyc", ".ipynb_checkpoints/a.ipynb", "s/.cache/x", "node_modules/x/y"]
LOCKS = [".git/index.lock", ".git/refs/heads/main.lock", "sub/.git/config.lock"]
WORK = [
    ".env.example",
    "tokens.csv",
    "tokenizer.json",
    ".git/config",
    "poetry.lock",
    ".hidden",
    "environment.yml",
    "a/b",
]


def test_secrets_caches_and_locks_are_left_out_and_named(tmp_path: Path) -> None:
    """The defaults leave out what they should, say why, and keep ordinary work that looks like it."""
    touch(tmp_path, *SECRETS, *CACHES, *LOCKS, *WORK)
    result = scan(tmp_path, Excludes())
    assert {f.path for f in result.found if f.is_file} == set(WORK)
    for names, why in ((SECRETS, "may hold a secret"), (CACHES, "a cache"), (LOCKS, "a lock of a running program")):
        for name in names:
            assert any((name == s.path or name.startswith(s.path)) and s.reason == why for s in result.skipped), name


@pytest.mark.parametrize(
    ("config", "left_out"),
    [
        ('[remote "origin"]\n\turl = https://ann:ghp_0123@example.org/a/b\n', True),
        ('[remote "origin"]\n\turl = https://ghp_0123@example.org/a/b\n', True),
        ('[http "https://example.org/"]\n\textraHeader = AUTHORIZATION: basic eDp5\n', True),
        ('[remote "origin"]\n\turl = https://example.org/a/b\n', False),
        ('[remote "origin"]\n\turl = git@example.org:a/b\n', False),
    ],
)
@pytest.mark.parametrize("repo", [".git", "inner/.git", ".git/modules/sub"])
def test_a_repos_login_is_left_out(tmp_path: Path, config: str, left_out: bool, repo: str) -> None:
    """The token in the URL of a clone's remote is never saved; a configuration without one is."""
    (tmp_path / repo).mkdir(parents=True)
    (tmp_path / repo / "config").write_text(config)
    (tmp_path / "config").write_text("https://ann:x@example.org is in a text of the student")
    seen = scan(tmp_path, Excludes())
    assert (f"{repo}/config" in {s.path for s in seen.skipped}) == left_out
    assert (f"{repo}/config" in {f.path for f in seen.found}) != left_out
    assert "config" in {f.path for f in seen.found}
    assert f"{repo}/config" in {f.path for f in scan(tmp_path, Excludes([f"!{repo}/config"])).found}


def test_one_pass_finds_what_the_patterns_find() -> None:
    """The single pattern that is asked first matches all that any default pattern matches."""
    for name in [*SECRETS, *CACHES, *LOCKS, "d/.DS_Store", ".~lock.x#", "a/.nfs01", "x/.datamount/y", "my.token"]:
        assert scanning._maybe(name), name
    assert not any(scanning._maybe(name) for name in ["nb.ipynb", "a/b/c.csv", "poetry.lock", "tokens.csv"])


def test_the_callers_patterns_come_first(tmp_path: Path) -> None:
    """Patterns as in .gitignore leave out more; !pattern brings back what the defaults leave out."""
    touch(tmp_path, "scratch/a", "b.h5", "keep.pem", "other.pem", "deep/scratch/c")
    result = scan(tmp_path, Excludes(["scratch/", "*.h5", "!keep.pem"]))
    assert [f.path for f in result.found if f.is_file] == ["keep.pem"]


def test_links_are_found_not_followed(tmp_path: Path) -> None:
    """A link is an entry of its own with its target; the link to the course's data is left out."""
    touch(tmp_path, "outside/x", "work/a")
    (tmp_path / "work/l").symlink_to(tmp_path / "outside")
    (tmp_path / "work/data").symlink_to("/data")
    result = scan(tmp_path / "work", Excludes())
    assert [(f.path, f.target) for f in result.found] == [("a", ""), ("l", str(tmp_path / "outside"))]
    assert [s.path for s in result.skipped] == ["data"]


def test_a_file_beside_jupyters_copy_is_waited_for(tmp_path: Path) -> None:
    """While `.~name` exists the file is not believed; once it is gone, the new content is read without a warning."""
    notebook, beside = tmp_path / "a.ipynb", tmp_path / ".~a.ipynb"
    beside.write_text('{"old": 1}')
    notebook.write_text("")

    def finish() -> None:
        time.sleep(0.2)
        notebook.write_text('{"new": 1}')
        beside.unlink()

    thread = threading.Thread(target=finish)
    thread.start()
    reading = read_file(tmp_path, "a.ipynb", 1000, Patience(30))
    thread.join()
    assert (reading.data, reading.warning) == (b'{"new": 1}', "")


def test_a_torn_notebook_is_read_again(tmp_path: Path) -> None:
    """A notebook that does not parse is read again until it does."""
    notebook = tmp_path / "a.ipynb"
    whole = json.dumps({"cells": ["x"] * 1000})
    notebook.write_text(whole[:500])
    thread = threading.Timer(0.1, lambda: notebook.write_text(whole))
    thread.start()
    reading = read_file(tmp_path, "a.ipynb", 1 << 20, Patience(30))
    thread.join()
    assert (reading.data, reading.warning) == (whole.encode(), "")


@pytest.mark.parametrize("beside", [False, True])
def test_a_file_that_never_settles_is_kept_with_a_warning(tmp_path: Path, beside: bool) -> None:
    """When patience ends the file is returned as it is, with a warning, and is not trusted by the index."""
    (tmp_path / "a.ipynb").write_text('{"cells": [' if not beside else "{}")
    if beside:
        (tmp_path / ".~a.ipynb").write_text("{}")
    reading = read_file(tmp_path, "a.ipynb", 1000, Patience(0.1))
    assert reading.warning and reading.read_ns == 0


def test_a_large_file_that_changed_never_goes_up(tmp_path: Path) -> None:
    """The body of an upload raises before its last chunk when the content is not that of the digest."""
    (tmp_path / "f").write_bytes(os.urandom(3 << 20))
    taken = 0
    with pytest.raises(FileChanged):
        for chunk in VerifiedFile(tmp_path / "f", "0" * 64):
            taken += len(chunk)
    assert taken < 3 << 20
    with pytest.raises(FileChanged):
        list(VerifiedFile(tmp_path / "gone", "0" * 64))


@pytest.mark.parametrize("half", [b"", b'{"cells": ['])
@pytest.mark.parametrize("kept", [b'{"old": 1}', b'{"ol', None])
def test_a_notebook_that_stays_torn_is_never_taken(tmp_path: Path, half: bytes, kept: bytes | None) -> None:
    """Out of patience, an empty or half notebook comes with Jupyter's copy of what it was, or not at all."""
    (tmp_path / "a.ipynb").write_bytes(half)
    beside = tmp_path / ".~a.ipynb"
    beside.write_bytes(kept if kept is not None else b"")
    if kept == b'{"old": 1}':
        reading = read_file(tmp_path, "a.ipynb", 10, Patience(0.1))
        assert reading.data == kept and "being written" in reading.warning and reading.read_ns == 0
    else:
        with pytest.raises(OSError, match="being written"):
            read_file(tmp_path, "a.ipynb", 10, Patience(0.1))


def test_a_write_that_ends_while_one_looks_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When Jupyter's save ends between the read of an empty file and the look beside it, the read is not believed."""
    notebook, beside = tmp_path / "a.ipynb", tmp_path / ".~a.ipynb"
    notebook.write_bytes(b"")
    looks = []
    real = scanning._exists

    def finishing(path: Path) -> bool:
        looks.append(path)
        if len(looks) == 2:  # the first is before the read
            notebook.write_bytes(b'{"new": 1}')
        return real(path)

    monkeypatch.setattr(scanning, "_exists", finishing)
    assert read_file(tmp_path, "a.ipynb", 1000, Patience(5)).data == b'{"new": 1}'
    assert not beside.exists()


def test_a_folder_swapped_for_a_link_is_not_followed(tmp_path: Path) -> None:
    """A file is read only inside the tree, though a folder on its way became a link after the tree was listed."""
    home, secret = tmp_path / "home", tmp_path / "elsewhere"
    (home / "folder").mkdir(parents=True)
    (home / "folder" / "notes.txt").write_text("mine")
    secret.mkdir()
    (secret / "notes.txt").write_text("a key of the sidecar")
    assert read_file(home, "folder/notes.txt", 100, Patience(0)).data == b"mine"
    (home / "folder").rename(home / "was")
    (home / "folder").symlink_to(secret)
    with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
        read_file(home, "folder/notes.txt", 100, Patience(0))
