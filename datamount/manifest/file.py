"""From the text of datamount.yaml to its models, with a sentence for every fault.

All faults are found in one run: a value that cannot be read is left out, and what would only follow from its absence
is not reported.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from datamount.errors import Fault, ManifestError
from datamount.manifest.document import VERSION, Manifest
from datamount.manifest.parse import BROKEN, MAX_BYTES, Odd, Reader, Where, dotted, quoted
from datamount.manifest.sources import SOURCES, sources_mistake
from datamount.manifest.values import Mistake

MAX_FAULTS = 100
"""Faults that are worded; a file with more is not a manifest, and the work stays bounded."""

_SECRET_KEYS = frozenset(
    """user username password passwd pwd secret token api_key apikey key access_key access_key_id secret_key
    secret_access_key aws_access_key_id aws_secret_access_key session_token credentials_file auth""".split()  # noqa: SIM905
)


def load_manifest(path: Path) -> Manifest:
    """The manifest in this file. Raises ManifestError with all its faults; a file that is not there is one."""
    try:
        if not path.is_file():
            raise ManifestError(str(path), [Fault("there is no such file.")])
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise ManifestError(str(path), [Fault(f"the file cannot be read ({error.strerror}).")]) from error
    return parse_manifest(data, path.name)


def parse_manifest(data: bytes, file: str = "datamount.yaml") -> Manifest:
    """The manifest in these bytes; `file` names it in messages. Raises ManifestError with all its faults."""
    reader = Reader()
    value = reader.read(data)
    faults = reader.faults
    if isinstance(value, dict):
        manifest, more = _validate(value, reader)
        faults = faults + more
        if manifest is not None and not faults:
            return manifest
    faults.sort(key=lambda fault: (fault.line or 0, fault.column))
    if len(faults) > MAX_FAULTS:
        faults = [*faults[:MAX_FAULTS], Fault(f"and {len(faults) - MAX_FAULTS} more faults.")]
    raise ManifestError(file, faults)


# --- Models --------------------------------------------------------------------------------------------------


def _validate(value: dict[str, Any], reader: Reader) -> tuple[Manifest | None, list[Fault]]:
    """The model of a plain value, or the faults of its content with their places."""
    clean, faults = _clean(value, reader)
    manifest: Manifest | None = None
    found: list[tuple[Where, str, dict[str, Any]]] = []
    try:
        manifest = Manifest.model_validate(clean)
    except ValidationError as error:
        found = [(_unkeyed(e["loc"]), e["type"], dict(e)) for e in error.errors(include_url=False)]
    newer = [e for path, _, e in found if path == ("version",) and "newer" in e["msg"]]
    if newer:
        # A newer version has keys that this one cannot know; they would only distract from the one sentence.
        found = [entry for entry in found if entry[0] == ("version",)]
        reader.faults.clear()
        faults.clear()
    guesses = _guesses(found)
    for path, kind, details in found:
        if not _covered(path, reader.broken) and not (kind == "missing" and path in guesses.values()):
            fault = _worded(path, kind, details, reader, guesses)
            if fault is not None:
                faults.append(fault)
        if len(faults) > MAX_FAULTS:
            break
    if not newer:
        faults += _sources(clean, reader, guesses)
    return manifest, faults


def _clean(value: dict[str, Any], reader: Reader) -> tuple[dict[str, Any], list[Fault]]:
    """The value without what is broken, and a fault for each key that has no value and each odd number."""
    faults: list[Fault] = []

    def visit(node: Any, path: Where) -> Any:
        if isinstance(node, dict):
            cleaned = {key: visit(child, (*path, key)) for key, child in node.items()}
            return {key: child for key, child in cleaned.items() if child is not BROKEN}
        if isinstance(node, list):
            # A broken entry keeps its place, so that the paths of the others stay true.
            entries = [visit(entry, (*path, at)) for at, entry in enumerate(node)]
            return [f"entry {at}" if entry is BROKEN else entry for at, entry in enumerate(entries)]
        if node is None or isinstance(node, Odd):
            if not _known(path):
                return "" if node is None else str(node)  # its unknown key is the fault
            faults.append(_empty(path, reader) if node is None else _odd(path, reader))
            reader.broken.add(path)
            return BROKEN
        return node

    return visit(value, ()), faults


def _empty(path: Where, reader: Reader) -> Fault:
    whole_table = len(path) > 1 and path[-2] == "tables"
    hint = "Write {} to take the whole table." if whole_table else "Write one, or delete the line."
    return Fault(f"{_subject(path)} has no value.", *reader.keys.get(path, reader.values[path]), dotted(path), hint)


def _odd(path: Where, reader: Reader) -> Fault:
    hint = "Write a plain whole number." if _last(path) in ("version", "port", "max_size") else "Put it in quotes."
    return Fault(
        f"{_subject(path)} is a number that programs read differently.", *reader.values[path], dotted(path), hint
    )


def _unkeyed(loc: Sequence[str | int]) -> Where:
    return tuple(part for part in loc if part != "[key]")


def _covered(path: Where, broken: set[Where]) -> bool:
    return any(path[:length] in broken for length in range(len(path) + 1))


def _guesses(found: list[tuple[Where, str, dict[str, Any]]]) -> dict[Where, Where]:
    """For each unknown key that looks like a slip of the pen, the path it was meant to have."""
    guesses: dict[Where, Where] = {}
    for path, kind, _ in found[:MAX_FAULTS]:
        if kind == "extra_forbidden":
            name = str(path[-1])
            known = _keys_at(path[:-1])
            near = difflib.get_close_matches(name.lower().replace("-", "_"), known, 1, 0.6) if len(name) <= 64 else []
            if near and name.lower() not in _SECRET_KEYS:
                guesses[path] = (*path[:-1], near[0])
    return guesses


def _worded(path: Where, kind: str, error: dict[str, Any], reader: Reader, guesses: dict[Where, Where]) -> Fault | None:
    """The fault as an author reads it; None where another fault says it already."""
    key_place = reader.keys.get(path, (0, 0))
    place = reader.values.get(path, key_place)
    context = error.get("ctx") or {}
    key = dotted(path)
    mistake = context.get("error")
    if kind == "extra_forbidden":
        hint = _unknown_hint(path, guesses)
        return Fault(f"unknown key {quoted(str(path[-1]))} {_where(path[:-1])}.", *key_place, key, hint)
    if kind == "missing":
        parent = path[:-1]
        place = reader.keys.get(parent, reader.values.get(parent, (0, 0)))
        hint = f"Write `version: {VERSION}` at its top." if path == ("version",) else f"Add `{path[-1]}: …`."
        return Fault(f'{_where(parent).removeprefix("in ")} needs the key "{path[-1]}".', *place, key, hint)
    if isinstance(mistake, Mistake):
        if len(path) == 2 and path[0] == "datasets" and "[key]" not in error["loc"]:
            return None  # `_sources` says it, also where other faults hid it from the model
        named = "[key]" in error["loc"]
        subject = quoted(str(path[-1])) if named else _subject(path)
        return Fault(f"{subject}{_joined(mistake.message)}", *(key_place if named else place), key, mistake.hint)
    if kind == "literal_error":
        return Fault(f"{_subject(path)} must be {str(context['expected']).replace(chr(39), chr(34))}.", *place, key)
    if kind in ("greater_than_equal", "less_than_equal"):
        return Fault(f"{_subject(path)} must be a port number from 1 to 65535.", *place, key)
    if kind == "too_short":
        return Fault(f"{_subject(path)} is an empty list.", *place, key, "Name something, or delete the line.")
    wanted, hint = _WANTED.get(kind, ("something else", ""))
    return Fault(f"{_subject(path)} must be {wanted}, not {_what(error.get('input'))}.", *place, key, hint)


_WANTED = {
    "string_type": ("text", "Put it in quotes."),
    "int_type": ("a whole number", "Write it without quotes."),
    "bool_type": ("true or false", "Write it without quotes."),
    "list_type": ("a list", "Write it like [one, two]."),
    "dict_type": ("a mapping of keys", "Put its keys below it, indented."),
    "model_type": ("a mapping of keys", "Put its keys below it, indented."),
    "model_attributes_type": ("a mapping of keys", "Put its keys below it, indented."),
}


def _what(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    kinds = {str: "text", int: "a number", list: "a list", dict: "a mapping of keys"}
    return kinds.get(type(value), "this")


def _joined(message: str) -> str:
    """A mistake's message after its subject: a sentence of its own gets a colon before it."""
    verbs = ("must ", "is ", "has ", "names ", "needs ", "cannot ")
    return f" {message}" if message.startswith(verbs) else f": {message}"


