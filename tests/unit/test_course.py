"""Opening a course: from a folder, from git, and from what is neither. With the real git."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from datamount.course import NoManifest, find_manifest, normalise_url, open_course, split_ref
from datamount.errors import DatamountError, ManifestError, NotFound, Unavailable, UsageError

MANIFEST = "version: 1\ndatasets:\n  glossary: {url: 'https://example.edu/g.csv'}\n"


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-c", "user.name=A", "-c", "user.email=a@example.edu", "-C", str(folder), *arguments],
        check=True,
        capture_output=True,
        text=True,
        timeout=100,
    )
    return done.stdout.strip()


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A git repo of two commits: the first is tagged v1, the second adds a dataset; branch "old" is the first."""
    folder = tmp_path / "origin" / "radiology-101"
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    (folder / "datamount.yaml").write_text(MANIFEST)
    (folder / "lab.ipynb").write_text("{}")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "one")
    git(folder, "tag", "v1")
    git(folder, "branch", "old/one")
    (folder / "datamount.yaml").write_text(MANIFEST + "  more: {url: 'https://example.edu/m.csv'}\n")
    git(folder, "commit", "-q", "-a", "-m", "two")
    return folder


@pytest.mark.parametrize(
    ("folders", "files", "expected"),
    [
        ([], ["datamount.yaml"], "datamount.yaml"),
        (["binder"], ["binder/datamount.yaml"], "binder/datamount.yaml"),
        ([".binder"], [".binder/datamount.yaml"], ".binder/datamount.yaml"),
        (["binder"], ["binder/datamount.yaml", "datamount.yaml"], "binder/datamount.yaml"),
        (["binder"], ["datamount.yaml"], None),
        ([".binder"], ["datamount.yaml"], None),
        ([], ["binder"], None),
        ([], [], None),
    ],
)
def test_the_manifest_is_where_repo2docker_looks(
    tmp_path: Path, folders: list[str], files: list[str], expected: str | None
) -> None:
    """One place counts: .binder, else binder, else the root; a manifest elsewhere is not used."""
    for folder in folders:
        (tmp_path / folder).mkdir()
    for file in files:
        (tmp_path / file).write_text(MANIFEST)
    assert find_manifest(tmp_path) == (tmp_path / expected if expected else None)


def test_both_binder_folders_are_an_error(tmp_path: Path) -> None:
    """A course with .binder and binder is refused, even when only one has a manifest, as repo2docker refuses it."""
    (tmp_path / "binder").mkdir()
    (tmp_path / ".binder").mkdir()
    (tmp_path / ".binder/datamount.yaml").write_text(MANIFEST)
    with pytest.raises(ManifestError, match=r"\.binder"):
        open_course(str(tmp_path))


def test_a_missing_manifest_says_where_it_was_looked_for(tmp_path: Path) -> None:
    """The error names the place that counts, and the manifest that stands where it does not count."""
    (tmp_path / "binder").mkdir()
    with pytest.raises(NoManifest) as caught:
        open_course(str(tmp_path))
    assert caught.value.exit_code == 2
    assert "looked in binder/" in caught.value.message
    (tmp_path / "datamount.yaml").write_text(MANIFEST)
    with pytest.raises(NoManifest) as caught:
        open_course(str(tmp_path))
    assert "the root" in caught.value.hint


def test_a_plain_folder(tmp_path: Path) -> None:
    """A folder outside git is a course named by the folder."""
    folder = tmp_path / "stat-101"
    folder.mkdir()
    (folder / "datamount.yaml").write_text(MANIFEST)
    course = open_course(str(folder))
    assert (course.folder, course.lock_path) == (folder, folder / "datamount.lock")
    assert (course.repo_url, course.ref, course.name, course.identity) == (None, None, "stat-101", "stat-101")
    assert list(course.manifest.datasets) == ["glossary"]


def test_the_manifest_must_not_link_out_of_the_course(tmp_path: Path) -> None:
    """A datamount.yaml that is a link to someone's file is refused before the file is read."""
    (tmp_path / "secret").write_text("token: hunter2\n")
    (tmp_path / "course").mkdir()
    (tmp_path / "course/datamount.yaml").symlink_to(tmp_path / "secret")
    with pytest.raises(ManifestError) as caught:
        open_course(str(tmp_path / "course"))
    assert "token" not in caught.value.message


