"""What the tests use and no package of an index or of Debian brings, fetched or built before the first of them runs.

    python -m tests.programs          what `make test` uses
    python -m tests.programs --slow   what `make test-slow` uses besides

Each test that needs one of them would make it, too; but then the pace of a registry would count as the test's own. What
fails is tried again, since registries fail for a moment. What cannot be had is told, and by its tests as well.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

from tests.browser import environments
from tests.pod import engine, images
from tests.servers import Missing, azure, jupyterhub, versity

PAUSES = (10, 30, 60)
"""Seconds between the tries."""
FAILURES = (Missing, engine.EngineFailed, subprocess.SubprocessError, OSError)


def wanted(*, slow: bool) -> Iterator[tuple[str, Callable[[], object]]]:
    """What is made, in the order of its making; nothing is done for what is there."""
    yield "versitygw", versity.binary
    yield "Azurite", azure.script
    if slow:
        yield "JupyterHub's proxy", jupyterhub.proxy
        yield "a small Debian", engine.debian_rootfs
        yield "what the images of the pods hold", images.archives
        for packages in environments.USED:
            yield ", ".join(packages), partial(environments.environment, *packages)


def bring(name: str, make: Callable[[], object]) -> None:
    """Make it, with patience; say why where it cannot be had."""
    for pause in (*PAUSES, None):
        try:
            make()
        except FAILURES as error:
            print(f"{name}: {error}", file=sys.stderr)
            if pause is not None:
                time.sleep(pause)
        else:
            return


if __name__ == "__main__":
    for name, make in wanted(slow="--slow" in sys.argv[1:]):
        bring(name, make)
