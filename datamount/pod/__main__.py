"""What runs in the injected containers: `python -m datamount.pod fetch|sidecar|ready|background`.

    fetch        init container: brings saved work and data, within the budget; always ends with 0
    sidecar      keeps the student's work, and starts `background`; goes on whatever happens
    ready        startup probe of the sidecar: waits for it a little; always ends with 0
    background   fetches what the start did not wait for, then ends

None of them may keep a notebook from opening. So nothing is imported up here that could fail or takes time, everything
that goes wrong is written where the student reads it, and a container that dies hard (out of memory) does less when
it runs again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping


def main(arguments: list[str] | None = None) -> int:
    """Run one of the subcommands; see the module. An unknown one is the only failure."""
    given = sys.argv[1:] if arguments is None else arguments
    if len(given) != 1 or given[0] not in COMMANDS:
        print(f"usage: python -m datamount.pod {'|'.join(COMMANDS)}", file=sys.stderr)
        return 2
    return COMMANDS[given[0]]()


def fetch() -> int:
    """See `fetch_container`."""
    from datamount.pod.fetch_container import fetch as run

    run()


def sidecar() -> int:
    """See `sidecar_container`."""
    from datamount.pod.sidecar_container import sidecar as run

    return run()


def ready() -> int:
    """See `probe`."""
    from datamount.pod.probe import ready as run

    return run()


def background() -> int:
    """See `background`."""
    from datamount.pod.background import background as run

    return run()


COMMANDS: Mapping[str, Callable[[], int]] = {
    "fetch": fetch,
    "sidecar": sidecar,
    "ready": ready,
    "background": background,
}

if __name__ == "__main__":
    sys.exit(main())
