"""The configuration folders that the course's image names in its own JUPYTER_CONFIG_PATH.

A pod's variable replaces the image's, so ours in JUPYTER_CONFIG_PATH would hide them. What the image had is handed
over in a file beside our configuration; here its folders get their place back, in front of ours.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Callable

VARIABLE = "JUPYTER_CONFIG_PATH"
FILE = "image-config-path"
"""Beside our configuration: what the variable is in the image."""
NAMES = ("jupyter_config", "jupyter_server_config")
"""The configuration files of the server, in the order in which it reads them."""


def restore_image_config(config: Any, here: str, load: Callable[[str], None]) -> None:
    """Put the image's folders in front of ours, and merge their configuration of the server into `config`.

    What is read later (extensions of the server, applications, page configuration) is found by the variable; only the
    server's own files are looked for before. Nothing is done where the pod sets the variable itself: then it is the
    hub that hides the image's. `load` reads one Python file of configuration. Raises what that raises.
    """
    try:
        path = (Path(here) / FILE).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return
    if not path or os.environ.get(VARIABLE) != here:
        return
    os.environ[VARIABLE] = os.pathsep.join([path, here])
    for name in NAMES:
        for folder in reversed(path.split(os.pathsep)):  # the first folder of a path counts most
            if Path(folder, name + ".py").is_file():
                load(str(Path(folder, name + ".py")))
            if Path(folder, name + ".json").is_file():
                found = json.loads(Path(folder, name + ".json").read_text(encoding="utf-8"))
                found.pop("version", None)
                config.merge(type(config)(found))  # a plain dict would replace whole sections
