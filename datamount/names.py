"""The pod contract: every name that two parts of datamount, or a course and datamount, agree on.

A name is written once, here. Course notebooks, the injected pod, the sidecar and the Jupyter extensions
rely on the paths and variables; operators rely on the annotations. This module imports nothing, so that
the webhook and the seed script pay nothing for it.
"""

from __future__ import annotations

from typing import Final

# --- The manifest, looked for where repo2docker looks for its own files --------------------------------------
MANIFEST: Final = "datamount.yaml"
LOCK: Final = "datamount.lock"
MANIFEST_FOLDERS: Final = (".binder", "binder", "")

# --- Paths in the pod; on a laptop the same names live under the user's data folder -------------------------
DATA_DIR: Final = "/data"
RUN_DIR: Final = "/run/datamount"
MYSQL_DIR: Final = "mysql"
STATUS_FILE: Final = "status.json"
ENV_FILE: Final = "env"
SIDECAR_FILE: Final = "sidecar.json"
"""Where the sidecar listens and the token it accepts: {"url": "http://127.0.0.1:PORT", "token": "…"}."""
DATA_LINK: Final = "data"
"""Name of the link to the data in the home folder, made when the repo has no such entry."""
DATA_STATE_DIR: Final = ".datamount"
"""Inside the data folder: receipts of what is complete, and partial transfers."""

# --- Variables that kernels and terminals see ---------------------------------------------------------------
ENV_DATA: Final = "DATAMOUNT_DATA"
ENV_RUN: Final = "DATAMOUNT_RUN"


def variable(dataset: str, suffix: str) -> str:
    """The environment variable of a dataset: ("course-db", "URL") → "COURSE_DB_URL"."""
    return f"{dataset.upper().replace('-', '_')}_{suffix}"