def _sources(clean: dict[str, Any], reader: Reader, guesses: dict[Where, Where]) -> list[Fault]:
    """Each dataset whose sources are not exactly one, also where it has other faults."""
    faults: list[Fault] = []
    datasets = clean.get("datasets")
    for name, dataset in datasets.items() if isinstance(datasets, dict) else ():
        path = ("datasets", name)
        meant = {goal[-1] for slip, goal in guesses.items() if slip[:-1] == path}
        unread = {key for key in SOURCES if (*path, key) in reader.broken}
        if not isinstance(dataset, dict) or _covered(path, reader.broken) or meant & set(SOURCES) or unread:
            continue
        s3 = dataset.get("s3")
        inside = s3 if isinstance(s3, dict) else {}
        mistake = sources_mistake(
            dataset, anonymous=inside.get("anonymous") is True, s3_credential="credential" in inside
        )
        if mistake:
            faults.append(
                Fault(f"dataset {quoted(name)} {mistake.message}", *reader.keys[path], dotted(path), mistake.hint)
            )
        if len(faults) > MAX_FAULTS:
            break
    return faults


# --- Words ---------------------------------------------------------------------------------------------------


def _type_at(path: Where) -> Any:
    """The type that the models give to the value at this path; None where they know no such key."""
    kind: Any = Manifest
    for part in path:
        options = [o for o in _options(kind) if o is not type(None)]
        kind = None
        for option in options:
            if isinstance(option, type) and issubclass(option, BaseModel):
                field = option.model_fields.get(str(part))
                kind = field.annotation if field else None
            elif get_origin(option) in (dict, list):
                kind = get_args(option)[-1]
        if kind is None:
            return None
    return kind


