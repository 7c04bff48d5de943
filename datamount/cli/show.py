"""How commands print: tables for a person, JSON for a program."""

from __future__ import annotations

import json
import sys
from typing import Any


def print_json(document: Any) -> None:
    print(json.dumps(document, indent=1))


def print_table(columns: tuple[str, ...], rows: list[tuple[str, ...]], empty: str) -> None:
    """A table on a terminal; tab-separated lines for a pipe."""
    if not rows:
        print(empty, file=sys.stderr)
        return
    if not sys.stdout.isatty():
        for row in rows:
            print("\t".join(row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*map(Text, row))  # as Text: a file name is not markup
    Console().print(table)
