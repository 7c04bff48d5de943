"""datamount.yaml: what a course declares.

The models are the manifest's syntax; `datamount schema` prints them as JSON Schema. They are strict: an unknown key
or a value of the wrong type is a fault, never ignored or converted. `manifest.file` turns a file into them and names
the line of every fault.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

VERSION = 1
SCHEMA_ID = "https://datamount.dev/schema/datamount-1.json"
_REMOTE = frozenset(
    "http https ftp ftps sftp ssh s3 s3a gs gcs az abfs abfss adl github hf gdrive dropbox oci ocilake".split()  # noqa: SIM905
)
_WRAPPERS = frozenset("zip tar libarchive simplecache filecache blockcache".split())  # noqa: SIM905
SOURCES = ("mysql", "quilt", "pachyderm", "s3", "url")


class Mistake(ValueError):
    """What a person reads about one wrong value. Holds no value that might be a secret."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Form:
    """Annotation of a string type: it must match `pattern` as a whole, else the author reads `says`.

    The pattern also stands in the JSON Schema, so it is written in what Python and ECMAScript share.
    """

    pattern: str
    says: str
    hint: str = ""

    def check(self, value: str) -> str:
        if not re.fullmatch(self.pattern, value):
            raise Mistake(self.says, self.hint)
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "pattern": self.pattern}


# --- Values --------------------------------------------------------------------------------------------------

_AUTHORITY = re.compile(r"([A-Za-z0-9+.-]+)://([^/?#\s]*)")
_SECRET_QUERY = re.compile(r"[?&](x-amz-signature|x-amz-security-token|x-goog-signature|awsaccesskeyid|sig)=", re.I)


def _without_secret(value: str) -> str:
    """Refuse a URL (or a chain of them) that carries a password, or a signature that works as one."""
    for scheme, authority in (found for link in value.split("::") for found in _AUTHORITY.findall(link)):
        userinfo, at, _ = authority.rpartition("@")
        # A user name alone is an address (sftp://user@host), except where programs take it for a token.
        if at and (":" in userinfo or scheme.lower() in ("http", "https", "grpc", "grpcs", "s3")):
            raise Mistake(
                "a URL in a course must not hold a user name or password: everyone can read it.",
                "Take it out and name a credential instead: `credential: NAME`.",
            )
    if _SECRET_QUERY.search(value):
        raise Mistake(
            "this is a presigned URL: its signature is a secret, and it expires.",
            "Write the plain URL and name a credential instead: `credential: NAME`.",
        )
    return value


def _inside(value: str) -> str:
    """Refuse a path that could lead out of the folder it is read in."""
    if ".." in re.split(r"[/\\]", value):
        raise Mistake('a path here must not have a ".." part.', "Write it from the top of the source.")
    return value


def _has_host(value: str) -> str:
    """Refuse a URL of a server whose host or port cannot be one; others (file://, memory://) need none."""
    if value.partition("://")[0] not in ("http", "https", "ftp", "sftp", "grpc", "grpcs"):
        return value
    try:
        parts = urlsplit(value)
        usable = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable:
        raise Mistake("the URL has no usable host (and port).", "Write it like https://host.example.edu:9000.")
    return value


_LINE = Form(r"^[^\x00-\x1f\x7f]+$", "must be one line of text, and not empty.")
_PROSE = Form(r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]+$", "must be text, and not empty.")
Line = Annotated[str, _LINE]
Prose = Annotated[str, _PROSE]
Inside = Annotated[str, _LINE, AfterValidator(_inside)]

