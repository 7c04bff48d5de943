"""`make bench`: every benchmark in turn, or the one that is named: `make bench ARGS="download --rounds 5"`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

NAMES = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))


def main() -> int:
    chosen, arguments = (
        (sys.argv[1:2], sys.argv[2:]) if sys.argv[1:2] and sys.argv[1] in NAMES else (NAMES, sys.argv[1:])
    )
    codes = [subprocess.run([sys.executable, "-m", f"tests.bench.{name}", *arguments], check=False) for name in chosen]
    return max(done.returncode for done in codes)


if __name__ == "__main__":
    sys.exit(main())
