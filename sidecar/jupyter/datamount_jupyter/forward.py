"""One HTTP request to the sidecar, its answer read piece by piece.

HTTP/1.0 on purpose: the answer's body then ends with the connection and needs no decoding, so a download of any size
and a stream of events go through with the browser's speed as the limit and a few kilobytes of memory.
"""

from __future__ import annotations

import asyncio
from typing import Dict, Mapping, NamedTuple

from .run_folder import Sidecar

CONNECT_SECONDS = 5.0
HEAD_LIMIT = 64 * 1024


class SidecarAbsent(Exception):
    """The sidecar does not answer, or not in HTTP."""


class Answer(NamedTuple):
    """Status and headers (names in lower case); the body is what `reader` still gives. Close `writer` at the end."""

    status: int
    headers: Dict[str, str]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


async def send(sidecar: Sidecar, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
    """Send a request and read the answer's head; SidecarAbsent when there is none."""
    try:
        reader, writer = await asyncio.wait_for(
            asyncio.open_connection(sidecar.host, sidecar.port, limit=HEAD_LIMIT), CONNECT_SECONDS
        )
    except (OSError, asyncio.TimeoutError) as error:
        raise SidecarAbsent("cannot connect") from error
    try:
        lines = [
            "{} {} HTTP/1.0".format(method, target),
            "Host: {}:{}".format(sidecar.host, sidecar.port),
            "Authorization: Bearer {}".format(sidecar.token),
            "Content-Length: {}".format(len(body)),
        ]
        lines.extend("{}: {}".format(name, value) for name, value in headers.items())
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(head[0].split(" ")[1])
        pairs = (line.split(":", 1) for line in head[1:] if ":" in line)
        return Answer(status, {name.strip().lower(): value.strip() for name, value in pairs}, reader, writer)
    except (OSError, ValueError, IndexError, EOFError, asyncio.LimitOverrunError) as error:
        writer.close()
        raise SidecarAbsent("no answer") from error
    except BaseException:
        writer.close()
        raise
