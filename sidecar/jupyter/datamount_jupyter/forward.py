"""One HTTP request to the sidecar, its answer read piece by piece.

A download of any size and a stream of events go through with the browser's speed as the limit and a few kilobytes of
memory. HTTP/1.0 on purpose: the answer's body ends with the connection. uvicorn on httptools sends it in chunks all
the same, on h11 it does not; both are read.
"""

from __future__ import annotations

import asyncio
from typing import AsyncIterator, Dict, Mapping, NamedTuple

from .run_folder import Sidecar

CONNECT_SECONDS = 5.0
HEAD_LIMIT = 64 * 1024
PIECE = 64 * 1024


class SidecarAbsent(Exception):
    """The sidecar does not answer, or not in HTTP."""


class Torn(Exception):
    """The body ended before its end."""


class Answer(NamedTuple):
    """Status and headers (names in lower case); the body comes from `pieces`. Close `writer` at the end."""

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


async def pieces(answer: Answer) -> AsyncIterator[bytes]:
    """The body as it comes, without the framing of chunks; Torn when the sidecar ends in the middle of it."""
    reader = answer.reader
    if answer.headers.get("transfer-encoding", "").lower() != "chunked":
        left = int(answer.headers["content-length"]) if "content-length" in answer.headers else None
        while left is None or left > 0:
            piece = await reader.read(PIECE)
            if not piece:
                if left is not None:
                    raise Torn("{} bytes are missing".format(left))
                return
            yield piece
            left = None if left is None else left - len(piece)
        return
    try:
        while True:
            left = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
            if left == 0:
                return
            while left:
                piece = await reader.read(min(left, PIECE))
                if not piece:
                    raise Torn("{} bytes of a chunk are missing".format(left))
                yield piece
                left -= len(piece)
            await reader.readexactly(2)
    except (EOFError, ValueError, asyncio.LimitOverrunError) as error:
        raise Torn("a chunk is missing") from error
