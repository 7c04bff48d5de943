"""The Jupyter server extension runs in the student's Python, which may be old."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

JUPYTER = Path(__file__).resolve().parents[2] / "sidecar/jupyter"
MODULES = sorted([*(JUPYTER / "datamount_jupyter").glob("*.py"), *(JUPYTER / "config").glob("*.py")])
ALLOWED = sys.stdlib_module_names | {"tornado", "jupyter_server", "datamount_jupyter"}
# Standard, but newer than Python 3.8.
NEWER = {"graphlib", "zoneinfo", "tomllib", "annotationlib", "compression"}


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name)
def test_python_3_8(module: Path) -> None:
    """Every module parses as Python 3.8, and imports the standard library, tornado and jupyter_server only."""
    text = module.read_text(encoding="utf-8")
    tree = ast.parse(text, feature_version=(3, 8))
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        for name in names:
            assert name.split(".")[0] in ALLOWED - NEWER, name
    # Evaluated at import, where `from __future__ import annotations` does not help.
    assert not re.search(r"\b(removeprefix|removesuffix|to_thread)\(", text)
