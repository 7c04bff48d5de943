"""The API's documentation as one page without scripts or anything from elsewhere: it works without a network."""

from __future__ import annotations

import json
from html import escape
from typing import Any

POLICY = "default-src 'none'; style-src 'unsafe-inline'"

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1b1b1f }
h2 { margin-top: 2.5rem } code, pre { font: 14px/1.4 ui-monospace, monospace }
pre { background: #f3f3f6; padding: .8rem; overflow: auto; border-radius: 4px }
section { border-top: 1px solid #ccc } .method { font-weight: 700 }
table { border-collapse: collapse } td, th { text-align: left; padding: .2rem 1rem .2rem 0; vertical-align: top }
"""


def render(openapi: dict[str, Any]) -> str:
    """The HTML of an OpenAPI document: each operation with parameters, example of the body, answers."""
    info = openapi["info"]
    schemas = openapi.get("components", {}).get("schemas", {})
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(info['title'])}</title>",
        f"<style>{_STYLE}</style><h1>{escape(info['title'])} {escape(info['version'])}</h1>",
        f"<p>{escape(info.get('summary', ''))} Every call needs <code>Authorization: Bearer TOKEN</code>, with the "
        "token of <code>sidecar.json</code> in the run folder. Errors are "
        "<a href='https://www.rfc-editor.org/rfc/rfc9457'>RFC 9457</a> problem documents with <code>hint</code> (what "
        "to do) and <code>who</code> (who can do it). The schemas are in <a href=/openapi.json>openapi.json</a>.</p>",
    ]
    for path, operations in openapi["paths"].items():
        for method, operation in operations.items():
            parts.append(_operation(path, method, operation, schemas))
    problem = schemas.get("Problem", {}).get("example")
    parts.append(f"<h2>A problem document</h2><pre>{escape(json.dumps(problem, indent=2))}</pre>")
    return "\n".join(parts)


def _operation(path: str, method: str, operation: dict[str, Any], schemas: dict[str, Any]) -> str:
    lines = [f"<section><h2><span class=method>{method.upper()}</span> <code>{escape(path)}</code></h2>"]
    lines.append(f"<p>{escape(operation.get('description', ''))}</p>")
    rows = "".join(
        f"<tr><td><code>{escape(p['name'])}</code><td>{escape(p['in'])}<td>{escape(p.get('description', ''))}"
        for p in operation.get("parameters", [])
    )
    if rows:
        lines.append(f"<table><tr><th>Parameter<th>in<th>{rows}</table>")
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    example = schemas.get(body.get("$ref", "").rpartition("/")[2], {}).get("example")
    call = f"curl -H 'Authorization: Bearer '$TOKEN {'-X POST ' if method == 'post' else ''}$URL{path}"
    if example is not None:
        call += f" \\\n  -H 'Content-Type: application/json' -d '{json.dumps(example)}'"
    lines.append(f"<pre>{escape(call)}</pre>")
    codes = ", ".join(
        f"{code} {escape(answer.get('description', ''))}" for code, answer in operation["responses"].items()
    )
    lines.append(f"<p>Answers: {codes}</p></section>")
    return "\n".join(lines)
