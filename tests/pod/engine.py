"""A container engine for tests: Debian's podman, set up apart from everything else on the machine.

    with Engine() as engine:
        image = engine.import_rootfs(debian_rootfs(), "debian")
        done = engine.run(image, ["python3", "-V"], user="1000:1000", read_only=True)
        engine.podman("pod", "create", "--name", "jupyter-ada", "--network", "host")

Images, containers, locks and settings are in a temporary folder of the engine's own. After `close` nothing is left:
no process, no mount, no file. What a test process that was killed left behind, the next engine removes. There is no
registry: images come from `debian_rootfs` and from `build`.

The machine may lack CAP_SYS_RESOURCE and have version 1 of cgroups: hence runc, explicit limits, and cgroupfs.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.servers import Missing

PROGRAMS = ("podman", "runc", "conmon", "catatonit")
MIRROR = "http://deb.debian.org/debian"
SUITE = "bookworm"
PACKAGES = ("python3", "python3-venv", "ca-certificates")
CACHE = Path(__file__).parents[2] / ".cache" / "rootfs"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
SECONDS = 120.0
ROOMY = 10 << 30
"""Bytes of memory that must be available for the images to be kept in it; they take 3 to 4 GiB. On a disk it is their
removal that takes time: a minute and more where freed blocks are discarded."""

_CONTAINERS_CONF = """\
[containers]
default_ulimits = ["nofile={soft}:{hard}", "nproc={processes}:{processes}"]
log_driver = "k8s-file"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "none"
[network]
network_backend = "cni"
"""
_STORAGE_CONF = """\
[storage]
driver = "{driver}"
runroot = "{folder}/run"
graphroot = "{folder}/root"
"""


class EngineFailed(RuntimeError):
    """podman ended with an error; the text has its command and the end of what it said."""


@dataclass(frozen=True, slots=True)
class Done:
    """A container that has ended. `seconds` is the wall time of podman and container together."""

    code: int
    stdout: str
    stderr: str
    seconds: float


@dataclass
class Engine:
    """A private podman. Use as a context manager, from one thread at a time."""

    driver: str = "overlay"
    """Storage driver: overlay, or vfs, which copies every image for every container."""
    folder: Path = field(init=False)
    _lock: Any = field(init=False, default=None)

    # --- Life -------------------------------------------------------------------------------------------------

    def __enter__(self) -> Engine:
        for program in PROGRAMS:
            if shutil.which(program) is None:
                raise Missing(f"{program} is not installed; apt-get install podman runc catatonit debootstrap")
        if os.geteuid() != 0:
            raise Missing("podman is set up for root here")
        base = Path(tempfile.gettempdir()) / "datamount-podman"
        base.mkdir(exist_ok=True)
        _sweep(base)
        # Short: the path of a container's attach socket must fit in 108 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="e", dir=base))
        self._lock = (self.folder / "owner").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        if _available_memory() > ROOMY:
            # The images alone; volumes of pods stay on the disk, where a node has them.
            images = self.folder / "root"
            images.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0700", "tmpfs", images], check=True, timeout=30)
        self.configure()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop and remove everything of this engine; may be called again."""
        if self.folder.exists():
            _remove(self.folder)
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def configure(self) -> None:
        """Write the engine's settings."""
        hard = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 65536)
        # Limits may be lowered only; podman's own defaults are above what an unprivileged root has.
        processes = resource.getrlimit(resource.RLIMIT_NPROC)[1]
        processes = 4096 if processes == resource.RLIM_INFINITY else min(processes, 4096)
        settings = _CONTAINERS_CONF.format(soft=min(hard, 1024), hard=hard, processes=processes)
        (self.folder / "containers.conf").write_text(settings)
        (self.folder / "storage.conf").write_text(_STORAGE_CONF.format(driver=self.driver, folder=self.folder))

    # --- Commands ---------------------------------------------------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        """What `podman` needs to be this engine, for commands that a test starts by itself."""
        return _environment(self.folder)

    def podman(
        self, *arguments: str | Path, seconds: float = SECONDS, check: bool = True, stdin: bytes | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run `podman ARGUMENTS`. Raises EngineFailed for an exit code other than 0 (unless `check` is false)."""
        return _podman(self.folder, *map(str, arguments), seconds=seconds, check=check, stdin=stdin)

    def text(self, *arguments: str | Path, seconds: float = SECONDS) -> str:
        """What `podman ARGUMENTS` prints, without the last line end."""
        return self.podman(*arguments, seconds=seconds).stdout.decode().rstrip("\n")

    def popen(self, *arguments: str | Path, **options: Any) -> subprocess.Popen[bytes]:
        """Start `podman ARGUMENTS`, for a test that reads its output while it runs."""
        return subprocess.Popen(["podman", *map(str, arguments)], env=self.environment, cwd=self.folder, **options)

    def run(
        self,
        image: str,
        command: Sequence[str] = (),
        *,
        pod: str | None = None,
        network: str = "none",
        user: str | None = None,
        environment: Mapping[str, str] = {},
        mounts: Sequence[str] = (),
        read_only: bool = False,
        memory: str | None = None,
        entrypoint: str | None = None,
        seconds: float = SECONDS,
    ) -> Done:
        """Run a container to its end, as a restricted pod would: no capability, no new privilege.

        `mounts` are podman's `--volume` values. `pod` decides the network where one is given.
        """
        arguments = ["run", "--rm", *restricted(read_only=read_only)]
        arguments += ["--pod", pod] if pod else ["--network", network]
        arguments += ["--user", user] if user else []
        arguments += ["--memory", memory] if memory else []
        arguments += ["--entrypoint", entrypoint] if entrypoint is not None else []
        for name, value in environment.items():
            arguments += ["--env", f"{name}={value}"]
        for mount in mounts:
            arguments += ["--volume", mount]
        began = time.monotonic()
        done = self.podman(*arguments, image, *command, seconds=seconds, check=False)
        if done.returncode == 125:  # podman's own failure, not the container's
            raise EngineFailed(f"podman {' '.join(arguments)}: {done.stderr.decode(errors='replace')[-2000:]}")
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode(), time.monotonic() - began)

    def process(self, container: str) -> int:
        """The process id, on this machine, of a running container's first process."""
        return int(self.text("inspect", "--format", "{{.State.Pid}}", container))

    # --- Images -----------------------------------------------------------------------------------------------

    def import_rootfs(self, archive: Path, name: str, *changes: str) -> str:
        """The image `localhost/NAME` from a tar archive of a root folder; `changes` as in a Containerfile."""
        image = f"localhost/{name}:test"
        options = [part for change in changes for part in ("--change", change)]
        self.podman("import", "--quiet", *options, archive, image)
        return image

    def build(
        self,
        containerfile: Path,
        context: Path,
        name: str,
        *,
        target: str | None = None,
        arguments: Mapping[str, str] = {},
        seconds: float = 600.0,
    ) -> str:
        """The image `localhost/NAME`, built with this machine's network, certificates and pip settings.

        Those are there for the build alone: none of them gets into the image.
        """
        image = f"localhost/{name}:test"
        options = ["--tag", image, "--file", containerfile, "--network", "host", "--pull-never", "--layers"]
        if CERTIFICATES.exists():
            options += ["--volume", f"{CERTIFICATES}:{CERTIFICATES}:ro"]
        if target:
            options += ["--target", target]
        # No `ulimit` setting reaches a build: it has an option of its own.
        options += ["--ulimit", "nproc=4096:4096", "--ulimit", "nofile=1024:1024"]
        for key, value in arguments.items():
            options += ["--build-arg", f"{key}={value}"]
        self.podman("build", "--quiet", *options, context, seconds=seconds)
        return image

    def size(self, image: str) -> int:
        """Bytes of an image, all its layers together."""
        return int(self.text("image", "inspect", "--format", "{{.Size}}", image))


def restricted(*, read_only: bool = False) -> list[str]:
    """Options of `podman run` for what the restricted Pod Security Standard asks of a container."""
    options = ["--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    # podman adds writable tmpfs folders to a read-only root, Kubernetes does not.
    return [*options, "--read-only", "--read-only-tmpfs=false"] if read_only else options


def debian_rootfs(packages: Sequence[str] = PACKAGES) -> Path:
    """A tar archive of a small Debian with Python, made with debootstrap; kept in .cache, as it takes a minute.

    Raises Missing where debootstrap is not installed, EngineFailed where the mirror cannot be reached.
    """
    if shutil.which("debootstrap") is None:
        raise Missing("debootstrap is not installed; apt-get install debootstrap")
    key = hashlib.sha256(" ".join((SUITE, *sorted(packages))).encode()).hexdigest()[:12]
    CACHE.mkdir(parents=True, exist_ok=True)
    archive = CACHE / f"{SUITE}-{key}.tar"
    with (CACHE / f"{key}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not archive.exists():
            _debootstrap(archive, packages)
    return archive


def _debootstrap(archive: Path, packages: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="debootstrap-") as name:
        root, log = Path(name) / "root", Path(name) / "log"
        command = ["debootstrap", "--variant=minbase", f"--include={','.join(packages)}", SUITE, str(root), MIRROR]
        with log.open("wb") as output:
            made = subprocess.run(command, stdout=output, stderr=output, timeout=900, check=False)
        if made.returncode != 0:
            raise EngineFailed(f"debootstrap failed: {log.read_text(errors='replace')[-2000:]}")
        for folder in ("var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale"):
            shutil.rmtree(root / folder, ignore_errors=True)
        part = archive.with_suffix(".part")
        subprocess.run(["tar", "-C", root, "-cf", part, "."], check=True, timeout=120)
        part.rename(archive)


# --- The engine's folder ------------------------------------------------------------------------------------------


def _environment(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CONTAINER", "PODMAN"))}
    return kept | {
        "CONTAINERS_CONF": str(folder / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "XDG_CONFIG_HOME": str(folder / ".config"),
    }


def _podman(
    folder: Path, *arguments: str, seconds: float, check: bool, stdin: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    command = ["podman", f"--tmpdir={folder}/tmp", *arguments]
    # A folder of its own to work in: conmon leaves a file `oom` where it was started.
    try:
        done = subprocess.run(
            command,
            env=_environment(folder),
            cwd=folder,
            input=stdin or b"",
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise EngineFailed(f"{' '.join(command)} took over {seconds:g} s") from error
    if check and done.returncode != 0:
        said = (done.stderr or done.stdout).decode(errors="replace")[-3000:]
        raise EngineFailed(f"{' '.join(command)} ended with {done.returncode}: {said}")
    return done


def _sweep(base: Path) -> None:
    """Remove engines whose test process is gone: it held a lock for as long as it lived."""
    for folder in base.iterdir():
        with contextlib.suppress(OSError), (folder / "owner").open("a") as owner:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(folder)


def _remove(folder: Path) -> None:
    for arguments in (("pod", "rm", "--all", "--force", "--time", "0"), ("rm", "--all", "--force", "--time", "0")):
        with contextlib.suppress(EngineFailed):
            _podman(folder, *arguments, seconds=60, check=False)
    # conmon's exit command runs on after `rm`, and may mount the storage once more; while it starts it has no name.
    deadline, quiet = time.monotonic() + 10, 0
    while quiet < 4 and time.monotonic() < deadline:
        quiet = 0 if processes_of(folder) else quiet + 1
        time.sleep(0.05)
    for _ in range(5):
        for process in processes_of(folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        for mount in sorted(_mounts(folder), reverse=True):
            subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True, timeout=30)
        # Not shutil: an image has tens of thousands of files, and files of other users.
        subprocess.run(["rm", "-rf", folder], check=False, capture_output=True, timeout=300)
        if not folder.exists():
            return
        time.sleep(0.5)
    raise EngineFailed(f"{folder} cannot be removed")


def processes_of(folder: Path) -> list[int]:
    """Processes of the engine in this folder: podman and conmon name it, and end when their containers do."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes()
            if f"{folder}/".encode() in line and Path(os.fsdecode(line.split(b"\0")[0])).name in ("conmon", "podman"):
                found.append(int(path.parent.name))
    return found


def _available_memory() -> int:
    """Bytes."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _mounts(folder: Path) -> Iterator[str]:
    """Mounts below a folder."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        path = line.split()[1].encode().decode("unicode_escape")
        if path.startswith(f"{folder}/"):
            yield path
