"""What is added to Jupyter: the folder that JUPYTER_CONFIG_PATH names, filled from this package."""

from __future__ import annotations

import shutil
from pathlib import Path

HERE = Path(__file__).parent
LAB_EXTENSION = "datamount"
"""Name of the Lab extension, as in its package.json."""


def install(into: Path) -> bool:
    """Fill `into` so that JUPYTER_CONFIG_PATH=<into> alone adds both extensions to any Jupyter server.

    What was there of an earlier install is replaced; run it before Jupyter starts. False where the Lab extension has
    not been built: there is no Save button then, only the page. Raises OSError where `into` cannot be written.
    """
    into.mkdir(parents=True, exist_ok=True)
    config = "jupyter_server_config.py"
    shutil.copyfile(HERE / "config" / config, into / config)
    _copy(HERE / "datamount_jupyter", into / "datamount_jupyter")
    built = HERE / "labextension"
    if not (built / "package.json").is_file():
        return False
    _copy(built, into / "labextensions" / LAB_EXTENSION)
    return True


def _copy(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, copy_function=shutil.copyfile, ignore=shutil.ignore_patterns("__pycache__"))
