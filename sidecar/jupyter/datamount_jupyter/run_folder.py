"""What datamount left for this session in its run folder: the variables, and where the sidecar listens."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Dict, NamedTuple, Optional
from urllib.parse import urlsplit

RUN_VARIABLE = "DATAMOUNT_RUN"
DEFAULT_RUN = "/run/datamount"


class Sidecar(NamedTuple):
    """Where the sidecar listens and the token it accepts."""

    host: str
    port: int
    token: str


def run_folder() -> Path:
    """$DATAMOUNT_RUN, else the folder that injected pods have."""
    return Path(os.environ.get(RUN_VARIABLE) or DEFAULT_RUN)


def find_sidecar() -> Optional[Sidecar]:
    """The sidecar of this session; None where there is none. Read anew each time: a restart changes the port."""
    try:
        document = json.loads((run_folder() / "sidecar.json").read_text(encoding="utf-8"))
        url = urlsplit(str(document["url"]))
        if not url.hostname or not url.port:
            return None
        return Sidecar(url.hostname, url.port, str(document["token"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def export_environment() -> Dict[str, str]:
    """Put the variables of the run folder's `env` file into this process, for kernels and terminals to inherit.

    Returns what was set; nothing where there is no file, or none that can be read.
    """
    try:
        text = (run_folder() / "env").read_text(encoding="utf-8")
        pairs = [word.split("=", 1) for word in shlex.split(text, comments=True)]
    except (OSError, ValueError):
        return {}
    variables = {pair[0]: pair[1] for pair in pairs if len(pair) == 2 and pair[0]}
    os.environ.update(variables)
    return variables
