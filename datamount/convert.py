"""A datamount.yaml from what a course has already: repo2data, Intake, DVC, or a Frictionless Data Package.

Only declarations are read, never data, and nothing is guessed: what has no equal here is named with the reason, so
that its author can decide. Each dataset that comes out has been checked as `datamount validate` would.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from pydantic import ValidationError

from datamount.errors import UsageError
from datamount.manifest import Manifest

_ARCHIVES = {".zip": "zip", ".tar": "tar", ".tar.gz": "tar", ".tgz": "tar", ".tar.bz2": "tar", ".tar.xz": "tar"}
_GLOB = re.compile(r"[*?\[]")
_TEMPLATE = re.compile(r"\{.*\}")
_IN_CATALOG = re.compile(r"\{\{ *CATALOG_DIR *\}\}|\{\{ *CATALOG_PATH *\}\}")
_CACHED = re.compile(r"^((simplecache|filecache|blockcache)::)+")
_DOI = re.compile(r"(doi:|https?://(dx\.)?doi\.org/)?10\.\d{4,9}/\S+", re.I)
_PAGES = ("drive.google.com", "osf.io", "zenodo.org", "figshare.com", "openneuro.org")
_SCHEMES = frozenset("http https ftp sftp ssh s3 s3a s3n gs gcs az abfs abfss file".split())  # noqa: SIM905
_WHERE = "give the address of its file"
_HERE = "is a file of the repo already"


@dataclass(slots=True)
class Conversion:
    """What came of a file: the datasets as the manifest has them, and a sentence for each part that was left out."""

    format: str
    datasets: dict[str, dict[str, Any]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """The manifest as a program reads it."""
        return {"version": 1, "datasets": self.datasets}

    def text(self) -> str:
        """The manifest, as YAML that `datamount validate` accepts."""
        return yaml.safe_dump(self.document(), sort_keys=False, allow_unicode=True, width=110)

    def add(self, name: str, declared: Mapping[str, Any], **about: Any) -> None:
        """A dataset under a name that fits and is free; left out, with the reason, where it is not valid."""
        dataset = {key: value for key, value in about.items() if value} | dict(declared)
        fitting = _name(name, self.datasets)
        try:
            Manifest.model_validate({"version": 1, "datasets": {fitting: dataset}})
        except ValidationError as error:
            # Messages of ours only: pydantic's repeat the value, which may be a secret.
            first = error.errors(include_input=False)[0]
            reason = str(first["ctx"]["error"]) if "error" in first.get("ctx", {}) else first["type"]
            self.leave_out(name, reason)
        else:
            self.datasets[fitting] = dataset

    def leave_out(self, name: str, reason: str) -> None:
        self.left_out.append(f"{name}: {reason.removesuffix('.')}.")


def convert(path: Path) -> Conversion:
    """The datasets that a file of one of the four formats declares.

    Raises UsageError where it cannot be read, cannot be parsed, or is none of them.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}).", hint="Check its name.", who="you") from error
    except UnicodeDecodeError as error:
        raise _unknown(path) from error
    try:
        document = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"{path.name} cannot be parsed ({type(error).__name__}).", who="you") from error
    if not isinstance(document, dict):
        raise _unknown(path)
    for name, fits, read in _FORMATS:
        if fits(path, document):
            found = Conversion(name)
            try:
                read(document, found, path)
            except (TypeError, AttributeError, KeyError, ValueError) as error:
                raise UsageError(
                    f"{path.name} is not valid as {name} ({type(error).__name__}).", hint="Mend it first.", who="you"
                ) from error
            return found
    raise _unknown(path)


def _unknown(path: Path) -> UsageError:
    return UsageError(
        f"{path.name} is none of the files that are understood.",
        hint="They are repo2data's data_requirement.json, an Intake catalog (YAML), a DVC pointer (.dvc) and a "
        "Frictionless datapackage.json.",
        who="you",
    )


# --- Formats ----------------------------------------------------------------------------------------------------


def _repo2data(document: dict[str, Any], found: Conversion, path: Path) -> None:
    """https://github.com/SIMEXP/Repo2Data: one requirement, or several by name."""
    entries = {document.get("projectName") or "data": document} if "src" in document else document
    for name, entry in entries.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("src"), str):
            found.leave_out(name, "it has no `src`")
            continue
        source = entry["src"].strip()
        if not source:
            found.leave_out(name, "its `src` is empty")
        elif _DOI.fullmatch(source):
            found.leave_out(name, f"its `src` is a DOI, which names a page; {_WHERE}")
        elif "://" not in source:
            found.leave_out(name, "its `src` is a program, which a manifest cannot be; put its result at a URL")
        elif source.endswith(".git"):
            found.leave_out(name, "a DataLad or git repository is not supported")
        else:
            # repo2data reads buckets unsigned, and always as a folder.
            declared = _declared(source, anonymous=True, folder=source.startswith("s3:"))
            _add(found, str(entry.get("projectName") or name), declared)


