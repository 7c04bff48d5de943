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

# --- Links ------------------------------------------------------------------------------------------------------
LINK_NAME: Final = "datamount"
"""A session opened at `…/lab#datamount=KEY` (or `tree`, or `datamount/`) offers the work behind a resume key
(`dmk_…`) or a share secret (`dms_…`). After the `#`, because browsers send that part to no server; the panel takes it
out of the address at once. BinderHub hands it on inside `?urlpath=lab%23datamount%3DKEY`."""

# --- What inject adds to a pod ------------------------------------------------------------------------------
ANNOTATION_PREFIX: Final = "datamount.dev/"
ANNOTATION_INJECT: Final = "datamount.dev/inject"
"""On a pod: "false" leaves it alone, "true" injects it whatever its labels say."""
ANNOTATION_STATUS: Final = "datamount.dev/status"
STATUS_INJECTED: Final = "injected"
ANNOTATION_HOME: Final = "datamount.dev/home"
"""On a pod: the absolute path of its home folder, where the settings' is not right for its image."""
ANNOTATION_USERNAME: Final = "hub.jupyter.org/username"

NOTEBOOK_CONTAINER: Final = "notebook"
NOTEBOOK_PORT: Final = "notebook-port"
SINGLEUSER_COMPONENT: Final = "singleuser-server"

SEED_CONTAINER: Final = "datamount-seed"
FETCH_CONTAINER: Final = "datamount-fetch"
SIDECAR_CONTAINER: Final = "datamount-sidecar"

HOME_VOLUME: Final = "datamount-home"
DATA_VOLUME: Final = "datamount-data"
RUN_VOLUME: Final = "datamount-run"
STATE_VOLUME: Final = "datamount-state"
COURSE_VOLUME: Final = "datamount-course"
"""What the seed container hands over: the manifest, and a few facts. The only volume of ours that code of the
course's image writes before the notebook runs, so fetch reads it as a stranger's."""
JUPYTER_VOLUME: Final = "datamount-jupyter"
TOKEN_VOLUME: Final = "datamount-token"  # noqa: S105
CREDENTIALS_VOLUME: Final = "datamount-credentials"
CACHE_VOLUME: Final = "datamount-cache"
IMAGE_VOLUME: Final = "datamount-image"
EXTENSION_VOLUME: Final = "datamount-extension"

HOME_DIR: Final = "/home/jovyan"
STATE_DIR: Final = "/var/lib/datamount"
TEMPORARY_DIR: Final = "/var/lib/datamount/tmp"
COURSE_DIR: Final = "/var/lib/datamount-course"
SEED_HOME_DIR: Final = "/var/lib/datamount-home"
"""Where the seed container sees the new home volume: its own path would hide the image's home."""
IMAGE_DIR: Final = "/var/lib/datamount-image"
"""Where fetch sees the notebook's image, where the cluster has image volumes."""
CACHE_DIR: Final = "/var/cache/datamount"
JUPYTER_DIR: Final = "/opt/datamount/jupyter"
IMAGE_CONFIG_FILE: Final = "image-config-path"
"""In JUPYTER_DIR: what JUPYTER_CONFIG_PATH is in the course's image. The variable in the pod hides it."""
EXTENSION_DIR: Final = "/opt/datamount/image"
TOKEN_DIR: Final = "/var/run/secrets/datamount"  # noqa: S105  (a folder)
CREDENTIALS_DIR: Final = "/var/run/secrets/datamount-credentials"
AUDIENCE: Final = "datamount"

# --- Variables of our own containers ------------------------------------------------------------------------
ENV_CONTROLLER: Final = "DATAMOUNT_CONTROLLER"
ENV_TOKEN_FILE: Final = "DATAMOUNT_TOKEN_FILE"  # noqa: S105
ENV_CA_FILE: Final = "DATAMOUNT_CA_FILE"
ENV_POD_NAME: Final = "DATAMOUNT_POD_NAME"
ENV_POD_NAMESPACE: Final = "DATAMOUNT_POD_NAMESPACE"
ENV_POD_UID: Final = "DATAMOUNT_POD_UID"
ENV_FOLDER: Final = "DATAMOUNT_FOLDER"
"""The student's home folder."""
ENV_FOLDER_KEPT: Final = "DATAMOUNT_FOLDER_KEPT"
""""1" where the home outlives the pod by itself (a volume of the hub's): then nothing is restored into it."""
ENV_STATE: Final = "DATAMOUNT_STATE"
"""STATE_DIR and COURSE_DIR elsewhere; inject never sets these two."""
ENV_DATA_BYTES: Final = "DATAMOUNT_DATA_BYTES"
ENV_STATE_BYTES: Final = "DATAMOUNT_STATE_BYTES"
"""What the two volumes may hold: Kubernetes ends a pod over it."""
ENV_COURSE_DIR: Final = "DATAMOUNT_COURSE_DIR"
ENV_IMAGE: Final = "DATAMOUNT_IMAGE"
ENV_OWNER: Final = "DATAMOUNT_OWNER"
ENV_COURSE_URL: Final = "DATAMOUNT_COURSE_URL"
ENV_COURSE_REF: Final = "DATAMOUNT_COURSE_REF"
ENV_STORE: Final = "DATAMOUNT_STORE"
ENV_STORE_ENDPOINT: Final = "DATAMOUNT_STORE_ENDPOINT"
ENV_CREDENTIALS: Final = "DATAMOUNT_CREDENTIALS"
ENV_FETCH_SECONDS: Final = "DATAMOUNT_FETCH_SECONDS"
ENV_SESSION_SECONDS: Final = "DATAMOUNT_SESSION_SECONDS"
"""How long after its start the pod is ended for certain (activeDeadlineSeconds, the culler's maximum age), where that
is known: the student is warned before."""
ENV_JUPYTER_DIR: Final = "DATAMOUNT_JUPYTER_DIR"
ENV_SEED_IMAGE_DIR: Final = "DATAMOUNT_SEED_IMAGE_DIR"
ENV_CACHE: Final = "DATAMOUNT_CACHE"
ENV_ALLOW_LOCAL_FILES: Final = "DATAMOUNT_ALLOW_LOCAL_FILES"
ENV_ALLOW_ADDRESSES: Final = "DATAMOUNT_ALLOW_ADDRESSES"
ENV_TRUSTED_ENDPOINTS: Final = "DATAMOUNT_TRUSTED_ENDPOINTS"
JUPYTER_CONFIG_PATH: Final = "JUPYTER_CONFIG_PATH"


def variable(dataset: str, suffix: str) -> str:
    """The environment variable of a dataset: ("course-db", "URL") → "COURSE_DB_URL"."""
    return f"{dataset.upper().replace('-', '_')}_{suffix}"
