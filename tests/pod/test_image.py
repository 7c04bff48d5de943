"""The two images, built for real from the Containerfile: small, without rights, and quick to start."""

from __future__ import annotations

import json
import time
from pathlib import Path

import helm_python as helm
import pytest
import yaml

from datamount import names
from tests.pod import engine as engines

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("podman"), pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
FOLDERS = (names.HOME_DIR, names.DATA_DIR, names.RUN_DIR, names.STATE_DIR, names.COURSE_DIR, names.JUPYTER_DIR)
ENVIRONMENT = {
    "HOME": names.STATE_DIR,
    "TMPDIR": names.TEMPORARY_DIR,
    names.ENV_JUPYTER_DIR: names.JUPYTER_DIR,
    names.ENV_FETCH_SECONDS: "30",
}
USER = "1234:1234"


@pytest.fixture(scope="module")
def session(engine: engines.Engine, debian: str) -> str:
    return engine.build(ROOT / "Containerfile", ROOT, "session", target="session", arguments={"BASE": debian})


@pytest.fixture(scope="module")
def controller(engine: engines.Engine, debian: str) -> str:
    return engine.build(ROOT / "Containerfile", ROOT, "controller", target="controller", arguments={"BASE": debian})


@pytest.fixture
def mounts(tmp_path: Path) -> list[str]:
    """A pod's volumes, empty, and writable by the pod's user."""
    found = []
    for path in FOLDERS:
        folder = tmp_path / "volumes" / path.strip("/").replace("/", "-")
        folder.mkdir(parents=True)
        folder.chmod(0o777)
        found.append(f"{folder}:{path}")
    return found


def host_path(mounts: list[str], path: str) -> Path:
    return next(Path(mount.split(":")[0]) for mount in mounts if mount.endswith(f":{path}"))


def options(mounts: list[str], memory: str) -> list[str]:
    """Of `podman run`, as `inject` sets them in a pod."""
    found = ["--network", "none", "--user", USER, "--memory", memory, *engines.restricted(read_only=True)]
    found += [part for key, value in ENVIRONMENT.items() for part in ("--env", f"{key}={value}")]
    return found + [part for mount in mounts for part in ("--volume", mount)]


def moment(engine: engines.Engine, container: str, which: str) -> float:
    """Unix time of StartedAt or FinishedAt of a container: podman's own second or so is not in between."""
    text = engine.text("inspect", "--format", f"{{{{.State.{which}.UnixMilli}}}}", container)
    return int(text) / 1000


def test_fetch_ends_well(engine: engines.Engine, session: str, mounts: list[str]) -> None:
    """fetch runs as any user on a root that cannot be written, and without a shell: it reports and ends with 0."""
    # Nothing may need a shell: here it is no program at all.
    volumes = [*mounts, "/dev/null:/usr/bin/dash:ro"]
    command = ["python", "-m", "datamount.pod", "fetch"]
    done = engine.podman("run", "--name", "fetch", *options(volumes, "768m"), session, *command, check=False)
    seconds = moment(engine, "fetch", "FinishedAt") - moment(engine, "fetch", "StartedAt")
    print(f"fetch, empty course: {seconds:.2f} s")
    assert done.returncode == 0, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert json.loads((host_path(mounts, names.RUN_DIR) / names.STATUS_FILE).read_text())
    assert list(host_path(mounts, names.JUPYTER_DIR).iterdir()), "the Jupyter extension is not there"


def test_sidecar_starts_and_rests(engine: engines.Engine, session: str, mounts: list[str]) -> None:
    """The sidecar listens, its startup probe succeeds, and at rest it needs little memory."""
    command = ["python", "-m", "datamount.pod", "sidecar"]
    container = engine.text("run", "--detach", *options(mounts, "512m"), session, *command)
    made = host_path(mounts, names.RUN_DIR) / names.SIDECAR_FILE
    deadline = time.monotonic() + 60
    while not made.exists():
        assert time.monotonic() < deadline, engine.podman("logs", container).stderr.decode()
        time.sleep(0.01)
    seconds = made.stat().st_mtime - moment(engine, container, "StartedAt")
    engine.podman("exec", container, "python", "-m", "datamount.pod", "ready")
    time.sleep(2)
    status = Path(f"/proc/{engine.process(container)}/status").read_text()
    resident = int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) * 1024
    print(f"sidecar: listens after {seconds:.2f} s, {resident / 2**20:.0f} MiB at rest")
    assert resident < 160 << 20
    engine.podman("rm", "--force", "--time", "5", container)


