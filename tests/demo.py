"""`make demo`: the example course with everything it needs, on this machine.

    python tests/demo.py            servers, synthetic data, JupyterLab; Ctrl-C saves and stops all of it
    python tests/demo.py --check    the same without a browser; a table of what was checked; exit code 0 if all held

What the servers hold is made anew each time, except the bucket of saved work: stop the demo, start it again, and the
work is back. `make clean` forgets it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from tests.demo_check import Check, Row, Stopped  # noqa: E402
from tests.demo_session import MARK, SessionFailed, datamount, leaving  # noqa: E402
from tests.demo_site import Site  # noqa: E402
from tests.servers import Missing, ServerFailed, dying_with_us  # noqa: E402

FOLDER = ROOT / ".demo"


def interactive(console: Console, *, port: int | None, browser: bool) -> int:
    """Run the demo until Ctrl-C; the exit code of `datamount up`."""
    with Site(FOLDER, keep_store=True, say=lambda line: console.print(f"[dim]{line}")) as site:
        course = FOLDER / "mimic-radiology"
        if course.exists():
            site.write_manifest(course)  # and not the rest: there may be work in it
        else:
            site.write_course(course)
        environment = site.environment() | {"DATAMOUNT_HOME": str(FOLDER / "home")}
        datamount("lock", course, env=environment)
        console.print(f"The course: {course}   Saved work: {site.store}")
        command = [sys.executable, "-m", "datamount", "up", str(course), "--store", site.store]
        command += ["--port", str(port)] if port else []
        command += [] if browser else ["--no-browser"]
        # A session of its own: Ctrl-C reaches it once, from us, and not from the terminal as well.
        dying = dying_with_us(signal.SIGTERM)
        child = subprocess.Popen(command, env=environment, start_new_session=True, preexec_fn=dying)

        def forward(number: int, _frame: object) -> None:
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(number)

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, forward)
        return child.wait()


def check(console: Console) -> int:
    """Run every check; 0 when all held. The folder of logs is kept when something did not."""
    began = time.monotonic()
    mark = uuid.uuid4().hex
    os.environ[MARK] = mark
    folder = Path(tempfile.mkdtemp(prefix="datamount-demo-"))
    failed = False
    try:
        with Site(folder / "site", say=console.print) as site:
            running = Check(site, folder)
            try:
                running.run()
            except Stopped:
                failed = True
            rows = running.rows
    except BaseException:  # Ctrl-C among them: nobody asked for the logs
        shutil.rmtree(folder, ignore_errors=True)
        raise
    left = leaving(mark)
    rows.append(Row("no process is left behind", "servers, sessions and kernels", error=", ".join(left.values())))
    failed = failed or bool(left)
    console.print(table(rows))
    seconds = f"{time.monotonic() - began:.0f} s"
    if failed:
        for row in rows:
            if row.error:
                console.print(f"\n[red]{row.what}[/]: {row.error}", highlight=False)
        for log in sorted(folder.glob("*.log")):
            console.print(f"\n{log}", style="bold", markup=False, highlight=False)
            console.print(log.read_text(errors="replace")[-3000:], markup=False, highlight=False)
        console.print(f"The demo does not hold ({seconds}); logs and files are kept in {folder}")
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    console.print(f"All held, in {seconds}.")
    return 0


def table(rows: list[Row]) -> Table:
    """What was checked, as a person reads it."""
    shown = Table(title="datamount: what the demo checked", title_justify="left")
    for name, justify in (("", "left"), ("what", "left"), ("found", "left"), ("size", "right"), ("seconds", "right")):
        shown.add_column(name, justify=justify, no_wrap=name in ("", "size", "seconds"))  # type: ignore[arg-type]
    for row in rows:
        size = f"{row.size:,} B" if row.size else ""
        verdict = "[red]✗[/]" if row.error else "[green]✓[/]"
        shown.add_row(verdict, row.what, row.found, size, f"{row.seconds:.1f}" if row.seconds else "")
    return shown


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="headless: check everything and print a table")
    parser.add_argument("--port", type=int, help="of JupyterLab")
    parser.add_argument("--no-browser", action="store_true", help="print the URL only")
    asked = parser.parse_args()
    # Wide enough for the table where the output is a file or a CI log.
    # As Ctrl-C: the servers and sessions are stopped on the way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console() if sys.stdout.isatty() else Console(width=150)
    try:
        if asked.check:
            return check(console)
        return interactive(console, port=asked.port, browser=not asked.no_browser)
    except (Missing, ServerFailed, SessionFailed) as error:
        console.print(f"The demo cannot start: {error}", markup=False, highlight=False)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
