"""What a scan finds and leaves out, and that no file is ever taken torn."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from datamount.snapshots import excludes
from datamount.snapshots import scan as scanning
from datamount.snapshots.excludes import Excludes
from datamount.snapshots.scan import FileChanged, Patience, VerifiedFile, read_file, scan


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


SECRETS = [
    *(".env", "a/.env.local", "prod.env", ".envrc", ".secrets", ".streamlit/secrets.toml", "token", "a/my.token"),
    *(".ssh/id_rsa", "id_ed25519", "k.pem", "server.key", ".gnupg/x", "home/.local/share/keyrings/login.keyring"),
    *(".aws/credentials", ".config/gcloud/x.db", ".kube/config", "a/kubeconfig", ".docker/config.json", ".s3cfg"),
    *(".config/rclone/rclone.conf", ".vault-token", "a/b/credentials.json", "client_secret_1.json", ".irods/.irodsA"),
    *(".netrc", ".git-credentials", ".git/credentials", ".git/annex/creds/x", ".config/gh/hosts.yml", ".pypirc"),
    *(".my.cnf", ".mylogin.cnf", ".pgpass", ".Renviron", ".kaggle/kaggle.json", "a/kaggle.json", ".cdsapirc"),
    *(".huggingface/token", ".pachyderm/config.json", ".local/share/Quilt/auth.json", ".dvc/config.local"),
    *(".jupyter/jupyter_server_config.json", ".local/share/jupyter/runtime/kernel-1.json"),
    *("run/kernel-0b1c2d3e-0b1c-0b1c-0b1c-0b1c2d3e4f50.json", "run/jpserver-7.json", "run/jupyter_cookie_secret"),
    *(".bash_history", ".mysql_history", ".ipython/profile_default/history.sqlite", ".Xauthority"),
]
CACHES = ["__pycache__/a.pyc", ".ipynb_checkpoints/a.ipynb", "s/.cache/huggingface/token", "node_modules/x/y"]
LOCKS = [".git/index.lock", ".git/refs/heads/main.lock", "sub/.git/config.lock"]
WORK = [
    *(".env.example", "tokens.csv", "tokenizer.json", ".git/config", "poetry.lock", ".hidden", "environment.yml"),
    *("a/plain", "kernel-density.json", "kernels.ipynb", "keys.csv", "credentials.ipynb", "id_cards.csv", "config"),
    *("nlp/token/lesson.ipynb", "credentials_/x", "web/credentials/report.ipynb", "x.env/a.py", "pem.pem_/a"),
    *("environment.csv", ".Rprofile", ".Rhistory", ".RData", "secrets.ipynb", "logs/run.log", "pip.conf"),
]


def test_secrets_caches_and_locks_are_left_out_and_named(tmp_path: Path) -> None:
    """The defaults leave out what they should, say why, and keep ordinary work that looks like it."""
    touch(tmp_path, *SECRETS, *CACHES, *LOCKS, *WORK)
    result = scan(tmp_path, Excludes())
    assert {f.path for f in result.found if f.is_file} == set(WORK)
    for names, why in ((SECRETS, "may hold a secret"), (CACHES, "a cache"), (LOCKS, "a lock of a running program")):
        for name in names:
            reasons = {s.reason for s in result.skipped if s.path in (name, name[: len(s.path)])}
            assert reasons == {why}, name


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
@pytest.mark.parametrize("file", [".git/config", "in/.git/config.worktree", ".git/modules/sub/config", "b.git/config"])
def test_a_repos_login_is_left_out(tmp_path: Path, config: str, left_out: bool, file: str) -> None:
    """The token in the URL of a clone's remote is never saved; a configuration without one is."""
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(config)
    (tmp_path / "config").write_text("https://ann:x@example.org is in a text of the student")
    seen = scan(tmp_path, Excludes())
    assert (file in {s.path for s in seen.skipped}) == left_out
    assert (file in {f.path for f in seen.found}) != left_out
    assert "config" in {f.path for f in seen.found}
    assert file in {f.path for f in scan(tmp_path, Excludes([f"!{file}"])).found}