def _intake(document: dict[str, Any], found: Conversion, path: Path) -> None:
    """https://intake.readthedocs.io/en/stable/catalog.html, version 1."""
    for name, entry in document["sources"].items():
        arguments = entry.get("args") or {}
        driver = str(entry.get("driver"))
        address = arguments.get("urlpath") or arguments.get("path") or arguments.get("url")
        options = arguments.get("storage_options") or {}
        if driver.rpartition(".")[2].lower() in ("catalog", "yaml_file_cat", "yamlfilecatalog", "yaml_files_cat"):
            found.leave_out(name, "it is another catalog: convert its file, too")
            continue
        about = {"description": entry.get("description")}
        addresses = address if isinstance(address, list) else [address]
        for number, one in enumerate(addresses):
            named = name if len(addresses) == 1 else f"{name}-{number + 1}"
            if not isinstance(one, str):
                found.leave_out(named, f"its driver {driver!r} names no address of a file")
            elif _IN_CATALOG.match(one) and not _TEMPLATE.search(_IN_CATALOG.sub("", one)):
                found.leave_out(named, f"{_IN_CATALOG.sub('', one).lstrip('/')!r} {_HERE}")
            elif _TEMPLATE.search(one):
                found.leave_out(named, "its address is a pattern or has parameters; write out each file")
            else:
                declared = _declared(
                    one,
                    anonymous=bool(options.get("anon")),
                    endpoint=(options.get("client_kwargs") or {}).get("endpoint_url") or options.get("endpoint_url"),
                    payer=bool(options.get("requester_pays")),
                    folder="zarr" in driver.lower(),
                )
                _add(found, named, declared, **about)
                if set(options) & {"key", "secret", "token", "password", "username"}:
                    found.left_out.append(f"{named}: its secret is not copied; name a `credential:` instead.")


def _dvc(document: dict[str, Any], found: Conversion, path: Path) -> None:
    """https://dvc.org/doc/user-guide/project-structure/dvc-files: `dvc import-url` names a source, `dvc add` none."""
    outs = document["outs"]
    deps = document.get("deps") or []
    for number, out in enumerate(outs):
        name = str(out["path"])
        source = deps[number] if number < len(deps) else None
        if source is None:
            found.leave_out(
                name,
                "DVC keeps it under its MD5 in the repo's remote, which is no place for a manifest; give its source",
            )
        elif "repo" in source:
            found.leave_out(name, f"it is a file of another DVC repository, {_shown(str(source['repo'].get('url')))}")
        elif "db" in source:
            found.leave_out(name, "it is what a database answered; declare a `mysql` dataset with a `query`")
        elif "://" not in str(source["path"]):
            found.leave_out(name, "its source is a path of one machine")
        elif str(source["path"]).startswith("remote://"):
            found.leave_out(name, f"its source is below a remote of .dvc/config; {_WHERE}")
        else:
            folder = str(out.get("md5") or out.get("hash") or "").endswith(".dir") or "files" in source
            declared = _declared(str(source["path"]), folder=folder, version=source.get("version_id"))
            _add(found, name, declared, title=document.get("desc") or out.get("desc"))


def _frictionless(document: dict[str, Any], found: Conversion, path: Path) -> None:
    """https://datapackage.org: each resource with a URL is a dataset."""
    for number, resource in enumerate(document["resources"]):
        name = str(resource.get("name") or f"{document.get('name', 'data')}-{number + 1}")
        places = resource.get("path") or resource.get("url")  # before 1.0 it was `url`
        about = {
            "title": resource.get("title") or document.get("title"),
            "description": resource.get("description"),
            "license": _license(resource) or _license(document),
        }
        for at, place in enumerate(places if isinstance(places, list) else [places]):
            named = f"{name}-{at + 1}" if isinstance(places, list) and len(places) > 1 else name
            if place is None:
                found.leave_out(named, "its data stands in the package itself")
            elif "://" not in place:
                found.leave_out(named, f"{place!r} {_HERE}")
            else:
                declared = _declared(place, unpack=False)
                algorithm, _, value = str(resource.get("hash") or "").rpartition(":")
                if isinstance(declared, dict) and "url" in declared and (algorithm, places) == ("sha256", place):
                    declared["sha256"] = value.lower()
                _add(found, named, declared, **about)


