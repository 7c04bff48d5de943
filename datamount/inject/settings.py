"""What the operator decides about the pods that `inject` changes. Read from YAML; every key has a default."""

from __future__ import annotations

import ipaddress
import re
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from datamount import names, operatorfile

Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|[kMGTPE]|[KMGTPE]i)?$")]
"""A Kubernetes quantity, such as "500m" (CPU) or "64Mi" (bytes)."""
FolderPath = Annotated[str, Field(pattern=r"^(/[^/\x00:$]+)+$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]


_UNITS = {"": Decimal(1), "m": Decimal("0.001")}
_UNITS |= {f"{unit}i": Decimal(1024) ** n for n, unit in enumerate("KMGTPE", 1)}
_UNITS |= {unit: Decimal(1000) ** n for n, unit in enumerate("kMGTPE", 1)}
_QUANTITY = re.compile(r"([0-9]{1,20}(?:\.[0-9]{0,20})?(?:[eE]\+?[0-9]{1,2})?)(m|[kMGTPE]|[KMGTPE]i)?")


def in_bytes(quantity: Any) -> int | None:
    """A Kubernetes quantity of bytes, rounded down; None for what is none."""
    if isinstance(quantity, int):
        return quantity if 0 <= quantity < 2**63 else None
    found = _QUANTITY.fullmatch(quantity) if isinstance(quantity, str) else None
    return int(Decimal(found[1]) * _UNITS[found[2] or ""]) if found else None


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Resources(_Strict):
    """Requests and limits of one container. Both are always set: a namespace with a LimitRange or a quota refuses
    containers without."""

    cpu_request: Quantity
    cpu_limit: Quantity
    memory_request: Quantity
    memory_limit: Quantity

    def spec(self) -> dict[str, Any]:
        return {
            "requests": {"cpu": self.cpu_request, "memory": self.memory_request},
            "limits": {"cpu": self.cpu_limit, "memory": self.memory_limit},
        }


def _resources(cpu_request: str, cpu_limit: str, memory_request: str, memory_limit: str) -> Resources:
    return Resources(
        cpu_request=cpu_request, cpu_limit=cpu_limit, memory_request=memory_request, memory_limit=memory_limit
    )


class InjectSettings(_Strict):
    """Settings of `inject`, the same for the webhook, the KubeSpawner hook and `datamount inject`."""

    image: str = Field(default="ghcr.io/datamount/session:latest", min_length=1)
    """Image of the fetch container and of the sidecar. Pin it to the version of the controller."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """IfNotPresent, because a start must not wait for a registry."""
    command: tuple[str, ...] = Field(default=("python", "-m", "datamount.pod"), min_length=1)
    """How our image runs `datamount.pod`; its subcommands are appended."""
    component: str = names.SINGLEUSER_COMPONENT
    """Only pods with this value of the label `component` are changed. BinderHub's build pods have another."""

    home: FolderPath = names.HOME_DIR
    """The home folder of the course's image, where repo2docker puts the repo. A pod's annotation datamount.dev/home
    wins."""
    default_uid: int = Field(default=1000, ge=1, le=2**31 - 1)
    """User id of fetch and sidecar where the pod does not fix the notebook's: jovyan of repo2docker and of the Docker
    stacks. It has to be the notebook's own, because they read and write the student's files."""
    default_gid: int = Field(default=1000, ge=0, le=2**31 - 1)
    """Group id, likewise: repo2docker's jovyan."""

    native_sidecar: bool = True
    """The sidecar as an init container that goes on (Kubernetes 1.29 and newer). False: a container after the
    notebook, for older clusters."""
    image_volumes: bool = False
    """Read the course and the Jupyter extension from image volumes (Kubernetes 1.33 and newer, a container runtime
    that has them). There is then no seed container, and the image needs no shell; but a JUPYTER_CONFIG_PATH in the
    image's own ENV is hidden by ours."""

    controller_url: str | None = Field(default=None, pattern=r"^https?://[^\s/]+$")
    """The controller, such as https://datamount-controller.datamount.svc. Without one, sessions know only public data
    and what the two secrets below hold."""
    ca_config_map: Name | None = "datamount-ca"
    """ConfigMap in the pod's namespace whose ca.crt signs the controller's certificate. May be missing: pods start
    without it."""
    token_seconds: int = Field(default=3600, ge=600, le=86400)
    """Life of the projected token in seconds. The kubelet renews it at 80 %; 600 is the API server's minimum."""

    store: str | None = Field(default=None, pattern=r"^(s3|file)://")
    """Where work is saved when there is no controller: a store URL. Every pod then reaches the whole store."""
    store_endpoint_url: str | None = Field(default=None, pattern=r"^https?://")
    """The S3 server of `store`, where it is not AWS."""
    store_secret: Name | None = None
    """Secret whose keys are variables (AWS_ACCESS_KEY_ID, …) of fetch and sidecar, for `store`. Never seen by the
    notebook, but long-lived: prefer the controller."""
    credentials_secret: Name | None = None
    """Secret whose key credentials.yaml holds the datasets' credentials, for fetch and sidecar. Every course may then
    name each of them, and send it to a server of its choice: for hubs whose courses are all trusted. Prefer the
    controller."""

    fetch_seconds: float = Field(default=90.0, gt=0, le=240)
    """How long the notebook waits for data and saved work, in seconds. JupyterHub gives a start 300 s; BinderHub
    relays progress meanwhile. What is not done then goes on beside the notebook."""
    session_seconds: int | None = Field(default=None, ge=60)
    """How long after its start the hub ends a server whatever happens, in seconds: `cull.maxAge` of Zero to JupyterHub.
    Students are warned before. A pod's own activeDeadlineSeconds counts too."""
    allow_local_files: bool = False
    """Let courses read files of our own containers (file:// URLs and registries). They hold our token: only for
    clusters where every course's author is trusted with it."""
    allow_addresses: tuple[str, ...] = ()
    """Networks (CIDR) that datasets may be on although they are denied by default: the link-local ones, where clouds
    hand out the node's credentials."""
    trusted_endpoints: tuple[Annotated[str, Field(pattern=r"^https?://[^\s,]+$")], ...] = ()
    """S3 endpoints that courses may name and that are read with the fastest client, which follows redirects wherever
    they lead. Others are read with one that follows none, at about half the speed for many small objects."""

    home_size: Quantity | None = "10Gi"
    """Bound of the home volume. A pod over a bound is evicted, so keep it above what students may need; None sets no
    bound."""
    data_size: Quantity | None = "20Gi"
    """Bound of the datasets of one session."""
    state_size: Quantity | None = "4Gi"
    """Bound of what fetch and sidecar keep: merge bases (256 MiB), an index, temporary files of saves."""
    run_size: Quantity | None = "16Mi"
    """Bound of /run/datamount. It is in memory, and counts as memory of the containers that write it."""
    small_size: Quantity | None = "64Mi"
    """Bound of the two volumes with a few small files: the handed-over manifest, and the Jupyter extension."""
    cache_host_path: FolderPath | None = None
    """Folder of the node that keeps datasets between sessions. It is a hostPath volume, which baseline Pod Security
    refuses; the folder must be writable by the sessions' user id."""

    seed_resources: Resources = _resources("50m", "1", "32Mi", "256Mi")
    """A copy of the home folder; the limit leaves room for the page cache."""
    fetch_resources: Resources = _resources("100m", "2", "128Mi", "768Mi")
    """Init containers' requests are not added to the notebook's, so they cost no place in the cluster."""
    sidecar_resources: Resources = _resources("10m", "1", "96Mi", "512Mi")
    """At rest a sidecar needs 80 MiB; the limits are for the fetch that goes on and for large saves."""
    environment: dict[str, str] = Field(default_factory=dict)
    """More variables of fetch and sidecar, such as HTTPS_PROXY. Everyone who may read pods sees them: no secret."""

    @field_validator("allow_addresses")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            ipaddress.ip_network(network)
        return value


def read_inject_settings(path: Path) -> InjectSettings:
    """The settings of a YAML file; UsageError names each key that is wrong."""
    return operatorfile.read(path, InjectSettings, "the settings")
