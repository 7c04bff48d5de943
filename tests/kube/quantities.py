"""Quantities as the API server reads and stores them: numbers are taken, and all are written in one canonical way.

Held to `resource.Quantity` of k8s.io/apimachinery 0.31, which reads and writes them in the API server itself.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

_FORM = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:([eE][+-]?\d+)|([KMGTPE]i)|([numkMGTPE]?))")
_BINARY = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"]
_DECIMAL = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"]


def canonical(value: Any) -> str:
    """The quantity as the API server answers it. ValueError for what is none."""
    text = value if isinstance(value, str) else json.dumps(value)
    found = _FORM.fullmatch(text) if not isinstance(value, bool) else None
    if found is None:
        raise ValueError("quantities must match the regular expression")
    number, exponent, binary, suffix = found.groups()
    if exponent:
        return _exponent(Decimal(number + exponent))
    if binary:
        size = Decimal(number) * 1024 ** _BINARY.index(binary)
        if size == size.to_integral_value():
            return _steps(int(size), 1024, _BINARY)
        return _decimal(size)
    return _decimal(Decimal(number) * Decimal(1000) ** (_DECIMAL.index(suffix) - 3))


def _decimal(size: Decimal) -> str:
    return _steps(int((size * 10**9).to_integral_value(rounding="ROUND_CEILING")), 1000, _DECIMAL)


def _steps(size: int, base: int, names: list[str]) -> str:
    step = 0
    while size and size % base == 0 and step + 1 < len(names):
        size, step = size // base, step + 1
    return f"{size}{names[step]}" if size else "0"


def _exponent(size: Decimal) -> str:
    digits, power = int(size * 10**9), -9
    while digits and digits % 1000 == 0:
        digits, power = digits // 1000, power + 3
    return f"{digits}e{power}" if power and digits else str(digits)


def canonical_pod(pod: dict[str, Any]) -> dict[str, Any]:
    """A copy of the pod whose quantities are canonical: of containers' resources, of volumes and of the overhead. What
    has a limit and no request requests its limit."""
    pod = json.loads(json.dumps(pod))
    spec = pod.get("spec")
    if not isinstance(spec, dict):
        return pod
    for container in [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]:
        for kind in ("limits", "requests"):
            _each((container.get("resources") or {}).get(kind))
        if limits := (container.get("resources") or {}).get("limits"):
            container["resources"]["requests"] = limits | (container["resources"].get("requests") or {})
    for volume in spec.get("volumes") or []:
        if (volume.get("emptyDir") or {}).get("sizeLimit") is not None:
            volume["emptyDir"]["sizeLimit"] = canonical(volume["emptyDir"]["sizeLimit"])
    _each(spec.get("overhead"))
    return pod


def _each(quantities: Any) -> None:
    for name, value in (quantities or {}).items():
        quantities[name] = canonical(value)
