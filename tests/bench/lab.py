"""How much the extension adds to JupyterLab's start, and how large it is: docs/benchmarks/lab.md.

    make bench ARGS="lab [--rounds 10]"

One Jupyter server with the extension and one without, of one environment, a sidecar beside them. Each round opens
/lab once on each, in a fresh browser profile whose HTTP cache is warm for neither, in an order that alternates. The
time is the page's own clock from navigation to the launcher being drawn, which is after all extensions were activated.
"""

from __future__ import annotations

import argparse
import gzip
import statistics
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from tests.browser.conftest import QUIET
from tests.browser.environments import Pod, environment
from tests.jupyter_client import Jupyter
from tests.servers import program

ROOT = Path(__file__).resolve().parents[2]
WATCH = """
new MutationObserver(() => {
  if (window.readyAt === undefined && document.querySelector(".jp-LauncherCard")) window.readyAt = performance.now();
}).observe(document, {childList: true, subtree: true});
"""


def start(browser: Browser, jupyter: Jupyter) -> float:
    """Milliseconds from navigation to a usable JupyterLab."""
    context = browser.new_context()
    page = context.new_page()
    page.add_init_script(WATCH)
    page.goto(f"{jupyter.url}/lab?reset&token={jupyter.token}")
    page.wait_for_function("window.readyAt !== undefined", polling=200, timeout=60_000)
    found = float(page.evaluate("window.readyAt"))
    context.close()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="starts of each kind")
    rounds = parser.parse_args().rounds
    python = environment("jupyterlab>=4")
    times: dict[str, list[float]] = {"with": [], "without": []}
    chromium = program("chromium", hint="apt-get install chromium")
    with tempfile.TemporaryDirectory(prefix="lab-start-") as name, sync_playwright() as playwright:
        pod, bare = Pod(Path(name) / "with"), Pod(Path(name) / "without")
        for path in bare.extensions.iterdir():
            path.rename(bare.folder / path.name)
        browser = playwright.chromium.launch(executable_path=chromium, args=QUIET)
        with pod.sidecar(), pod.jupyter(python, "jupyterlab") as ours, bare.jupyter(python, "jupyterlab") as plain:
            servers = [("with", ours), ("without", plain)]
            for number in range(rounds + 1):
                for kind, jupyter in servers if number % 2 else servers[::-1]:
                    took = start(browser, jupyter)
                    if number:  # the first round fills the servers' own caches
                        times[kind].append(took)
        browser.close()
    for kind, found in times.items():
        low, high = min(found), max(found)
        print(f"{kind:8} median {statistics.median(found):.0f} ms ({low:.0f} to {high:.0f}, {len(found)} starts)")
    differences = [one - other for one, other in zip(times["with"], times["without"], strict=True)]
    print(f"median of the differences {statistics.median(differences):.0f} ms")
    static = sorted((ROOT / "sidecar/jupyter/labextension/static").glob("*.js"))
    plain_size = sum(path.stat().st_size for path in static)
    zipped = sum(len(gzip.compress(path.read_bytes())) for path in static)
    print(f"bundle {plain_size / 1000:.0f} kB, {zipped / 1000:.0f} kB gzipped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
