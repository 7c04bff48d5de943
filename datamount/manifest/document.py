"""The document: a course's datasets, each with one source, and how the work of its students is kept."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from datamount.manifest.sources import (
    S3,
    SOURCES,
    URL,
    MySQL,
    Pachyderm,
    Quilt,
    Source,
    Strict,
    Unpack,
    sources_mistake,
)
from datamount.manifest.values import (
    AnyURL,
    CredentialName,
    DatasetName,
    Line,
    Mistake,
    Prose,
    Sha256,
    Size,
    links,
    parse_size,
)

VERSION = 1
_REMOTE = frozenset(
    "http https ftp ftps sftp ssh s3 s3a gs gcs az abfs abfss adl github hf gdrive dropbox oci ocilake".split()  # noqa: SIM905
)
_WRAPPERS = frozenset("zip tar libarchive simplecache filecache blockcache".split())  # noqa: SIM905


def _known_version(value: Any) -> Any:
    """One sentence for every version but ours, whatever its type."""
    if isinstance(value, int) and not isinstance(value, bool):
        if value > VERSION:
            raise Mistake(
                f"version {value} is newer than this datamount, which knows version {VERSION}.",
                "Upgrade datamount: pip install --upgrade datamount.",
            )
        if value < VERSION:
            raise Mistake(f"there is no version {value}; this datamount knows version {VERSION}.")
        return value
    raise Mistake(f"must be the number {VERSION}.", f"Write `version: {VERSION}`, without quotes.")


class Dataset(Strict):
    """One dataset, delivered at /data/<name>: what it is, and exactly one source."""

    title: Line | None = Field(None, description="What a student reads in the data panel.")
    description: Prose | None = Field(None, description="A paragraph or more.")
    license: Line | None = Field(None, description="SPDX identifier or name of the licence.")
    citation: Prose | None = Field(None, description="How to cite the data: a DOI or a reference.")
    optional: bool = Field(False, description="The course works without it: its absence is not a failure.")
    when: Literal["start", "background"] = Field(
        "start", description='"background": do not wait for it before the notebook opens.'
    )
    live: bool = Field(False, description="Never pinned by the lock: deliver what is there today.")
    credential: CredentialName | None = Field(None, description="For a url source: name of a credential.")
    mysql: MySQL | None = None
    quilt: Quilt | None = None
    pachyderm: Pachyderm | None = None
    s3: S3 | None = None
    url: AnyURL | None = Field(None, description="Any fsspec URL of one file.")
    sha256: Sha256 | None = Field(None, description="For a url source: the digest that the file must have.")
    unpack: Unpack | None = Field(
        None, description='For a url source: deliver the files that are in it. "tar" may be compressed, too.'
    )

    @property
    def kind(self) -> str:
        """The name of the one source key."""
        return next(kind for kind in SOURCES if getattr(self, kind) is not None)

    @property
    def source(self) -> Source:
        if self.url is not None:
            return URL(url=self.url, sha256=self.sha256, credential=self.credential, unpack=self.unpack)
        found: Source = getattr(self, self.kind)
        return found

    @property
    def reads_local_files(self) -> bool:
        """Whether the source may be a file of the machine that fetches, such as file:///etc/passwd.

        That is fine on the author's own laptop. Where a course of a stranger is fetched by a service (which has
        tokens among its files), such a dataset must be refused. A scheme that is not known to be remote counts as
        local.
        """
        if self.quilt is not None:
            return self.quilt.registry.startswith("file:")
        if self.url is None:
            return False
        *wrappers, target = (link.partition("://") for link in links(self.url))
        return not (target[1] and target[0] in _REMOTE and all(link[0] in _WRAPPERS for link in wrappers))

    @model_validator(mode="after")
    def _one_source(self) -> Dataset:
        keys = [key for key in (*SOURCES, "sha256", "credential", "unpack") if getattr(self, key) is not None]
        s3 = self.s3
        mistake = sources_mistake(
            keys, anonymous=bool(s3 and s3.anonymous), s3_credential=bool(s3 and s3.credential is not None)
        )
        if mistake:
            raise mistake
        return self


class Save(Strict):
    """How the student's work is kept."""

    exclude: list[Line] = Field(default_factory=list, description="gitignore patterns, beside the built-in ones.")
    max_size: Size = Field(
        None, description='Upper bound of one version, such as "500 MB", "2 GiB" or a number of bytes.'
    )

    @property
    def max_bytes(self) -> int | None:
        """`max_size` in bytes; None where the course sets no bound."""
        return None if self.max_size is None else parse_size(self.max_size)


class Manifest(Strict):
    """A course's datamount.yaml."""

    version: Annotated[Literal[1], BeforeValidator(_known_version)] = Field(description="Of this syntax.")
    datasets: dict[DatasetName, Dataset] = Field(default_factory=dict, description="By name.")
    save: Save = Field(default_factory=lambda: Save(max_size=None), description="How the student's work is kept.")
