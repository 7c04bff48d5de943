"""Reading a local file with the errors of a source; for file:// addresses of the url and quilt drivers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from datamount.errors import DatamountError, NotFound, Refused, Unavailable

CHUNK = 2 << 20


def read_file(path: Path, *, dataset: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
    """The bytes [start, stop) of a file, in chunks. Raises NotFound, Refused, Unavailable."""
    try:
        with path.open("rb") as stream:
            stream.seek(start)
            left = None if stop is None else max(0, stop - start)
            while chunk := stream.read(CHUNK if left is None else min(CHUNK, left)):
                left = None if left is None else left - len(chunk)
                yield chunk
    except OSError as error:
        raise explain(error, path, dataset=dataset) from error


def explain(error: OSError, path: Path, *, dataset: str) -> DatamountError:
    """The error of ours that the operating system's answer stands for."""
    tried = f'dataset "{dataset}": reading the file {path} failed'
    if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
        what = "it is a folder" if isinstance(error, IsADirectoryError) else "there is no such file"
        return NotFound(f"{tried}: {what}.", hint="Check the address in datamount.yaml.", who="the course's author")
    if isinstance(error, PermissionError):
        return Refused(f"{tried}: permission denied.", hint="Make it readable for this user.", who="you")
    return Unavailable(f"{tried}: {error.strerror}.", hint="Check the disk.", who="you", transient=True)