def test_controller_takes_the_charts_settings(engine: engines.Engine, controller: str, tmp_path: Path) -> None:
    """The controller's image finds the settings and the policy that the chart renders valid, where it mounts them."""
    with helm.Chart.load(ROOT / "charts" / "datamount") as chart:
        values = yaml.safe_load((ROOT / "charts" / "datamount" / "ci" / "full-values.yaml").read_text())
        rendered = chart.render(values, name="datamount", namespace="datamount")["datamount/templates/configmaps.yaml"]
    for document in yaml.safe_load_all(rendered):
        for name, text in document["data"].items():
            folder = tmp_path / ("policy" if name == "policy.yaml" else "settings")
            folder.mkdir(exist_ok=True)
            (folder / name).write_text(text)
    tmp_path.chmod(0o755)
    mounts = [f"{tmp_path / kind}:/etc/datamount/{kind}:ro" for kind in ("settings", "policy")]
    command = ["controller", "--config", "/etc/datamount/settings/controller.yaml", "--check"]
    done = engine.run(controller, command, read_only=True, mounts=mounts, environment={"HOME": "/"})
    assert done.code == 0, done.stderr + done.stdout
    assert "are valid" in done.stdout


@pytest.mark.parametrize(("target", "user"), [("session", "1000:1000"), ("controller", "65532:65532")])
def test_images_hold_what_they_need(
    request: pytest.FixtureRequest, engine: engines.Engine, debian: str, target: str, user: str
) -> None:
    """Each image runs as a user, has its own part's libraries and no installer, and stays small. The session image has
    Jupyter's folder too, which notebooks mount where the cluster has image volumes."""
    image: str = request.getfixturevalue(target)
    has = {
        "session": ["obstore", "boto3", "quilt3", "python_pachyderm", "pyarrow.parquet", "fsspec", "sidecar.app"],
        "controller": [
            "kubernetes",
            "fastapi",
            "pymysql",
            "boto3",
            "prometheus_client",
            "datamount.controller.assemble",
        ],
    }
    lacks = {"session": ["kubernetes", "pip"], "controller": ["quilt3", "nbdime", "pyarrow", "pip"]}
    files = {
        "session": [f"{names.JUPYTER_DIR}/{file}" for file in ("jupyter_server_config.py", "labextensions/datamount")],
        "controller": [],
    }
    script = (
        "import importlib, importlib.util, os\n"
        f"for path in {files[target]}: os.stat(path)\n"
        f"for name in {has[target]}: importlib.import_module(name)\n"
        f"print([name for name in {lacks[target]} if importlib.util.find_spec(name)], os.getuid())"
    )
    done = engine.run(image, ["-c", script], entrypoint="python", read_only=True, environment={"HOME": "/"})
    assert done.stdout == f"[] {user.split(':', maxsplit=1)[0]}\n", done.stderr
    assert engine.text("image", "inspect", "--format", "{{.Config.User}}", image) == user
    added = engine.size(image) - engine.size(debian)
    print(f"{target}: {added / 1e6:.0f} MB over its base of {engine.size(debian) / 1e6:.0f} MB")
    assert added < 450e6


def test_controller_starts_without_its_shell(engine: engines.Engine, controller: str) -> None:
    """The controller's command line answers where there is no shell, and tells its start-up time."""
    done = engine.run(
        controller, ["--help"], read_only=True, mounts=["/dev/null:/usr/bin/dash:ro"], environment={"HOME": "/"}
    )
    print(f"controller --help: {done.seconds:.2f} s with podman")
    assert done.code == 0, done.stderr
    assert "controller" in done.stdout
