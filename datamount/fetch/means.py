"""What all datasets of one fetch share: the machine's threads, memory and disk, and who opens the sources."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from datamount.credentials import Credential, Credentials
from datamount.drivers.base import Driver
from datamount.fetch.cache import Cache
from datamount.fetch.retries import Policy
from datamount.fetch.space import Space
from datamount.fetch.workers import Crew, Memory, Pace
from datamount.manifest import Dataset


class Opener(Protocol):
    """Makes the driver of a dataset; `drivers.open_driver`."""

    def __call__(self, name: str, dataset: Dataset, credential: Credential | None = None) -> Driver[Any]: ...


@dataclass(frozen=True, slots=True)
class Means:
    """Made once a fetch, and given to each of its jobs. `stop` is set when the fetch ends, however it ends."""

    data: Path
    credentials: Credentials
    opener: Opener
    policy: Policy
    cache: Cache | None
    space: Space
    stop: threading.Event = field(default_factory=threading.Event)
    crew: Crew = field(default_factory=lambda: Crew("transfer"))
    memory: Memory = field(default_factory=Memory)
    pace: Pace = field(default_factory=Pace)
