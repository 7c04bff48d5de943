"""The controller's settings: one YAML file, mounted from a ConfigMap. It holds names and paths, never a secret.

Read once, at the start: a change of the settings is a new roll-out. The policy, which changes with every course, is a
file of its own and is read again whenever it changes (`policy.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, IPvAnyNetwork

from datamount import operatorfile
from datamount.controller.store_settings import StoreSettings

Seconds = Annotated[float, Field(gt=0)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TLS(_Model):
    """Where the certificate comes from. The API server and the sidecars both refuse plain HTTP."""

    mode: Literal["files", "self-signed", "off"] = Field(
        "self-signed",
        description="files: mounted (cert-manager); self-signed: made, stored and rotated here; off: tests only.",
    )
    folder: Path = Field(
        Path("/etc/datamount/tls"), description="files: holds tls.crt and tls.key, read again when they change."
    )
    secret: str = Field("datamount-controller-tls", description="self-signed: the Secret that the replicas share.")
    webhook: str = Field(
        "datamount", description="self-signed: the MutatingWebhookConfiguration whose caBundle is kept right."
    )
    ca_config_map: str = Field(
        "datamount-ca", description="The ConfigMap with ca.crt that is kept in each of `namespaces`, for the sidecars."
    )
    days: int = Field(90, ge=2, description="self-signed: how long a certificate is valid; renewed after two thirds.")


class Events(_Model):
    """Limits of progress Events. Launch pages show each new Event, and etcd keeps each for an hour."""

    per_dataset: int = Field(6, ge=1, description="Events about one dataset of one pod.")
    per_pod: int = Field(30, ge=1, description="Events of one pod in all.")


class Settings(_Model):
    """What the chart renders into controller.yaml."""

    namespace: str = Field("datamount", description="The controller's own namespace.")
    service: str = Field("datamount-controller", description="The Service's name: the certificate is made out to it.")
    installation: str = Field(
        "",
        max_length=100,
        description="Name of this cluster's datamount, where another one uses the same database server: each drops "
        "the accounts whose pod it cannot see, but only its own.",
    )
    namespaces: list[str] = Field(
        default_factory=list,
        description="Namespaces whose pods are sessions. A pod elsewhere gets nothing, whoever it says it is: "
        "who may create pods there chooses their image and annotations. Empty: nobody gets anything.",
    )
    host: str = Field("0.0.0.0", description="Address to listen on.")  # noqa: S104  (a pod listens on its own address)
    port: int = Field(8443, ge=0, le=65535, description="Port to listen on.")
    metrics_port: int | None = Field(
        9090, ge=1, le=65535, description="Port of the metrics, plain HTTP, apart from the sessions'; null: none."
    )
    drain_seconds: Annotated[float, Field(ge=0, le=20)] = Field(
        5.0, description="How long requests are still served after SIGTERM, until no Service sends any more."
    )
    tls: TLS = TLS.model_validate({})
    audience: str = Field("datamount", description="Audience that a session's token must be made for.")
    review_seconds: Annotated[float, Field(ge=0, le=60)] = Field(
        10.0,
        description="How long the API server's word on a token and its pod is believed without asking again.",
    )
    trusted_proxies: list[IPvAnyNetwork] = Field(
        default_factory=list,
        description="Networks of the ingress before the controller, whose X-Forwarded-For is believed when wrong links "
        "are counted.",
    )
    inject: Path | None = Field(None, description="Settings file of the injection; the built-in defaults without one.")
    max_review: int = Field(
        1 << 20, ge=1 << 16, description="Largest AdmissionReview in bytes; the pod of a larger one is not changed."
    )
    max_body: int = Field(32 << 20, ge=1 << 16, description="Largest commit of a version, in bytes.")
    policy: Path = Field(Path("/etc/datamount/policy.yaml"), description="Who may use which credential.")
    policy_seconds: Seconds = Field(5.0, description="How often the policy file is looked at.")
    reaper_seconds: Annotated[float, Field(gt=0, le=30)] = Field(
        20.0, description="Pause between two passes: at most 30, so that nothing outlives its pod by a minute."
    )
    events: Events = Events.model_validate({})
    audit: Path | None = Field(None, description="File that gets the audit lines; standard output without one.")
    limits: dict[str, Any] = Field(
        default_factory=dict, description="What a session is told about its limits, under `limits` of /v1/session."
    )
    store: StoreSettings | None = Field(None, description="The store gateway's settings; no saves without them.")


def load(path: Path) -> Settings:
    """The settings in a file. Raises UsageError that names the key, not its value."""
    return operatorfile.read(path, Settings, "the settings")