def _options(kind: Any) -> tuple[Any, ...]:
    if get_origin(kind) is Annotated:
        return _options(get_args(kind)[0])
    if get_origin(kind) is Union or type(kind).__name__ == "UnionType":
        return tuple(inner for option in get_args(kind) for inner in _options(option))
    return (kind,)


def _known(path: Where) -> bool:
    return _type_at(path) is not None


def _keys_at(path: Where) -> list[str]:
    for option in _options(_type_at(path)):
        if isinstance(option, type) and issubclass(option, BaseModel):
            return list(option.model_fields)
    return []


def _unknown_hint(path: Where, guesses: dict[Where, Where]) -> str:
    name = str(path[-1])
    if name.lower() in _SECRET_KEYS and len(path) > 2:
        return "Secrets never stand in a course: name one with `credential: NAME`."
    if path in guesses:
        return f'Did you mean "{guesses[path][-1]}"?'
    if len(path) == 3:
        homes = [kind for kind in SOURCES if name in _keys_at(("datasets", "x", kind))]
        if homes:
            return f"It goes inside {' or '.join(f'`{home}:`' for home in homes)}."
    if len(path) > 1 and name in _keys_at(path[:-2]):
        return "It is indented too far."
    return f"Known keys: {', '.join(_keys_at(path[:-1]))}."


def _where(path: Where) -> str:
    if not path:
        return "in the manifest"
    if len(path) >= 2 and path[-2] == "tables":
        return f"in table {quoted(str(path[-1]))}"
    if len(path) == 2 and path[0] == "datasets":
        return f"in dataset {quoted(str(path[1]))}"
    if path[-1] in SOURCES:
        return f"in {'an' if path[-1] == 's3' else 'a'} {path[-1]} source"
    return f'in "{_last(path)}"'


def _subject(path: Where) -> str:
    if path and isinstance(path[-1], int):
        return f'entry {path[-1] + 1} of "{_last(path[:-1])}"'
    if len(path) >= 2 and path[-2] == "tables":
        return f"table {quoted(str(path[-1]))}"
    if len(path) == 2 and path[0] == "datasets":
        return f"dataset {quoted(str(path[1]))}"
    return quoted(_last(path))


def _last(path: Where) -> str:
    return str(path[-1]) if path else ""