CredentialName = Annotated[
    str,
    Form(
        r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$",
        'must be the name of a credential: small letters, digits, "-" and ".", such as "course-reader".',
        "The secret itself is kept by the hub's operator, never in the repo.",
    ),
]
Sha256 = Annotated[str, Form(r"^[0-9a-f]{64}$", "must be a SHA-256 digest: 64 digits 0-9 and a-f.")]
Host = Annotated[
    str,
    Form(
        r"^[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9_])?$|^[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*$",
        "must be a host name or an IP address, without scheme, user, port or path.",
        "The port has a key of its own, `port`; the user is part of the credential.",
    ),
]
Database = Annotated[
    str, Form(r"^[^/\\\x00-\x1f\x7f`\x22\x27]{1,64}$", "must be the name of a database, at most 64 characters.")
]
TableName = Annotated[
    str,
    Form(
        r"^(?!.*\.\.)[^./\\\x00-\x20\x7f`\x22\x27-][^/\\\x00-\x1f\x7f`\x22\x27]{0,63}$",
        'must be the name of a table: it becomes a file, so "/", "\\", quotes and ".." are refused.',
    ),
]
QuiltPackage = Annotated[
    str, Form(r"^[A-Za-z0-9_-]+/[A-Za-z0-9_-]+$", 'must be the name of a Quilt package, such as "examples/labels".')
]
Registry = Annotated[
    str,
    AfterValidator(_without_secret),
    Form(
        r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/?$|^file:///[^\x00-\x1f\x7f]+$",
        'must be "s3://BUCKET" or "file:///FOLDER".',
    ),
    AfterValidator(_inside),
]
TopHash = Annotated[str, Form(r"^[0-9a-f]{6,64}$", "must be a Quilt top hash: 6 to 64 digits 0-9 and a-f.")]
PachydermName = Annotated[
    str, Form(r"^[A-Za-z0-9_-]{1,63}$", 'must be a Pachyderm name: letters, digits, "_" and "-", at most 63.')
]
Commit = Annotated[str, Form(r"^[A-Za-z0-9_-]{1,64}$", "must be the ID of a Pachyderm commit.")]
Address = Annotated[
    str,
    AfterValidator(_without_secret),
    Form(r"^grpcs?://[^/?#\s\x00-\x1f\x7f]+/?$", 'must be an address such as "grpc://pachd.example.edu:30650".'),
    AfterValidator(_has_host),
]
Endpoint = Annotated[
    str,
    AfterValidator(_without_secret),
    Form(r"^https?://[^\s?#\x00-\x1f\x7f]+$", 'must be an http(s) URL, such as "https://s3.example.edu".'),
    AfterValidator(_has_host),
]
S3URL = Annotated[
    str,
    AfterValidator(_without_secret),
    Form(
        r"^s3://[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9](/[^\x00-\x1f\x7f]*)?$",
        'must be "s3://BUCKET/PREFIX/" (all below it) or "s3://BUCKET/KEY" (one object).',
    ),
    AfterValidator(_inside),
]
AnyURL = Annotated[
    str,
    AfterValidator(_without_secret),
    Form(
        r"^[a-z][a-z0-9+.-]+(://|::)[^\s\x00-\x1f\x7f]+$",
        "must be a URL with a scheme and without spaces, such as https://example.edu/glossary.csv.",
    ),
    AfterValidator(_has_host),
]

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_SIZE = r"^([0-9]{1,9}(\.[0-9]{1,6})?) ?([KkMmGgTt]?[Ii]?[Bb])$"


def parse_size(value: str | int) -> int:
    """Bytes of "500 MB" (10⁶), "2 GiB" (2³⁰) or a number of bytes. Mistake where it is none of these, or not over 0."""
    found = re.fullmatch(_SIZE, value) if isinstance(value, str) else None
    if found and found[3].upper() in _UNITS:
        size = round(float(found[1]) * _UNITS[found[3].upper()])
    elif isinstance(value, int) and not isinstance(value, bool):
        size = value
    else:
        raise Mistake("must be a size.", 'Write it like "500 MB" or "2 GiB", or as a number of bytes.')
    if not 0 < size < 2**63:
        raise Mistake("must be a size over 0 and under 8 EiB.", 'Write it like "500 MB" or "2 GiB".')
    return size


def _checked_size(value: Any) -> str | int | None:
    if value is not None:
        parse_size(value)
    checked: str | int | None = value
    return checked


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


# --- Names of datasets ----------------------------------------------------------------------------------------

# Variables that programs obey. A dataset makes <NAME>_PATH (and _URL and _CNF for MySQL) in every kernel, so a
# name whose variable is one of these would change what the notebook runs, not only what it reads.
_OBEYED = frozenset(
    """
    ACLOCAL_PATH AWS_ENDPOINT_URL BASH_LOADABLES_PATH CMAKE_PREFIX_PATH CPLUS_INCLUDE_PATH CUDA_PATH C_INCLUDE_PATH
    FONTCONFIG_PATH GCONV_PATH GEM_PATH GIT_EXEC_PATH GI_TYPELIB_PATH GTK_PATH JUPYTER_CONFIG_PATH JUPYTER_PATH
    JULIA_DEPOT_PATH JULIA_LOAD_PATH LIBRARY_PATH LUA_PATH NIX_PATH NODE_PATH OCTAVE_PATH PIP_EXTRA_INDEX_URL
    PIP_INDEX_URL PKG_CONFIG_PATH PYTHON_PATH QML2_IMPORT_PATH QT_PLUGIN_PATH UV_DEFAULT_INDEX_URL UV_INDEX_URL
    """.split()  # noqa: SIM905
)
_OBEYED_FAMILIES = ("BINDER_", "DATAMOUNT_", "DYLD_", "JPY_", "JUPYTERHUB_", "LD_")