@pytest.mark.parametrize("target", ["/dev/zero", "../elsewhere.lock", "missing"])
def test_the_lock_must_not_link_out_of_the_course(tmp_path: Path, target: str) -> None:
    """A datamount.lock that is a link to something else is refused, and not taken for a lock that is not there."""
    (tmp_path / "elsewhere.lock").write_text("{}")
    (tmp_path / "course").mkdir()
    (tmp_path / "course/datamount.yaml").write_text(MANIFEST)
    (tmp_path / "course/datamount.lock").symlink_to(target)
    with pytest.raises(ManifestError, match="link that leads out"):
        open_course(str(tmp_path / "course"))


def test_a_checkout(repo: Path) -> None:
    """A git checkout is identified by its origin, without credentials, and knows its commit."""
    git(repo, "remote", "add", "origin", "https://me:hunter2@GitHub.com/Org/radiology-101.git")
    course = open_course(str(repo))
    assert course.repo_url == course.identity == "https://github.com/Org/radiology-101"
    assert course.ref == git(repo, "rev-parse", "HEAD")
    assert course.name == "radiology-101"


def test_a_folder_inside_another_repo_is_not_that_repo(repo: Path) -> None:
    """A course below a repo's root does not share the identity of the repo around it."""
    git(repo, "remote", "add", "origin", "https://github.com/org/around")
    (repo / "sub").mkdir()
    (repo / "sub/datamount.yaml").write_text(MANIFEST)
    course = open_course(str(repo / "sub"))
    assert (course.identity, course.ref) == ("sub", None)


@pytest.mark.parametrize(
    ("ref", "datasets"), [("", 2), ("@v1", 1), ("@old/one", 1), ("@main", 2)], ids=["default", "tag", "branch", "main"]
)
def test_a_git_url(repo: Path, tmp_path: Path, ref: str, datasets: int) -> None:
    """A git URL gives the course at the ref that it names, else at the default branch; its identity has no ref."""
    course = open_course(f"file://{repo}{ref}", into=tmp_path / "clone")
    assert len(course.manifest.datasets) == datasets
    assert course.ref == git(repo, "rev-parse", (ref or "@main")[1:])
    assert course.identity == f"file://{repo}"
    assert course.name == "radiology-101"
    assert (tmp_path / "clone/lab.ipynb").exists()


def test_a_git_url_at_a_commit(repo: Path, tmp_path: Path) -> None:
    """A full commit ID works as a ref, and the clone is shallow."""
    commit = git(repo, "rev-parse", "HEAD")
    course = open_course(f"file://{repo}@{commit}", into=tmp_path / "clone")
    assert course.ref == commit
    assert git(tmp_path / "clone", "rev-list", "--count", "HEAD") == "1"


