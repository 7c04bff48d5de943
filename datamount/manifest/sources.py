"""The five sources of data as datamount.yaml declares them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from datamount.manifest.values import (
    S3URL,
    Address,
    AnyURL,
    Commit,
    CredentialName,
    Database,
    Endpoint,
    Form,
    Host,
    Inside,
    Line,
    Mistake,
    PachydermName,
    Prose,
    QuiltPackage,
    Registry,
    Sha256,
    TableName,
    TopHash,
)

SOURCES = ("mysql", "quilt", "pachyderm", "s3", "url")
Unpack = Literal["zip", "tar", "gz"]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=False, strict=True)


class Source(Strict):
    """What every source has."""

    credential: CredentialName | None = Field(
        None, description="Name of a credential that the operator keeps; never the secret itself."
    )


def _distinct(values: list[str]) -> list[str]:
    twice = next((value for at, value in enumerate(values) if value in values[:at]), None)
    if twice is not None:
        raise Mistake(f'names "{twice}" twice.')
    return values


class Table(Strict):
    """One table delivered as Parquet: all of it, some columns and rows, or what a query gives."""

    columns: Annotated[list[Line], AfterValidator(_distinct)] | None = Field(
        None, min_length=1, json_schema_extra={"uniqueItems": True}, description="Only these columns; default all."
    )
    where: Prose | None = Field(None, description="A SQL condition, as it would stand after WHERE.")
    limit: int | None = Field(None, ge=1, description="At most this many rows, the first by primary key.")
    partition_by: Line | None = Field(
        None, description="A column: a file for each of its values, in folders as <table>/<column>=<value>/."
    )
    query: Prose | None = Field(None, description="A SELECT of the author's instead of a table; needs its ORDER BY.")

    @model_validator(mode="after")
    def _one_kind(self) -> Table:
        beside = [key for key in ("columns", "where", "limit", "partition_by") if getattr(self, key) is not None]
        if self.query is not None and beside:
            raise Mistake(f"query says it all: {beside[0]} cannot stand beside it.", "Write it into the query.")
        if self.partition_by is not None and self.limit is not None:
            raise Mistake("limit and partition_by cannot stand together.", "Choose rows with `where`.")
        return self


class MySQL(Source):
    """A MySQL or MariaDB database: connection file and URL, and optionally tables as Parquet files."""

    host: Host = Field(description="Name or address of the server.")
    port: int = Field(3306, ge=1, le=65535, description="TCP port of the server.")
    database: Database = Field(description="The schema that the session may read.")
    tables: dict[TableName, Table] = Field(
        default_factory=dict, description="Tables that are also delivered as <table>.parquet; {} takes all of one."
    )
    ssl_ca: Prose | None = Field(
        None,
        description="Certificates (PEM text) of the authority that signed the server's: every connection is then "
        "encrypted, and the server's name is verified.",
    )


class Quilt(Source):
    """A Quilt package, or a part of one."""

    package: QuiltPackage = Field(description="NAMESPACE/NAME.")
    registry: Registry = Field(description="s3://BUCKET or file:///FOLDER.")
    top_hash: TopHash | None = Field(None, description="The exact version; wins over `tag`.")
    tag: Line = Field("latest", description="The version by tag.")
    path: Inside | None = Field(None, description="Only this folder or file of the package.")
    endpoint_url: Endpoint | None = Field(None, description="The S3 endpoint, where it is not AWS.")


class Pachyderm(Source):
    """Files of a Pachyderm repo."""

    repo: PachydermName = Field(description="Name of the repo.")
    project: PachydermName = Field("default", description="The project that the repo is in.")
    branch: PachydermName | None = Field(None, description='"master" where neither branch nor commit is given.')
    commit: Commit | None = Field(None, description="The exact commit; wins over `branch`.")
    path: Inside = Field("/", description="Only this folder or file of the repo.")
    address: Address | None = Field(
        None, description="grpc://HOST:PORT; else the credential's, else PACHD_ADDRESS or PACH_CONFIG."
    )


class S3(Source):
    """Objects of an S3 bucket (or of any store that speaks S3)."""

    url: S3URL = Field(description="A prefix (ends in /) or one object.")
    include: list[Inside] | None = Field(None, min_length=1, description="Only keys that match one of these globs.")
    exclude: list[Inside] | None = Field(None, min_length=1, description="No keys that match one of these globs.")
    endpoint_url: Endpoint | None = Field(None, description="The endpoint, where it is not AWS.")
    region: Annotated[str, Form(r"^[A-Za-z0-9-]{1,63}$", 'must be a region, such as "eu-west-1".')] | None = Field(
        None, description="The bucket's region, where it is not the endpoint's default."
    )
    anonymous: bool = Field(False, description="Read without any credential, as from a public bucket.")
    version_id: Annotated[str, Form(r"^[^\s\x00-\x1f\x7f]{1,1024}$", "must be the VersionId of an object.")] | None = (
        Field(None, description="For one object: the exact version.")
    )
    requester_pays: bool = Field(False, description="Agree to pay for the requests, where the bucket asks for that.")
    addressing: Literal["path", "virtual"] = Field(
        "path", description='"virtual": the bucket is part of the host name, for endpoints that know nothing else.'
    )
    access: Literal["copy", "remote"] = Field(
        "copy",
        description='"copy": files in /data. "remote": no files; AWS variables that let programs read the bucket.',
    )

    @model_validator(mode="after")
    def _fits(self) -> S3:
        if self.version_id is not None and (self.url.endswith("/") or "/" not in self.url.removeprefix("s3://")):
            raise Mistake("version_id is of one object, and the url is a prefix.", "`datamount lock` pins a prefix.")
        if self.requester_pays and self.anonymous:
            raise Mistake("requester_pays needs a signature: it cannot stand beside anonymous.", "Keep one of them.")
        return self


class URL(Source):
    """One file by its URL. In the manifest its keys stand directly in the dataset."""

    url: AnyURL
    sha256: Sha256 | None = None
    unpack: Unpack | None = None


def sources_mistake(keys: Collection[str], *, anonymous: bool = False, s3_credential: bool = False) -> Mistake | None:
    """What is wrong with the set of keys that one dataset has: it must have one source, with its own keys."""
    given = [kind for kind in SOURCES if kind in keys]
    if len(given) != 1:
        return Mistake(
            f"needs exactly one of {', '.join(SOURCES)}; it has {' and '.join(given) or 'none'}.",
            "Make a dataset of each." if given else "Say where the data is, such as `url: https://…`.",
        )
    hints = {"credential": f"`credential` goes inside `{given[0]}:`.", "sha256": "The lock keeps its digests."}
    for key in ("sha256", "credential", "unpack"):
        if key in keys and given != ["url"]:
            where = hints.get(key, "Only a file at a URL can be unpacked.")
            return Mistake(f'has "{key}", which belongs to a url source, beside "{given[0]}".', where)
    if anonymous and s3_credential:
        return Mistake('has both "anonymous: true" and "credential" in its s3 source.', "Keep one of them.")
    return None
