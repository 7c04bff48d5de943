"""Files of a Quilt package, from a registry in a bucket or a folder.

Quilt's registry is files: `.quilt/named_packages/<package>/<tag>` holds a top hash, `.quilt/packages/<top hash>` is a
manifest of JSON lines (a header, then one entry a file with its physical key, size and SHA-256). We read the two
files ourselves, because importing quilt3 alone takes longer than most packages' transfer, and it knows neither an
endpoint nor a credential of its own. The tests hold this reader to what quilt3 pushes and to quilt3's top hash. It
writes nothing to the user's Quilt configuration, reads there only the keys of a login (`quilt_login`), and sends no
usage metrics.

The metadata of the package and of its files, where there is any, is delivered as `.quilt.json`.

The top hash is computed again from the manifest, so a manifest that was changed in the bucket is refused.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from datamount.credentials import Credential
from datamount.drivers import reach
from datamount.drivers.base import Buffer, Digest, Driver, Item, Pin, safe_path
from datamount.drivers.files import read_file
from datamount.drivers.quilt_login import login_keys, login_region
from datamount.drivers.quilt_manifest import Entry, Manifest
from datamount.drivers.s3_access import S3Access
from datamount.errors import NotFound, UsageError, VerificationFailed
from datamount.manifest import Dataset, Quilt

_TOP_HASH = re.compile(r"^[0-9a-f]{64}$")
ABOUT = ".quilt.json"


class QuiltDriver(Driver[Quilt]):
    """A package, or its folder or file `path`. Pin: {"top_hash": 64 hex digits}."""

    supports_ranges = True
    parallel_ranges = True
    streams_plan = True

    def __init__(self, name: str, dataset: Dataset, source: Quilt, credential: Credential | None) -> None:
        super().__init__(name, dataset, source, credential)
        self._buckets: dict[str, S3Access] = {}
        self._manifest: tuple[str, Manifest] | None = None
        registry = urlsplit(source.registry)
        self._local = registry.scheme == "file"
        if registry.scheme not in ("file", "s3") or (not registry.netloc and not self._local):
            raise UsageError(
                f'dataset "{name}": the registry {source.registry!r} is neither s3://bucket nor file:///folder.',
                hint="Write it as in: registry: s3://course-data",
                who="the course's author",
            )
        self._root = unquote(registry.path) if self._local else registry.netloc

    def resolve(self, pin: Pin | None = None) -> Pin:
        """The top hash of the lock, else of the manifest's `top_hash`, else what the tag points at now."""
        top_hash = str(pin["top_hash"]) if pin else self._asked()
        self._read_manifest(top_hash)
        return {"top_hash": top_hash}

    def plan(self, pin: Pin) -> Iterator[Item]:
        manifest = self._read_manifest(str(pin["top_hash"]))
        if manifest.top_hash() != pin["top_hash"]:
            raise VerificationFailed(
                f'dataset "{self.name}": the manifest of {self.source.package} does not have the hash that names it '
                f"({str(pin['top_hash'])[:12]}…); it was changed in {self.source.registry}.",
                hint="Push the package again, or ask who can write to the registry.",
                who="the data's owner",
            )
        if next(self._chosen(manifest), None) is None:
            raise NotFound(
                f'dataset "{self.name}": {self.source.package} has no file at {self.source.path or "/"!r}.',
                hint="Check `path` in datamount.yaml.",
                who="the course's author",
            )
        for entry, path in self._chosen(manifest):
            yield self._item(entry, path)
        about = self._about(str(pin["top_hash"]))
        if about and all(path != ABOUT for _, path in self._chosen(manifest)):
            digest = Digest("sha256", hashlib.sha256(about).hexdigest())
            yield Item(ABOUT, len(about), f"about:{digest.value}", digest, {"about": pin["top_hash"]})

    def open(self, item: Item, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        if "about" in item.ref:
            return iter((self._about(str(item.ref["about"]))[start:stop],))
        place = urlsplit(item.ref["physical_key"])
        self._check_place(place.scheme, item.path)  # a lock file may say anything
        if place.scheme == "file":
            return read_file(Path(unquote(place.path)), dataset=self.name, start=start, stop=stop)
        version = parse_qs(place.query).get("versionId", [None])[0]
        version = version if version != "null" else None
        key = unquote(place.path.removeprefix("/"))
        return self._bucket(place.netloc).read(key, version_id=version, start=start, stop=stop)

    # --- The registry -----------------------------------------------------------------------------------------

    def _asked(self) -> str:
        wanted = self.source.top_hash
        if wanted is None:
            pointer = f"named_packages/{self.source.package}/{self.source.tag}"
            try:
                found = self._read(pointer).decode("ascii", "replace").strip()
            except NotFound as error:
                raise NotFound(
                    f'dataset "{self.name}": {self.source.registry} has no package {self.source.package} '
                    f'with the tag "{self.source.tag}".',
                    hint="Check package, tag and registry in datamount.yaml.",
                    who="the course's author",
                ) from error
            if not _TOP_HASH.match(found):
                raise VerificationFailed(
                    f'dataset "{self.name}": {pointer} in {self.source.registry} does not hold a top hash.',
                    hint="Push the package again.",
                    who="the data's owner",
                )
            return found
        if len(wanted) == 64:
            return wanted
        matches = sorted(self._hashes(wanted))
        if len(matches) != 1:
            raise NotFound(
                f'dataset "{self.name}": {len(matches) or "no"} packages in {self.source.registry} have a top hash '
                f"that begins with {wanted}.",
                hint="Write all 64 digits of `top_hash`.",
                who="the course's author",
            )
        return matches[0]

    def _hashes(self, beginning: str) -> Iterator[str]:
        if self._local:
            yield from (p.name for p in Path(self._root, ".quilt/packages").glob(f"{beginning}*"))
            return
        prefix = f".quilt/packages/{beginning}"
        for found in self._bucket(self._root).list(prefix):
            yield found.key.rpartition("/")[2]

    def _read_manifest(self, wanted: str) -> Manifest:
        """Read once, because `resolve` and `plan` both want it."""
        if self._manifest is None or self._manifest[0] != wanted:
            try:
                self._manifest = (wanted, Manifest(self._read(f"packages/{wanted}"), dataset=self.name))
            except NotFound as error:
                raise NotFound(
                    f'dataset "{self.name}": {self.source.registry} has no package with the top hash {wanted[:12]}….',
                    hint="It was deleted there, or `top_hash` is of another registry.",
                    who="the course's author",
                ) from error
        return self._manifest[1]

    def _read(self, path: str) -> bytes:
        if self._local:
            return b"".join(read_file(Path(self._root, ".quilt", path), dataset=self.name))
        return self._bucket(self._root).read_all(f".quilt/{path}")

    def _bucket(self, name: str) -> S3Access:
        access = self._buckets.get(name)
        if access is None:
            # Keys of a login are of AWS: a manifest must not decide to what other server they are shown.
            own = self.credential is None and self.source.endpoint_url is None and reach.current() is None
            access = S3Access(
                self.name,
                name,
                credential=self.credential,
                credential_name=self.source.credential,
                endpoint_url=self.source.endpoint_url,
                region=login_region() if own else None,
                login=partial(login_keys, self.name) if own else None,
            )
            # setdefault, so that threads which race here share one.
            access = self._buckets.setdefault(name, access)
        return access

    # --- Entries ----------------------------------------------------------------------------------------------

    def _chosen(self, entries: Iterable[Entry]) -> Iterator[tuple[Entry, str]]:
        wanted = (self.source.path or "").strip("/")
        for entry in entries:
            if not wanted:
                yield entry, entry.logical_key
            elif entry.logical_key == wanted:
                yield entry, wanted.rpartition("/")[2]
            elif entry.logical_key.startswith(f"{wanted}/"):
                yield entry, entry.logical_key[len(wanted) + 1 :]

    def _about(self, top_hash: str) -> bytes:
        """The content of `.quilt.json`; b"" where the package says nothing. The same manifest gives the same bytes."""
        manifest = self._read_manifest(top_hash)
        files = {path: said for entry, path in self._chosen(manifest) if (said := entry.meta.get("user_meta") or {})}
        said = manifest.header.get("user_meta")
        if not (said or files):
            return b""
        about = {
            "package": self.source.package,
            "top_hash": top_hash,
            "message": manifest.header.get("message"),
            "user_meta": said or {},
            "files": files,
        }
        return json.dumps(about, indent=1, sort_keys=True, ensure_ascii=False).encode()

    def _item(self, entry: Entry, path: str) -> Item:
        self._check_place(urlsplit(entry.physical_key).scheme, entry.logical_key)
        digest = _digest(entry.hash)
        identity = f"{entry.hash.get('type', '')}:{entry.hash.get('value', '')}"
        return Item(
            safe_path(path, dataset=self.name), entry.size, identity, digest, {"physical_key": entry.physical_key}
        )

    def _check_place(self, scheme: str, path: str) -> None:
        """A package in a bucket must not make the fetching machine read its own files."""
        if scheme != "s3" and not (scheme == "file" and self._local):
            raise UsageError(
                f'dataset "{self.name}": {path!r} of {self.source.package} lies at a {scheme or "bare"} '
                f"address, which a package in {self.source.registry} may not use.",
                hint="Push the package with its files (quilt3 push without selectors).",
                who="the data's owner",
            )


def _digest(given: Mapping[str, str]) -> Digest | None:
    kind, value = given.get("type", ""), given.get("value", "")
    if kind == "SHA256":
        return Digest("sha256", value.lower())
    if kind == "sha2-256-chunked":
        try:
            return Digest("sha2-256-chunked", base64.b64decode(value, validate=True).hex())
        except binascii.Error:
            return None
    return None
