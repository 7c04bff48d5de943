"""The forms of single values in datamount.yaml: names, addresses, digests, sizes, and what is refused in each.

A type here says how its value looks and what an author reads of one that does not. The patterns also stand in the
JSON Schema.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, GetCoreSchemaHandler, GetJsonSchemaHandler, PlainValidator, WithJsonSchema
from pydantic_core import CoreSchema, core_schema


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


_AUTHORITY = re.compile(r"([A-Za-z0-9+.-]+)://([^/?#\s]*)")
_SECRET_QUERY = re.compile(r"[?&](x-amz-signature|x-amz-security-token|x-goog-signature|awsaccesskeyid|sig)=", re.I)


_IPV6 = re.compile(r"https?://\[[0-9A-Fa-f:.]+\](?::[0-9]*)?(?=[/?#]|$)")


def links(url: str) -> list[str]:
    """The links of a chain as fsspec reads it: "zip://a.csv::https://…" has two.

    A plain web address is one link, though an IPv6 address in it has "::" too. In a chain such an address cannot
    stand: fsspec would take what follows for a file.
    """
    plain = _IPV6.match(url)
    return [url] if plain and "::" not in url[plain.end() :] else url.split("::")


def _without_secret(value: str) -> str:
    """Refuse a URL (or a chain of them) that carries a password, or a signature that works as one."""
    for scheme, authority in (found for link in links(value) for found in _AUTHORITY.findall(link)):
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
        'A BUCKET has 3 to 63 letters, digits, "." and "-".',
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


Size = Annotated[
    str | int | None,
    PlainValidator(_checked_size),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": _SIZE}], "title": "Max Size"}
    ),
]


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

NAME = Form(
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


def reserved_pattern() -> str:
    """Of the names that `DatasetName` refuses, for the JSON Schema."""
    stems = sorted({variable.rpartition("_")[0].lower().replace("_", "-") for variable in _OBEYED})
    families = "|".join(sorted(family.rstrip("_").lower() for family in _OBEYED_FAMILIES))
    return f"^(({'|'.join(stems)})|({families})(-.*)?)$"


DatasetName = Annotated[str, NAME, AfterValidator(_unreserved)]
