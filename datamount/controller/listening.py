"""How many connections are held, and for whom: counted where they are accepted, before TLS and before anything is read.

A connection costs some 55 KiB, also one that never says a word, and to open one takes no token. So there are so many
places, and nobody can take all of them.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable

from datamount.errors import Unavailable

log = logging.getLogger(__name__)

PLACES = 2048
"""Connections at a time, some 110 MiB of them. A session needs one or two, and keeps none for longer than 75 s."""
HANDSHAKE_SECONDS = 10.0
BACKLOG = 2048
PAUSE = 0.5
"""Seconds until the next try where the system gives no connection, as when it has no file handles left."""

Leave = Callable[[], None]


class Places:
    """Places for connections. An address gets another one only while more are free than it has: one that takes what it
    can leaves half of them to all others, two leave a third, and so on, so who has few finds one."""

    def __init__(self, places: int = PLACES) -> None:
        self._free = places
        self._held: Counter[str] = Counter()

    def take(self, address: str) -> Leave | None:
        """A place, as what gives it back (once, however often it is called); None where the address has too many."""
        if self._held[address] >= self._free:
            if not self._held[address]:
                del self._held[address]
            return None
        self._held[address] += 1
        self._free -= 1
        given = False

        def leave() -> None:
            nonlocal given
            if not given:
                given = True
                self._free += 1
                self._held[address] -= 1
                if not self._held[address]:
                    del self._held[address]

        return leave


class Door:
    """Accepts connections of one listening socket. `protocol` makes what serves one; it is to call `leave` when that
    connection is lost."""

    def __init__(
        self,
        listener: socket.socket,
        protocol: Callable[[Leave], asyncio.Protocol],
        context: ssl.SSLContext | None,
        places: Places,
    ) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._protocol = protocol
        self._context = context
        self._places = places
        self._beginning: set[asyncio.Task[None]] = set()
        self._accepting = asyncio.get_running_loop().create_task(self._accept())

    def close(self) -> None:
        """Accept no more. Connections that are open go on."""
        self._accepting.cancel()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, (address, *_) = await loop.sock_accept(self._listener)
            except OSError as error:
                log.warning("no connection can be accepted: %s", error.strerror)
                await asyncio.sleep(PAUSE)
                continue
            leave = self._places.take(address)
            if leave is None:
                connection.close()
                continue
            task = loop.create_task(self._begin(connection, leave))
            self._beginning.add(task)
            task.add_done_callback(self._beginning.discard)

    async def _begin(self, connection: socket.socket, leave: Leave) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self._protocol(leave),
                connection,
                ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE_SECONDS if self._context else None,
            )
        except OSError:  # no TLS, not in time, or gone; it is closed
            leave()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises Unavailable where there can be none."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise Unavailable(
            f"the controller could not listen on {host}:{port} ({error.strerror}).",
            hint="Set another `host` or `port` in its settings.",
            who="the hub's operator",
        ) from error
