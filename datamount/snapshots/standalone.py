# ruff: noqa
"""Restore a saved version with nothing but Python: python3 restore.py WORKSPACE [VERSION|latest] INTO

WORKSPACE is a copy of workspaces/<owner>/<course> (`aws s3 cp --recursive …` makes one). Files that were compressed
need Python 3.14 or newer, or the `zstd` program. Each file is checked against its sha256. Exit code 3: some failed.
"""

import base64, hashlib, json, os, subprocess, sys
from pathlib import Path


def unzstd(data: bytes) -> bytes:
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return subprocess.run(["zstd", "-dcq"], input=data, stdout=subprocess.PIPE, check=True).stdout
    return bytes(zstd.decompress(data))


def name(entry: dict[str, str], key: str) -> bytes:
    return base64.b64decode(entry[f"{key}_b64"]) if f"{key}_b64" in entry else entry[key].encode()


def restore(workspace: Path, wanted: str, into: Path) -> int:
    found = [p for p in sorted((workspace / "versions").glob("*.json")) if wanted in ("latest", p.stem)]
    version = json.loads(max(found, key=lambda p: int(p.stem.split("-")[0])).read_bytes())
    failed = 0
    for entry in sorted(version["entries"], key=lambda e: e["type"] == "link"):  # links last: nothing goes through one
        path = name(entry, "path")
        try:
            if path.startswith(b"/") or b".." in path.split(b"/"):
                raise ValueError("its path leads out of the folder")
            target = os.path.join(os.fsencode(into), path)
            os.makedirs(target if entry["type"] == "folder" else os.path.dirname(target), exist_ok=True)
            if entry["type"] == "link":
                os.symlink(name(entry, "target"), target)
            elif entry["type"] == "file":
                with open(workspace / version["objects"][entry["object"]], "rb") as stored:
                    stored.seek(entry["offset"])
                    data = stored.read(entry["length"])
                data = unzstd(data) if entry["encoding"] == "zstd" else data
                if hashlib.sha256(data).hexdigest() != entry["sha256"]:
                    raise ValueError("the stored bytes are damaged")
                with open(target, "wb") as file:
                    file.write(data)
                os.chmod(target, entry["mode"] & 0o777)
                os.utime(target, ns=(entry["mtime_ns"], entry["mtime_ns"]))
        except (OSError, KeyError, ValueError, subprocess.SubprocessError) as error:
            failed += 1
            print(f"{os.fsdecode(path)!r}: {'not stored' if isinstance(error, KeyError) else error}", file=sys.stderr)
    return 3 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    sys.exit(restore(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) == 4 else "latest", Path(sys.argv[-1])))
