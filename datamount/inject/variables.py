"""The variables of the fetch container and the sidecar."""

from __future__ import annotations

import copy

from datamount import names
from datamount.inject.plan import Object, Plan
from datamount.inject.settings import in_bytes

DATA_SHARE, STATE_SHARE = 2, 8
"""Of the limit that a pod has on the node's disk, datasets may take one part in so many, and our own files: all its
volumes count, and a pod over it is evicted as one over a volume's size."""


def variables(plan: Plan) -> list[Object]:
    """The variables of fetch and sidecar: places, settings, and what the pod says about itself. No secret."""
    settings = plan.settings
    given = dict(settings.environment)
    # A container's root is read-only and its user may have no entry in /etc/passwd.
    given |= {"HOME": names.STATE_DIR, "TMPDIR": names.TEMPORARY_DIR}
    given |= {names.ENV_FOLDER: plan.home, names.ENV_DATA: plan.data_dir, names.ENV_RUN: plan.run_dir}
    disk = _disk_limit(plan)
    for name, size, share in (
        (names.ENV_DATA_BYTES, settings.data_size, DATA_SHARE),
        (names.ENV_STATE_BYTES, settings.state_size, STATE_SHARE),
    ):
        bounds = [in_bytes(size) if size else None, disk // share if disk else None]
        if any(bounds):
            given[name] = str(min(filter(None, bounds)))
    if plan.home_mount is not None:
        given[names.ENV_FOLDER_KEPT] = "1"
    if settings.image_volumes:
        given[names.ENV_SEED_IMAGE_DIR] = names.IMAGE_DIR
    else:
        given[names.ENV_JUPYTER_DIR] = names.JUPYTER_DIR
    given[names.ENV_FETCH_SECONDS] = f"{settings.fetch_seconds:g}"
    if lasts := _lasts(plan):
        given[names.ENV_SESSION_SECONDS] = str(lasts)
    given[names.ENV_IMAGE] = _literal(plan.notebook["image"])
    given |= _course(plan.notebook)
    if settings.controller_url:
        given[names.ENV_CONTROLLER] = settings.controller_url
        given[names.ENV_TOKEN_FILE] = f"{names.TOKEN_DIR}/token"
        if settings.ca_config_map:
            given[names.ENV_CA_FILE] = f"{names.TOKEN_DIR}/ca.crt"
    elif settings.store:
        given[names.ENV_STORE] = settings.store
        if settings.store_endpoint_url:
            given[names.ENV_STORE_ENDPOINT] = settings.store_endpoint_url
    if settings.credentials_secret:
        given[names.ENV_CREDENTIALS] = f"{names.CREDENTIALS_DIR}/credentials.yaml"
    if settings.cache_host_path:
        given[names.ENV_CACHE] = names.CACHE_DIR
    if settings.allow_local_files:
        given[names.ENV_ALLOW_LOCAL_FILES] = "1"
    if settings.allow_addresses:
        given[names.ENV_ALLOW_ADDRESSES] = ",".join(settings.allow_addresses)
    if settings.trusted_endpoints:
        given[names.ENV_TRUSTED_ENDPOINTS] = ",".join(settings.trusted_endpoints)
    entries: list[Object] = copy.deepcopy(list(plan.home_env))
    taken = {entry["name"] for entry in entries}
    entries += [{"name": name, "value": value} for name, value in given.items() if name not in taken]
    for name, path in (
        (names.ENV_POD_NAME, "metadata.name"),
        (names.ENV_POD_NAMESPACE, "metadata.namespace"),
        (names.ENV_POD_UID, "metadata.uid"),
        (names.ENV_OWNER, f"metadata.annotations['{names.ANNOTATION_USERNAME}']"),
    ):
        entries.append({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}})
    return entries


def _disk_limit(plan: Plan) -> int | None:
    """Bytes of the node's disk that the pod may use in all, volumes included; None where the pod sets no limit."""
    limits = []
    for container in plan.pod["spec"]["containers"]:
        resources = container.get("resources")
        of_container = resources.get("limits") if isinstance(resources, dict) else None
        if isinstance(of_container, dict):
            limits.append(in_bytes(of_container.get("ephemeral-storage")))
    return sum(filter(None, limits)) or None


def _lasts(plan: Plan) -> int | None:
    """Seconds from the pod's start to its certain end, as far as that is known."""
    deadline = plan.pod["spec"].get("activeDeadlineSeconds")
    known = [plan.settings.session_seconds, deadline if isinstance(deadline, int) and deadline > 0 else None]
    return min((seconds for seconds in known if seconds), default=None)


def _course(notebook: Object) -> dict[str, str]:
    """Which course this is, as the pod itself says: forgeable, so it decides nothing about rights.

    A user may choose any of it, so nothing in it is filled in: our containers have variables that a course must not see
    (`store_secret`), and what they are told here is shown to the student.
    """
    given = {entry["name"]: entry.get("value") for entry in notebook.get("env") or ()}
    found = {}
    if given.get("BINDER_REPO_URL"):
        found[names.ENV_COURSE_URL] = _literal(given["BINDER_REPO_URL"])
    reference = given.get("BINDER_PERSISTENT_REQUEST") or given.get("BINDER_REF_URL") or ""
    if reference.rpartition("/")[2]:
        found[names.ENV_COURSE_REF] = _literal(reference.rpartition("/")[2])
    return found


def _literal(value: str) -> str:
    """A value in which the kubelet fills in no `$(NAME)`."""
    return value.replace("$", "$$")
