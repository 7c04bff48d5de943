"""datamount.yaml: what a course declares.

The models are the manifest's syntax (`datamount schema` prints them as JSON Schema). They are strict: an unknown key
is a fault, never ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

CredentialName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$")]
DatasetName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,38}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=False, strict=True)


class Source(Strict):
    """What every source has."""

    credential: CredentialName | None = Field(
        None, description="Name of a credential that the operator keeps; never the secret itself."
    )


class Table(Strict):
    """One table (or query) delivered as Parquet."""

    columns: list[str] | None = Field(None, min_length=1)
    where: str | None = Field(None, description="A SQL condition, as it would stand after WHERE.")


class MySQL(Source):
    host: str
    port: int = Field(3306, ge=1, le=65535)
    database: str
    tables: dict[str, Table] = Field(default_factory=dict, description="Also delivered as <table>.parquet.")


class Quilt(Source):
    package: str = Field(pattern=r"^[\w-]+/[\w-]+$")
    registry: str = Field(description="s3://bucket or file:///folder.")
    top_hash: str | None = Field(None, pattern=r"^[0-9a-f]{6,64}$")
    tag: str = "latest"
    path: str | None = Field(None, description="Only this folder or file of the package.")
    endpoint_url: str | None = None


class Pachyderm(Source):
    repo: str
    project: str = "default"
    branch: str | None = Field(None, description='"master" where neither branch nor commit is given.')
    commit: str | None = None
    path: str = "/"
    address: str | None = Field(
        None, description="grpc://host:port; else the credential's, else PACHD_ADDRESS or PACH_CONFIG."
    )


class S3(Source):
    url: str = Field(pattern=r"^s3://[^/]+(/.*)?$", description="A prefix (ends in /) or one object.")
    include: list[str] | None = None
    exclude: list[str] | None = None
    endpoint_url: str | None = None
    region: str | None = None
    anonymous: bool = False
    access: Literal["copy", "remote"] = "copy"


class URL(Source):
    url: str
    sha256: Sha256 | None = None


class Dataset(Strict):
    """One dataset; exactly one of mysql, quilt, pachyderm, s3 and url."""

    title: str | None = None
    description: str | None = None
    license: str | None = None
    citation: str | None = None
    optional: bool = False
    when: Literal["start", "background"] = Field(
        "start", description='"background": do not wait for it before the notebook opens.'
    )
    live: bool = Field(False, description="Never pinned by the lock: deliver what is there today.")
    credential: CredentialName | None = Field(None, description="For a url source.")
    mysql: MySQL | None = None
    quilt: Quilt | None = None
    pachyderm: Pachyderm | None = None
    s3: S3 | None = None
    url: str | None = Field(None, description="Any fsspec URL.")
    sha256: Sha256 | None = Field(None, description="For a url source.")

    @property
    def kind(self) -> str:
        """The name of the one source key."""
        return next(kind for kind in SOURCES if getattr(self, kind) is not None)

    @property
    def source(self) -> Source:
        found: Any = getattr(self, self.kind)
        return URL(url=found, sha256=self.sha256, credential=self.credential) if isinstance(found, str) else found

    @model_validator(mode="after")
    def _one_source(self) -> Dataset:
        given = [kind for kind in SOURCES if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"needs exactly one of {', '.join(SOURCES)}; it has {' and '.join(given) or 'none'}")
        for key in ("sha256", "credential"):
            if self.url is None and getattr(self, key) is not None:
                raise ValueError(f"{key} belongs to a url source; a {given[0]} source has its own settings inside")
        return self


SOURCES = ("mysql", "quilt", "pachyderm", "s3", "url")


class Save(Strict):
    """How the student's work is kept."""

    exclude: list[str] = Field(default_factory=list, description="gitignore patterns, beside the built-in ones.")
    max_size: str | int | None = Field(None, description='Upper bound of one version, such as "500 MB".')


class Manifest(Strict):
    version: Literal[1]
    datasets: dict[DatasetName, Dataset] = Field(default_factory=dict)
    save: Save = Field(default_factory=lambda: Save(max_size=None))