@pytest.mark.parametrize(
    ("file", "content"),
    [
        (".gitconfig", '[url "https://ann:ghp_0123@example.org/"]\n\tinsteadOf = https://example.org/\n'),
        (".config/git/config", "[github]\n\toauth-token = 0123\n"),
        (".gitmodules", "\turl = https://oauth2:glpat-0123@example.org/x\n"),
        (".config/pip/pip.conf", "[global]\nindex-url = https://ann:pw@pypi.example.org/simple\n"),
        (".condarc", "channels:\n  - https://conda.example.org/t/x\nproxy_servers:\n  http: http://a:b@proxy:80\n"),
        (".yarnrc.yml", 'npmAuthToken: "0123"\n'),
        (".dvc/config", "['remote \"x\"']\n    password = 0123\n"),
    ],
)
def test_settings_with_a_login_are_left_out(tmp_path: Path, file: str, content: str) -> None:
    """Settings of git and package managers with a login in them are not saved, without one they are."""
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(content)
    assert [(s.path, s.reason) for s in scan(tmp_path, Excludes()).skipped] == [(file, "may hold a secret")]
    (tmp_path / file).write_text("[user]\n\tname = Ann\n\temail = ann@example.org\n\turl = ssh://git@example.org/x\n")
    assert scan(tmp_path, Excludes()).skipped == []


def test_a_token_given_to_git_pull_is_not_saved(tmp_path: Path) -> None:
    """`git pull https://user:token@…` leaves the token in git's logs and nowhere else; no save takes it from there."""

    def git(folder: Path, *arguments: str) -> None:
        who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]
        subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True)

    course, work = tmp_path / "course", tmp_path / "work"
    course.mkdir()
    git(course, "init")
    git(course, "commit", "--allow-empty", "-m", "one")
    git(tmp_path, "clone", str(course), str(work))
    git(course, "commit", "--allow-empty", "-m", "two")
    assert not [s for s in scan(work, Excludes()).skipped if "log" in s.path]
    git(work, "pull", f"file://ann:ghp_0123@localhost{course}")
    holding = [p for p in work.rglob("*") if p.is_file() and b"ghp_0123" in p.read_bytes()]
    assert holding
    assert not {str(p.relative_to(work)) for p in holding} & {f.path for f in scan(work, Excludes()).found}


def test_one_pass_finds_what_the_patterns_find() -> None:
    """The cheap look that comes first finds all that any default pattern matches."""
    for name in [*SECRETS, *CACHES, *LOCKS, "d/.DS_Store", ".~lock.x#", "a/.nfs01", "x/.datamount/y", "my.token"]:
        assert excludes._maybe(name), name
    assert not any(excludes._maybe(name) for name in ["nb.ipynb", "a/b/c.csv", "tokens.csv"])


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
    reading = read_file(tmp_path, "a.ipynb", 1000, Patience(100))
    thread.join()
    assert (reading.data, reading.warning) == (b'{"new": 1}', "")


def test_a_torn_notebook_is_read_again(tmp_path: Path) -> None:
    """A notebook that does not parse is read again until it does."""
    notebook = tmp_path / "a.ipynb"
    whole = json.dumps({"cells": ["x"] * 1000})
    notebook.write_text(whole[:500])
    thread = threading.Timer(0.03, lambda: notebook.write_text(whole))
    thread.start()
    reading = read_file(tmp_path, "a.ipynb", 1 << 20, Patience(100))
    thread.join()
    assert (reading.data, reading.warning) == (whole.encode(), "")


@pytest.mark.parametrize("name", ["a.ipynb", "a.py"])
def test_a_file_that_was_just_emptied_is_read_again(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that truncates a file and then writes it is not caught between the two, without a copy beside, too."""
    monkeypatch.setattr(scanning, "_EMPTIED_NOTEBOOK" if name.endswith(".ipynb") else "_EMPTIED", 30e9)
    (tmp_path / name).write_text("{}")
    done = threading.Event()

    def rewrite() -> None:
        with (tmp_path / name).open("w") as file:
            done.set()
            time.sleep(0.05)
            file.write('{"new": 1}')

    thread = threading.Thread(target=rewrite)
    thread.start()
    done.wait()
    reading = read_file(tmp_path, name, 1000, Patience(100))
    thread.join()
    assert (reading.data, reading.warning) == (b'{"new": 1}', "")


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
    assert read_file(tmp_path, "a.ipynb", 1000, Patience(100)).data == b'{"new": 1}'
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
