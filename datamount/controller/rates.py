"""How often somebody may be wrong: a bound on bad tokens, keys and links, for each pod and each source address.

Secrets of 256 random bits are not guessed, whatever the rate. What this stops is the cost: each bad token is a question
to the API server, each bad key one to the store, and each a line in the audit log. Only failures count, and a token
that was found good a moment ago is not asked about, so a neighbour behind the same address is not shut out by it.

An address is held in memory while it fails and written nowhere.
"""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

from starlette.requests import Request

from datamount.errors import TooMany

REMEMBERED = 4096
_V6_NET = 64
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Failures:
    """Lets each name fail `burst` times, and once more every `seconds`. What is refused beyond that is not tried.

    Memory is bounded: of more than REMEMBERED names that fail at a time, those that failed longest ago are forgotten.
    """

    def __init__(
        self,
        burst: int,
        seconds: float,
        *,
        told: str = "too many wrong tokens, keys or links came from here.",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._burst, self._seconds, self._told = burst, seconds, told
        self._clock = clock
        self._full_at: OrderedDict[str, float] = OrderedDict()
        """Name → when its whole burst is there again."""
        self._lock = threading.Lock()

    def check(self, name: str) -> None:
        """TooMany, with when to come back, for a name that has failed too often. An empty name never has."""
        with self._lock:
            over = self._full_at.get(name, 0.0) - self._clock() - (self._burst - 1) * self._seconds
        if over > 0:
            raise TooMany(
                self._told,
                hint="Wait a little; what is right then works.",
                who="you",
                transient=True,
                retry_after=over,
            )

    def count(self, name: str) -> bool:
        """Note a failure; whether it was the last one that is let through for now."""
        if not name:
            return False
        now = self._clock()
        with self._lock:
            full_at = max(self._full_at.get(name, 0.0), now) + self._seconds
            self._full_at[name] = full_at
            self._full_at.move_to_end(name)
            while len(self._full_at) > REMEMBERED:
                self._full_at.popitem(last=False)
        return full_at - now > (self._burst - 1) * self._seconds


class Once:
    """Remembers which of many names came before, the latest `REMEMBERED` of them."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    def first(self, name: str) -> bool:
        """Whether this name comes for the first time."""
        with self._lock:
            new = name not in self._seen
            self._seen[name] = None
            self._seen.move_to_end(name)
            while len(self._seen) > REMEMBERED:
                self._seen.popitem(last=False)
            return new


def source(request: Request, proxies: Iterable[Network]) -> str:
    """Where a request comes from: the other side of the connection, or, where that is one of the operator's `proxies`,
    the address that it names last in X-Forwarded-For. Of IPv6 the network, because who has one address has them all."""
    peer = _address(request.client.host if request.client else "")
    if peer is not None and any(peer in network for network in proxies):
        peer = _address(request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()) or peer
    if peer is None:
        return "unknown"
    return str(ipaddress.ip_network((peer, _V6_NET), strict=False)) if peer.version == 6 else str(peer)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found