_NAME = Form(
    r"^[a-z][a-z0-9-]{0,38}$",
    'is not a name for a dataset: small letters, digits and "-", a letter first, at most 39 characters.',
)


def _unreserved(name: str) -> str:
    for suffix in ("PATH", "URL", "CNF"):
        variable = f"{name.upper().replace('-', '_')}_{suffix}"
        if variable in _OBEYED or variable.startswith(_OBEYED_FAMILIES):
            raise Mistake(
                f"cannot be the name of a dataset: its variable {variable} would be taken for a setting by programs.",
                f'Choose another name, such as "course-{name}".',
            )
    return name


DatasetName = Annotated[str, _NAME, AfterValidator(_unreserved)]


# --- Models ----------------------------------------------------------------------------------------------------


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
    unpack: Literal["zip", "tar", "gz"] | None = None


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
    unpack: Literal["zip", "tar", "gz"] | None = Field(
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
        *wrappers, target = (link.partition("://") for link in self.url.split("::"))
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
    max_size: Annotated[
        str | int | None,
        PlainValidator(_checked_size),
        WithJsonSchema(
            {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": _SIZE}], "title": "Max Size"}
        ),
    ] = Field(None, description='Upper bound of one version, such as "500 MB", "2 GiB" or a number of bytes.')

    @property
    def max_bytes(self) -> int | None:
        """`max_size` in bytes; None where the course sets no bound."""
        return None if self.max_size is None else parse_size(self.max_size)


class Manifest(Strict):
    """A course's datamount.yaml."""

    version: Annotated[Literal[1], BeforeValidator(_known_version)] = Field(description="Of this syntax.")
    datasets: dict[DatasetName, Dataset] = Field(default_factory=dict, description="By name.")
    save: Save = Field(default_factory=lambda: Save(max_size=None), description="How the student's work is kept.")


def json_schema() -> dict[str, Any]:
    """The syntax as JSON Schema 2020-12, for editors. What only the loader can see (lines, aliases) is not in it."""
    schema = Manifest.model_json_schema()
    dataset = schema["$defs"]["Dataset"]
    dataset["oneOf"] = [{"required": [kind]} for kind in SOURCES]
    dataset["dependentRequired"] = {key: ["url"] for key in ("sha256", "credential", "unpack")}
    schema["$defs"]["S3"]["not"] = {
        "properties": {"anonymous": {"const": True}},
        "required": ["anonymous", "credential"],
    }
    _walk(schema, _tidy)
    schema["properties"]["datasets"]["propertyNames"] = {
        "pattern": _NAME.pattern,
        "not": {"pattern": _reserved_pattern()},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        **schema,
        "title": "datamount.yaml",
    }


def _reserved_pattern() -> str:
    stems = sorted({variable.rpartition("_")[0].lower().replace("_", "-") for variable in _OBEYED})
    families = "|".join(sorted(family.rstrip("_").lower() for family in _OBEYED_FAMILIES))
    return f"^(({'|'.join(stems)})|({families})(-.*)?)$"


def _walk(node: Any, visit: Callable[[dict[str, Any]], None]) -> None:
    if isinstance(node, dict):
        visit(node)
        for value in node.values():
            _walk(value, visit)
    elif isinstance(node, list):
        for value in node:
            _walk(value, visit)


def _tidy(node: dict[str, Any]) -> None:
    """A key without a value is a fault, so null leaves the schema; a mapping by name accepts no other names."""
    options = node.get("anyOf")
    if isinstance(options, list):
        kept = [option for option in options if option != {"type": "null"}]
        if len(kept) == 1:
            del node["anyOf"]
            node.update({key: value for key, value in kept[0].items() if key not in node})
        else:
            node["anyOf"] = kept
    if node.get("default", ...) is None:
        del node["default"]
    if "patternProperties" in node and "additionalProperties" not in node:
        node["additionalProperties"] = False