def test_a_clone_runs_no_hook_and_no_submodule(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a template's hook nor a submodule of a stranger's repo is acted on."""
    hooks = tmp_path / "template/hooks"
    hooks.mkdir(parents=True)
    (hooks / "post-checkout").write_text(f"#!/bin/sh\ntouch {tmp_path}/hooked\n")
    (hooks / "post-checkout").chmod(0o755)
    git(repo, "-c", "protocol.file.allow=always", "submodule", "add", "-q", f"file://{repo}", "inner")
    git(repo, "commit", "-q", "-m", "three")
    monkeypatch.setenv("GIT_TEMPLATE_DIR", str(tmp_path / "template"))
    open_course(f"file://{repo}", into=tmp_path / "clone")
    assert not (tmp_path / "hooked").exists()
    assert not list((tmp_path / "clone/inner").iterdir())


@pytest.mark.parametrize(
    "url",
    [
        "--upload-pack=touch HERE",
        "-oProxyCommand=x",
        "ext::sh -c touch% HERE",
        "ext://sh",
        "fd::3",
        "ssh://-oProxyCommand=touch/x",
        "ssh://git@-oProxyCommand=touch/x",
        "-x@host:path",
        "https://",
        "https://host/a b",
        "https://[bad/x",
        "ftp://host/x",
        "https://me:hunter2@host/x",
        "file:///x@--upload-pack=y",
        "file:///x@+a:b",
        "file:///x@a..b",
    ],
)
def test_urls_that_git_must_not_see(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL that git or ssh would take for an option or a command is refused before git starts."""
    monkeypatch.setenv("PATH", str(tmp_path))  # no git here: starting it would end in another message
    with pytest.raises(UsageError) as caught:
        open_course(url.replace("HERE", str(tmp_path / "hacked")), into=tmp_path / "clone")
    assert "needs the program git" not in caught.value.message
    assert "hunter2" not in caught.value.sentence()
    assert not (tmp_path / "hacked").exists()


def test_a_failed_clone_leaves_nothing(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a wrong URL, a wrong ref or a course without a manifest, no temporary folder is left."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    cases: list[tuple[str, type[DatamountError], str]] = [
        (f"file://{repo}-none", NotFound, "no git repo"),
        (f"file://{repo}@v9", NotFound, '"v9"'),
        ("https://127.0.0.1:1/x", Unavailable, "could not clone"),
    ]
    for url, kind, said in cases:
        with pytest.raises(kind, match=said):
            open_course(url)
        assert not list((tmp_path / "tmp").iterdir())
        with pytest.raises(kind):
            open_course(url, into=tmp_path / "clone")
        assert not (tmp_path / "clone").exists()
    git(repo, "rm", "-q", "datamount.yaml")
    git(repo, "commit", "-q", "-m", "none")
    with pytest.raises(NoManifest):
        open_course(f"file://{repo}")
    assert not list((tmp_path / "tmp").iterdir())


def test_a_clone_never_goes_over_files(repo: Path, tmp_path: Path) -> None:
    """A folder with files in it is not cloned into, and stays as it is."""
    (tmp_path / "mine").write_text("x")
    with pytest.raises(UsageError, match="not empty"):
        open_course(f"file://{repo}", into=tmp_path)
    assert (tmp_path / "mine").read_text() == "x"


def test_neither_a_folder_nor_a_url(tmp_path: Path) -> None:
    """A mistyped folder is told from a URL, and of a file's its folder is named."""
    with pytest.raises(UsageError, match="no folder"):
        open_course(str(tmp_path / "nope"))
    for name in ("datamount.yaml", "binder/datamount.yaml", "week-1.ipynb"):
        file = tmp_path / "stat-101" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(MANIFEST)
        with pytest.raises(UsageError, match="is a file") as caught:
            open_course(str(file))
        assert caught.value.hint == f'Give its folder: "{tmp_path}/stat-101".'


@pytest.mark.parametrize(
    ("words", "said", "hint"),
    [
        ("git@host: Permission denied (publickey).", "git@host: Permission denied (publickey).", "Add your ssh key"),
        ("Host key verification failed.", "Host key verification failed.", "ssh -T"),
        ("ssh: connect to host host port 22: Connection refused", "connect to host host port 22", "not let through"),
        ("ssh: Could not resolve hostname host: Name or service not known", "Could not resolve hostname", "the URL"),
    ],
)
def test_a_clone_that_ssh_refused_says_what_ssh_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, said: str, hint: str
) -> None:
    """git's own line, that it could not read from the remote, helps nobody: ssh's reason is shown, and what to do."""
    monkeypatch.setenv("GIT_SSH_COMMAND", f"sh -c 'echo \"{words}\" >&2; exit 255'")
    with pytest.raises(Unavailable) as caught:
        open_course("git@host:org/course.git", into=tmp_path / "clone")
    assert said in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.skipif(os.name != "posix", reason="file URLs of drives")
@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://github.com/org/repo", "https://github.com/org/repo"),
        ("https://GitHub.com/Org/Repo.git/", "https://github.com/Org/Repo"),
        ("git@github.com:org/repo.git", "https://github.com/org/repo"),
        ("ssh://git@github.com:22/org/repo.git", "https://github.com/org/repo"),
        ("git://host.example.edu/a/b.git", "https://host.example.edu/a/b"),
        ("http://me:pw@host:80/a", "https://host/a"),
        ("https://token@host:8443/a//b?x=1#y", "https://host:8443/a/b"),
        ("https://[::1]:3000/a", "https://[::1]:3000/a"),
        ("file:///srv/git/a.git", "file:///srv/git/a"),
        ("/srv/git/a.git", "file:///srv/git/a"),
    ],
)
def test_one_spelling_for_every_url(url: str, expected: str) -> None:
    """All ways to write a repo's URL name the same course, and none keeps a credential."""
    assert normalise_url(url) == expected
    assert normalise_url(expected) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("https://host/a/b", ("https://host/a/b", None)),
        ("https://host/a/b@v1", ("https://host/a/b", "v1")),
        ("https://me@host/a", ("https://me@host/a", None)),
        ("git@host:a/b.git", ("git@host:a/b.git", None)),
        ("git@host:a/b.git@feature/x", ("git@host:a/b.git", "feature/x")),
        ("ssh://git@host/a@4c1e", ("ssh://git@host/a", "4c1e")),
    ],
)
def test_the_ref_after_the_url(source: str, expected: tuple[str, str | None]) -> None:
    """URL@REF is split at the path, so a user name before the host is never taken for a URL's end."""
    assert split_ref(source) == expected