def _license(described: Mapping[str, Any]) -> str | None:
    """The first licence's name, as the versions of the specification have spelt it."""
    given = described.get("licenses") or described.get("license")
    first = given[0] if isinstance(given, list) else given
    if not isinstance(first, dict):
        return str(first) if first else None
    return next((str(first[key]) for key in ("name", "id", "type", "title") if first.get(key)), None)


_FORMATS: list[tuple[str, Callable[[Path, Any], bool], Callable[[dict[str, Any], Conversion, Path], None]]] = [
    ("a DVC pointer", lambda path, document: path.suffix == ".dvc" and isinstance(document.get("outs"), list), _dvc),
    ("an Intake catalog", lambda path, document: isinstance(document.get("sources"), dict), _intake),
    ("a Data Package", lambda path, document: isinstance(document.get("resources"), list), _frictionless),
    (
        "a repo2data requirement",
        lambda path, document: "src" in document or any(isinstance(v, dict) and "src" in v for v in document.values()),
        _repo2data,
    ),
]


# --- Parts ------------------------------------------------------------------------------------------------------


def _add(found: Conversion, name: str, declared: dict[str, Any] | str, **about: Any) -> None:
    if isinstance(declared, str):
        found.leave_out(name, declared)
    else:
        found.add(name, declared, **about)


def _declared(
    address: str,
    *,
    anonymous: bool = False,
    endpoint: str | None = None,
    payer: bool = False,
    version: str | None = None,
    folder: bool = False,
    unpack: bool = True,
) -> dict[str, Any] | str:
    """The source keys of one address, {"url": …} of what is no bucket; else the reason why there are none."""
    address = _CACHED.sub("", address)
    scheme, _, rest = address.partition("://")
    host = urlsplit(address).hostname or "" if scheme in ("http", "https") else ""
    if not rest:
        return f"{address!r} {_HERE}"
    if scheme not in _SCHEMES and "::" not in address:
        return f"nothing reads {scheme}:// addresses here; {_WHERE}"
    if host.endswith(_PAGES) and not re.search(r"/(files|download|ndownloader)(/|$)", urlsplit(address).path):
        return f"{host} has a page there; {_WHERE}"
    if scheme in ("s3", "s3a", "s3n"):
        if folder and not rest.endswith("/"):
            rest += "/"
        bucket, _, key = rest.partition("/")
        source: dict[str, Any] = {"url": f"s3://{bucket}/{key}"}
        if glob := _GLOB.search(key):
            above = key[: glob.start()].rpartition("/")[0]
            above += "/" if above else ""
            source = {"url": f"s3://{bucket}/{above}", "include": [key[len(above) :]]}
        more = {"endpoint_url": endpoint, "anonymous": anonymous, "requester_pays": payer}
        if version and not source["url"].endswith("/"):
            more["version_id"] = version
        return {"s3": source | {key: value for key, value in more.items() if value}}
    if folder:
        return f"it is a folder at {scheme}://, and only buckets of S3 can be declared whole; name its files one by one"
    name = urlsplit(address).path.lower()
    kind = next((kind for suffix, kind in _ARCHIVES.items() if name.endswith(suffix)), None) if unpack else None
    return {"url": address} | ({"unpack": kind} if kind else {})


def _name(wanted: str, taken: Mapping[str, Any]) -> str:
    """A dataset's name that is like `wanted`, valid and not taken."""
    stem = posixpath.splitext(wanted)[0] if "/" not in wanted and wanted.count(".") == 1 else wanted
    plain = re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:34].rstrip("-")
    plain = plain if plain[:1].isalpha() else f"data-{plain}".rstrip("-")
    for name in _numbered(plain):
        if name not in taken:
            try:
                Manifest.model_validate({"version": 1, "datasets": {name: {"url": "https://example.edu/x"}}})
            except ValidationError:  # its variables would be settings of programs
                return _name(f"course-{plain}", taken)
            return name
    raise AssertionError


def _numbered(name: str) -> Iterator[str]:
    yield name
    for number in range(2, 10_000):
        yield f"{name}-{number}"


def _shown(url: str) -> str:
    return re.sub(r"://[^/@\s]*@", "://", url)
