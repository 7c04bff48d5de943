"""The server extension's small HTTP client, against answers as the sidecar's possible servers frame them."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "sidecar/jupyter/datamount_jupyter"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"


@pytest.fixture(scope="module")
def forward() -> ModuleType:
    """The module as it is imported in the student's Jupyter: beside its package's others."""
    for name in ("run_folder", "forward"):
        spec = importlib.util.spec_from_file_location(f"dm_extension.{name}", FOLDER / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    return module


def ask(forward: ModuleType, answer: bytes) -> bytes:
    """The body that comes of a server's raw answer."""

    async def main() -> bytes:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        sidecar = sys.modules["dm_extension.run_folder"].Sidecar("127.0.0.1", port, "t")
        try:
            found = await forward.send(sidecar, "GET", "/", {}, b"")
            return b"".join([piece async for piece in forward.pieces(found)])
        finally:
            found.writer.close()
            server.close()

    return asyncio.run(main())


@pytest.mark.parametrize(
    "answer",
    [
        HEAD + b"\r\nabcdef",
        HEAD + b"Content-Length: 6\r\n\r\nabcdef",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n4;x=y\r\ncdef\r\n0\r\n\r\n",
    ],
    ids=["to the end", "with a length", "in chunks"],
)
def test_framings(forward: ModuleType, answer: bytes) -> None:
    """The body arrives without its framing, however the sidecar's HTTP server frames it."""
    assert ask(forward, answer) == b"abcdef"


@pytest.mark.parametrize(
    "answer",
    [
        HEAD + b"Content-Length: 7\r\n\r\nabcdef",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n9\r\nabcdef",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n6\r\nabcdef\r\n",
    ],
    ids=["length", "in a chunk", "before the last chunk"],
)
def test_torn_bodies(forward: ModuleType, answer: bytes) -> None:
    """A body that ends too early is an error, not a shorter body."""
    with pytest.raises(forward.Torn):
        ask(forward, answer)
