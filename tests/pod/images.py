"""The two images of a pod in the pod tests: a course with a plain Jupyter, and the session image with datamount.

Both stand on the Debian of `debian_rootfs`, with Debian's own Python. What the package index gives (hundreds of MB) is
installed once and kept in .cache as a tar archive; on top come small layers with what changes: the course's files, or
our package. The session image is laid out as the Containerfile does it and from the same lock file, but is not pruned;
`test_image.py` builds the Containerfile itself.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.pod import engine as engines

ROOT = Path(__file__).parents[2]
PYTHON = "3.11"
"""Of Debian bookworm."""
COURSE_PACKAGES = ("jupyterlab>=4.4,<5", "ipykernel>=6.29", "jupyterhub>=5.2,<7", "pymysql>=1.1")
"""As in every image of repo2docker, and the database driver of a course that has a database."""
INSTALLED: Mapping[str, Sequence[str | Path]] = {
    "jupyter": COURSE_PACKAGES,
    "datamount": ("--require-hashes", "--no-deps", "--requirement", ROOT / "requirements" / "session.txt"),
}
"""By the name of a virtual environment in /opt: what is said to uv to install."""
HOME = "/home/jovyan"
_COURSE = """\
FROM {base}
COPY --chown=1000:1000 home {home}
ENV PATH=/opt/jupyter/bin:/usr/bin:/bin HOME={home} REPO_DIR={home} USER=jovyan LANG=C.UTF-8 \
 JUPYTER_CONFIG_PATH={home}/jupyter
USER 1000:1000
WORKDIR {home}
"""
_SESSION = """\
FROM {base}
COPY package /opt/datamount/lib/python{python}/site-packages
RUN /opt/datamount/bin/python -m compileall -q /opt/datamount/lib/python{python}/site-packages/datamount \
 /opt/datamount/lib/python{python}/site-packages/sidecar
RUN /opt/datamount/bin/python -c "from pathlib import Path; from sidecar.jupyter import install; \
 install(Path('/opt/datamount/jupyter'))"
ENV PATH=/opt/datamount/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 1000:1000
WORKDIR /
"""


def course_image(engine: engines.Engine, name: str, files: Mapping[str, str | bytes]) -> str:
    """An image as repo2docker leaves it: JupyterLab, and `files` (by path) in the home of user 1000. Without ours."""
    base = _based(engine, "jupyter")
    context = engine.folder / f"build-{name}"
    for path, content in files.items():
        file = context / "home" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    return _build(engine, context, name, _COURSE.format(base=base, home=HOME))


def session_image(engine: engines.Engine) -> str:
    """Our image, of the code in this work tree."""
    base = _based(engine, "datamount")
    context = engine.folder / "build-session"
    for package in ("datamount", "sidecar"):
        ignored = shutil.ignore_patterns("__pycache__", "node_modules", "lab")
        shutil.copytree(ROOT / package, context / "package" / package, ignore=ignored)
    return _build(engine, context, "session-tree", _SESSION.format(base=base, python=PYTHON))


def _build(engine: engines.Engine, context: Path, name: str, containerfile: str) -> str:
    file = context / "Containerfile"
    file.write_text(containerfile)
    made = engine.build(file, context, name)
    shutil.rmtree(context)
    return made


def _based(engine: engines.Engine, name: str) -> str:
    """The image with Debian and the virtual environment /opt/NAME."""
    image = f"localhost/base-{name}:test"
    if engine.podman("image", "exists", image, check=False).returncode == 0:
        return image
    return engine.import_rootfs(_archive(name), f"base-{name}")


def archives() -> None:
    """Have all that the images stand on in .cache: the only part that takes minutes and a registry."""
    for name in INSTALLED:
        _archive(name)


def _archive(name: str) -> Path:
    wanted = INSTALLED[name]
    debian = engines.debian_rootfs()
    given = [part.read_text() if isinstance(part, Path) else part for part in wanted]
    key = hashlib.sha256("\0".join((debian.name, PYTHON, *given)).encode()).hexdigest()[:12]
    archive = engines.CACHE / f"{name}-{key}.tar"
    with (engines.CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not archive.exists():
            for old in engines.CACHE.glob(f"{name}-*.tar"):
                old.unlink()
            with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=engines.CACHE) as folder:
                _install(Path(folder), debian, f"/opt/{name}", wanted)
                part = archive.with_suffix(".part")
                _run("tar", "-C", folder, "-cf", part, ".")
                part.rename(archive)
    return archive


def _install(root: Path, debian: Path, place: str, wanted: Sequence[str | Path]) -> None:
    _run("tar", "-C", root, "-xpf", debian)
    _run("chroot", root, "/usr/bin/python3", "-m", "venv", "--without-pip", place)
    environment = root / place.lstrip("/")
    packages = environment / "lib" / f"python{PYTHON}" / "site-packages"
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if uv is None:
        raise engines.Missing("uv is not installed; pip install uv")
    # Copies, because hard links into uv's own cache would let a container's build change it.
    options = ("--quiet", "--python", sys.executable, "--python-version", PYTHON, "--link-mode", "copy")
    _run(uv, "pip", "install", *options, "--target", packages, *wanted)
    for folder in ("share", "etc"):
        if (packages / folder).exists():
            (packages / folder).rename(environment / folder)
    # A root that cannot be written would compile anew at every start.
    _run("chroot", root, f"{place}/bin/python", "-m", "compileall", "-q", "-j", "0", f"{place}/lib", check=False)


def _run(*command: str | Path, check: bool = True) -> None:
    done = subprocess.run(command, capture_output=True, timeout=600, check=False, cwd="/")
    if check and done.returncode != 0:
        raise engines.EngineFailed(f"{command} ended with {done.returncode}: {done.stderr.decode()[-2000:]}")
