"""The seed script, run by real shells on odd homes."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from datamount.errors import ManifestError
from datamount.inject import SEED_SCRIPT
from datamount.pod.handover import read_handover, take_from_image

SHELLS = [shell for shell in ("dash", "bash", "busybox") if shutil.which(shell)]


class Seed:
    """One seed container: an image's home, the new volume, the hand-over folder."""

    def __init__(self, folder: Path, shell: str) -> None:
        self.shell = [shell, "sh"] if shell == "busybox" else [shell]
        self.home, self.volume, self.out = folder / "home", folder / "volume", folder / "out"
        for path in (self.home, self.volume, self.out):
            path.mkdir()

    def run(self, mode: str = "copy", **environment: str) -> str:
        """What it prints; it must end with 0."""
        done = subprocess.run(
            [*self.shell, "-c", SEED_SCRIPT, "seed", self.home, mode, self.volume, self.out],
            env={"PATH": os.environ["PATH"]} | environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    def fact(self, name: str) -> str:
        file = self.out / name
        return file.read_text().strip() if file.exists() else ""


@pytest.fixture(params=SHELLS)
def seed(request: pytest.FixtureRequest, tmp_path: Path) -> Seed:
    return Seed(tmp_path, request.param)


def tree(folder: Path) -> dict[str, tuple[str, str, int]]:
    """Every entry below a folder: its kind and content, and its mode."""
    found = {}
    for path in sorted(folder.rglob("*")):
        kind = stat.S_IFMT(path.lstat().st_mode)
        content = str(path.readlink()) if path.is_symlink() else path.read_bytes().hex() if path.is_file() else ""
        found[os.fsencode(path.relative_to(folder)).decode("latin-1")] = (str(kind), content, path.lstat().st_mode)
    return found


def test_the_home_is_copied_whole(seed: Seed) -> None:
    """Hidden files, links (also dangling ones), empty folders, odd names, modes and times arrive as they are; a
    home's entries may begin with any character."""
    home = seed.home
    for name in ("a b.ipynb", "-rf", "..odd", ".hidden", "new\nline", "ünïcode", "*", "$HOME", "'q\"", "--", "\\n"):
        (home / name).write_text(name)
    (home / os.fsdecode(b"not-utf8-\xff")).write_text("x")
    (home / "dir" / "deep").mkdir(parents=True)
    (home / "dir" / "empty").mkdir()
    (home / "dir" / "run.sh").write_text("#!/bin/sh\n")
    (home / "dir" / "run.sh").chmod(0o755)
    (home / "dir" / ".git").mkdir()
    (home / "link").symlink_to("dir/run.sh")
    (home / "dangling").symlink_to("/nowhere/at/all")
    (home / ".linkdir").symlink_to("dir")
    (home / "loop").symlink_to("loop")
    os.utime(home / ".hidden", ns=(1_600_000_000_000_000_000,) * 2)
    said = seed.run()
    assert tree(seed.volume) == tree(home)
    assert (seed.volume / ".hidden").stat().st_mtime_ns == 1_600_000_000_000_000_000
    assert said == ""
    assert not (seed.out / "problems").exists()
    assert (seed.out / "seeded").exists()


def test_an_empty_home_is_copied(seed: Seed) -> None:
    """A home without anything in it is no problem."""
    assert seed.run() == ""
    assert tree(seed.volume) == {}


def test_a_second_run_leaves_the_students_files_alone(seed: Seed) -> None:
    """When the pod's containers run again, nothing is copied over what the student wrote."""
    (seed.home / "a.txt").write_text("course")
    seed.run()
    (seed.volume / "a.txt").write_text("student")
    seed.run()
    assert (seed.volume / "a.txt").read_text() == "student"


def test_a_killed_run_is_taken_up(seed: Seed) -> None:
    """A run that was killed in the middle is done again whole."""
    (seed.home / "a.txt").write_text("course")
    (seed.volume / "a.txt").write_text("cou")
    seed.run()
    assert (seed.volume / "a.txt").read_text() == "course"


MANIFEST = "version: 1\n"


@pytest.mark.parametrize("sub", [".binder", "binder", "."])
def test_the_manifest_is_found_as_repo2docker_finds_its_files(seed: Seed, sub: str) -> None:
    """Manifest and lock are handed over in the folder that they are in, and that folder even when it is empty."""
    (seed.home / sub).mkdir(exist_ok=True)
    (seed.home / sub / "datamount.yaml").write_text(MANIFEST)
    (seed.home / sub / "datamount.lock").write_text("lock")
    (seed.home / sub / "environment.yml").write_text("not ours")
    seed.run()
    assert (seed.out / "tree" / sub / "datamount.yaml").read_text() == MANIFEST
    assert (seed.out / "tree" / sub / "datamount.lock").read_text() == "lock"
    assert not (seed.out / "tree" / sub / "environment.yml").exists()
    assert seed.fact("folder") == str(seed.home)


def test_an_ignored_manifest_is_handed_over_too(seed: Seed) -> None:
    """A manifest where repo2docker would not look, beside the folder where it would, is handed over, so that the
    author is told."""
    (seed.home / "binder").mkdir()
    (seed.home / "datamount.yaml").write_text(MANIFEST)
    seed.run()
    handover = read_handover(seed.out, seed.out.with_name("copy"))
    assert handover.fault is not None
    assert "There is one in the root" in handover.fault.sentence()


def test_repo_dir_wins_over_the_home(seed: Seed) -> None:
    """The repo is where the image's REPO_DIR says; a home without a manifest is looked at when that has none."""
    repo = seed.home.with_name("srv")
    repo.mkdir()
    (repo / "datamount.yaml").write_text("version: 1 # repo\n")
    (seed.home / "datamount.yaml").write_text("version: 1 # home\n")
    seed.run(REPO_DIR=str(repo))
    assert "# repo" in (seed.out / "tree" / "datamount.yaml").read_text()


def test_a_home_of_the_hub_is_not_written(seed: Seed) -> None:
    """Where the home is a volume of the hub's, nothing is copied; its manifest counts when the image has none."""
    (seed.home / "a.txt").write_text("image")
    (seed.volume / "datamount.yaml").write_text(MANIFEST)
    seed.run("kept")
    assert sorted(path.name for path in seed.volume.iterdir()) == ["datamount.yaml"]
    assert (seed.out / "tree" / "datamount.yaml").read_text() == MANIFEST


def test_the_repo_of_the_image_is_named(seed: Seed) -> None:
    """Origin and commit of the repo in the image are handed over, where the image has git."""
    if not shutil.which("git"):
        pytest.skip("no git")
    for command in (
        ["init", "--quiet"],
        ["remote", "add", "origin", "https://github.com/org/course.git"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--allow-empty", "-m", "x"],
    ):
        subprocess.run(["git", "-C", str(seed.home), *command], check=True, timeout=100)
    seed.run(HOME=str(seed.home))
    handover = read_handover(seed.out, seed.out.with_name("copy"), image="reg/x:1")
    assert handover.course.identity == "https://github.com/org/course"
    assert handover.course.ref == seed.fact("commit")
    assert handover.uid == os.getuid()


def test_the_images_own_jupyter_configuration_is_named(seed: Seed) -> None:
    """What the image says in JUPYTER_CONFIG_PATH is handed over; nothing where it says nothing."""
    seed.run(JUPYTER_CONFIG_PATH="/etc/course:/opt/a b")
    found = read_handover(seed.out, seed.out.with_name("copy"), image="reg/x:1")
    assert found.jupyter_config_path == "/etc/course:/opt/a b"
    (seed.out / "seeded").unlink()
    seed.run()
    assert read_handover(seed.out, seed.out.with_name("copy")).jupyter_config_path == ""


@pytest.mark.parametrize(("size", "taken"), [(9 << 20, True), (48 << 20, True), ((48 << 20) + 1, False)])
def test_a_lock_is_handed_over_or_missed(tmp_path: Path, size: int, taken: bool) -> None:
    """A large lock counts as a small one does; of one that is too large the author is told, since without it the data
    would be delivered unverified."""
    image, script = tmp_path / "image", tmp_path / "script"
    script.mkdir()
    seed = Seed(script, SHELLS[0])
    (image / "home").mkdir(parents=True)
    for home in (seed.home, image / "home"):
        (home / "datamount.yaml").write_text(MANIFEST)
        with (home / "datamount.lock").open("wb") as lock:
            lock.truncate(size)
    seed.run()
    take_from_image(image, Path("/home"), None, tmp_path / "out")
    for out in (seed.out, tmp_path / "out"):
        handover = read_handover(out, tmp_path / "copy")
        if taken:
            assert handover.fault is None
            assert handover.course.lock_path.stat().st_size == size
        else:
            assert isinstance(handover.fault, ManifestError)
            assert "datamount.lock: it is a link, cannot be read, or has more than 48 MiB" in handover.fault.message


@pytest.mark.parametrize("name", ["datamount.lock", "datamount.yaml"])
def test_a_file_that_is_no_file_is_missed(tmp_path: Path, name: str) -> None:
    """A manifest or a lock that leads out of the image, or is a pipe, is neither read nor taken for one not there."""
    for number, make in enumerate((lambda path: path.symlink_to("/etc/hostname"), os.mkfifo)):
        home = tmp_path / f"image-{number}/home"
        home.mkdir(parents=True)
        (home / "datamount.yaml").write_text(MANIFEST)
        (home / name).unlink(missing_ok=True)
        make(home / name)
        out = tmp_path / f"out-{number}"
        take_from_image(home.parent, Path("/home"), None, out)
        handover = read_handover(out, tmp_path / "copy")
        assert isinstance(handover.fault, ManifestError)
        assert f"{name}: it is a link" in handover.fault.message


def _no_home(seed: Seed) -> None:
    shutil.rmtree(seed.home)


def _home_is_a_file(seed: Seed) -> None:
    shutil.rmtree(seed.home)
    seed.home.write_text("x")


def _no_volume(seed: Seed) -> None:
    (seed.home / "a").write_text("x")
    shutil.rmtree(seed.volume)


def _volume_is_a_file(seed: Seed) -> None:
    (seed.home / "a").write_text("x")
    shutil.rmtree(seed.volume)
    seed.volume.write_text("x")


@pytest.mark.parametrize("broken", [_no_home, _home_is_a_file, _no_volume, _volume_is_a_file])
def test_what_goes_wrong_is_handed_over(seed: Seed, broken: Callable[[Seed], None]) -> None:
    """Whatever is broken: the script ends with 0, and the student will read what could not be done."""
    broken(seed)
    seed.run()
    handover = read_handover(seed.out, seed.out.with_name("copy"))
    assert handover.problems


def test_without_a_place_to_write_it_still_ends_well(seed: Seed) -> None:
    """Even when nothing can be handed over the script ends with 0, and fetch says that the home may be incomplete."""
    shutil.rmtree(seed.out)
    seed.out.write_text("no folder")
    seed.run()
    handover = read_handover(seed.out, seed.volume.with_name("copy"))
    assert "may be incomplete" in handover.problems[0]


def test_a_full_disk_ends_well(tmp_path: Path) -> None:
    """On a volume without space the script ends with 0 and names what is not whole."""
    if os.getuid() != 0:
        pytest.skip("only root can mount a small volume")
    seed = Seed(tmp_path, SHELLS[0])
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(seed.volume)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this machine does not let tests mount")
    try:
        (seed.home / "large.bin").write_bytes(b"x" * 300_000)
        (seed.home / "small.txt").write_text("x")
        seed.run()
    finally:
        subprocess.run(["umount", str(seed.volume)], check=True)
    assert "large.bin" in seed.fact("problems")
    assert (seed.out / "seeded").exists()


# --- The same out of an image volume ----------------------------------------------------------------------------


def test_an_image_volume_gives_the_same(tmp_path: Path) -> None:
    """`take_from_image` hands over and copies what the seed script does, links as links, and only once."""
    image, script = tmp_path / "image", tmp_path / "script"
    script.mkdir()
    seed = Seed(script, SHELLS[0])
    home = image / "home/jovyan"
    (home / "binder").mkdir(parents=True)
    (home / "binder/datamount.yaml").write_text(MANIFEST)
    (home / ".hidden").write_text("x")
    (home / "out").symlink_to("/etc/hostname")
    (home / "dir/empty").mkdir(parents=True)
    shutil.copytree(home, seed.home, symlinks=True, dirs_exist_ok=True)
    seed.run()
    volume, out = tmp_path / "volume", tmp_path / "out"
    volume.mkdir()
    take_from_image(image, Path("/home/jovyan"), volume, out)
    assert tree(volume) == tree(seed.volume)
    assert tree(out / "tree") == tree(seed.out / "tree")
    (volume / ".hidden").write_text("student")
    take_from_image(image, Path("/home/jovyan"), volume, out)
    assert (volume / ".hidden").read_text() == "student"


def test_an_image_cannot_lead_out_of_itself(tmp_path: Path) -> None:
    """A home that is a link to a folder of our own container is not copied."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "token").write_text("the-token")
    (secret / "datamount.yaml").write_text("the-token")
    image = tmp_path / "image"
    (image / "home").mkdir(parents=True)
    (image / "home/jovyan").symlink_to(secret)
    volume, out = tmp_path / "volume", tmp_path / "out"
    volume.mkdir()
    take_from_image(image, Path("/home/jovyan"), volume, out)
    assert tree(volume) == {}
    assert read_handover(out, tmp_path / "copy").problems == ("the image has no folder /home/jovyan",)
