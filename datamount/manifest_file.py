"""From the text of datamount.yaml to its models, with a sentence for every fault.

The file comes from a stranger's repo and is read in the controller, in init containers and on laptops, so this
reads a small, plain part of YAML and refuses the rest by name: no aliases and anchors (hence no bombs), no tags, one
document, at most 1 MiB and 50 levels, and no scalar that YAML 1.1 and 1.2 read differently (`no`, 0123, 1_000).
Parsing is libyaml's; the events are taken one by one, because `compose()` already expands aliases and recurses.

All faults are found in one run: a value that cannot be read is left out and what would follow from its absence is
not reported.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from datamount.errors import Fault, ManifestError
from datamount.manifest import SOURCES, VERSION, Manifest, Mistake, sources_mistake

MAX_BYTES = 1 << 20
MAX_DEPTH = 50
MAX_FAULTS = 100
"""Faults that are worded; a file with more is not a manifest, and the work stays bounded."""

_Path = tuple[str | int, ...]
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_NUMBER = re.compile(
    r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
    r"|0[xX][0-9a-fA-F_]+|0o[0-7]+|0b[01_]+|[-+]?[1-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?"
)
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_OLD_BOOLEANS = frozenset(word for w in ("yes", "no", "on", "off") for word in (w, w.capitalize(), w.upper()))
_NULLS = ("", "~", "null", "Null", "NULL")
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
    reader = _Reader()
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


class _Stop(Exception):
    """The rest of the file cannot be read; the fault is recorded."""


class _Broken:
    """Stands for a value whose fault is recorded already."""


_BROKEN = _Broken()


class _Odd(str):
    """A plain scalar that is neither text nor a plain number, such as `1.5` or 0123; wrong wherever it stands."""

    __slots__ = ()


class _Reader:
    """One file's plain value, where each part of it stands, and the faults of its YAML."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.keys: dict[_Path, tuple[int, int]] = {}
        self.values: dict[_Path, tuple[int, int]] = {}
        self.broken: set[_Path] = set()

    def read(self, data: bytes) -> Any:
        """The file's value; not a dict when nothing can be said about its content."""
        try:
            text = self._text(data)
            tabs = self._tabs(text)
            return self._document(text, tabs)
        except _Stop:
            return _BROKEN

    def fault(self, place: tuple[int, int], message: str, hint: str = "", path: _Path = ()) -> None:
        self.faults.append(Fault(message, *place, key=_dotted(path), hint=hint))

    def stop(self, place: tuple[int, int], message: str, hint: str = "") -> _Stop:
        self.fault(place, message, hint)
        return _Stop()

    # --- Text ---

    def _text(self, data: bytes) -> str:
        if len(data) > MAX_BYTES:
            raise self.stop((0, 0), "the file is over 1 MiB.", "A manifest names data; the data goes elsewhere.")
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise self.stop((1, 1), "the file is UTF-16.", "Save it as UTF-8.")
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            before = data[: error.start].decode("utf-8", "replace")
            raise self.stop(_place(before), "the file is not UTF-8 from here on.", "Save it as UTF-8.") from None
        bad = _UNPRINTABLE.search(text)
        if bad:
            raise self.stop(
                _place(text[: bad.start()]), f"the character U+{ord(bad[0]):04X} is not allowed.", "Delete it."
            )
        return text

    def _tabs(self, text: str) -> bool:
        """Record each line indented by a tab; YAML allows none, and says so in words that help nobody."""
        found = False
        for number, line in enumerate(text.split("\n"), 1):
            indent = line[: len(line) - len(line.lstrip(" \t"))]
            if "\t" in indent and line.strip():
                self.fault((number, indent.index("\t") + 1), "the line is indented with a tab.", "Use spaces.")
                found = True
        return found

    # --- Events ---

    def _document(self, text: str, tabs: bool) -> Any:
        loader = _Loader(text)
        try:
            events = iter(loader.get_event, None)
            value = self._stream(events)
        except yaml.YAMLError as error:
            if not tabs:
                raise self._syntax(error) from None
            raise _Stop from None
        finally:
            loader.dispose()
        if not isinstance(value, dict):
            if value is None:
                self.fault((0, 0), "the file is empty.", f"Begin it with `version: {VERSION}`.")
            elif value is not _BROKEN:
                self.fault(self.values[()], "a manifest is a mapping of keys.", f"Begin it with `version: {VERSION}`.")
        return value

    def _syntax(self, error: yaml.YAMLError) -> _Stop:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        problem = " ".join(str(getattr(error, "problem", None) or "this cannot be read").split())
        message, hint = _SYNTAX.get(problem, (f"this is not YAML: {problem}.", "Check indentation, colons and quotes."))
        return self.stop((mark.line + 1, mark.column + 1) if mark else (0, 0), message, hint)

    def _stream(self, events: Iterator[Any]) -> Any:
        value: Any = None
        seen = False
        for event in events:
            if isinstance(event, yaml.StreamEndEvent):
                break
            if isinstance(event, yaml.DocumentStartEvent):
                if seen:
                    self.fault(_mark(event), "a second document begins here (`---`).", "A manifest is one document.")
                    break
                seen = True
                value = self._node(next(events), events, (), 0)
        return value

    def _node(self, event: Any, events: Iterator[Any], path: _Path, depth: int) -> Any:
        place = _mark(event)
        self.values.setdefault(path, place)
        if isinstance(event, yaml.AliasEvent):
            self.fault(place, "an alias (`*name`) is not allowed in a manifest.", "Write the value out.", path)
            self.broken.add(path)
            return _BROKEN
        if depth > MAX_DEPTH:
            raise self.stop(place, f"the file is nested deeper than {MAX_DEPTH} levels.")
        if event.anchor is not None:
            self.fault(place, "an anchor (`&name`) is not allowed in a manifest.", "Write the value out twice.", path)
        if event.tag is not None:
            self.fault(place, "a tag (`!name`) is not allowed in a manifest.", "Write the plain value.", path)
        if isinstance(event, yaml.ScalarEvent):
            if event.tag is not None:
                self.broken.add(path)
                return _BROKEN
            return self._scalar(event, path)
        value: Any = (
            self._mapping(events, path, depth)
            if isinstance(event, yaml.MappingStartEvent)
            else self._sequence(events, path, depth)
        )
        if event.tag is not None:
            self.broken.add(path)
            return _BROKEN
        return value

    def _sequence(self, events: Iterator[Any], path: _Path, depth: int) -> list[Any]:
        values: list[Any] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            values.append(self._node(event, events, (*path, len(values)), depth + 1))
        return values

    def _mapping(self, events: Iterator[Any], path: _Path, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            place = _mark(event)
            count = len(self.faults)
            key = self._node(event, events, (*path, _KEY), depth + 1)
            self.values.pop((*path, _KEY), None)
            if isinstance(key, str) and not isinstance(key, _Odd) and key not in values:
                self.keys[(*path, key)] = place
                values[key] = self._node(next(events), events, (*path, key), depth + 1)
                continue
            if isinstance(key, str) and not isinstance(key, _Odd):
                first = self.keys[(*path, key)][0]
                self.fault(
                    place, f"the key {_quoted(key)} is there already, on line {first}.", "Keep one.", (*path, key)
                )
            elif len(self.faults) == count:
                self.fault(place, "a key must be text.", 'Put it in quotes, such as "1".', path)
            # The value of a key that does not count is read for its own faults, and left out.
            self._node(next(events), events, (*path, _KEY, len(values)), depth + 1)
        return values

    def _scalar(self, event: Any, path: _Path) -> Any:
        text: str = event.value
        if event.style not in (None, "") or not event.implicit[0]:
            return text
        if text in _NULLS:
            return None
        if text in _BOOLEANS:
            return _BOOLEANS[text]
        if text in _OLD_BOOLEANS:
            self.fault(
                _mark(event),
                f"{text} means a truth value to some programs and text to others.",
                f'Write true or false, or "{text}" in quotes.',
                () if path and path[-1] == _KEY else path,
            )
            self.broken.add(path)
            return _BROKEN
        if _INTEGER.fullmatch(text):
            return int(text)
        return _Odd(text) if _NUMBER.fullmatch(text) else text


_KEY = "\0key"
"""Where a key itself stands while it is read; no key can have this name."""

_SYNTAX = {
    "mapping values are not allowed in this context": (
        "a colon here starts a second value on one line, or the line is indented wrongly.",
        "Put text with a colon in quotes, and line keys up with their neighbours.",
    ),
    "did not find expected key": (
        "a key is expected here; the line is indented wrongly, or a quote or bracket before it is not closed.",
        "Line it up with its neighbours.",
    ),
    "could not find expected ':'": ("this line has no colon after its key.", "Write `key: value`."),
    "did not find expected ',' or ']'": (
        "a list in [ ] is not closed.",
        'Write "," between values and "]" at its end.',
    ),
    "did not find expected ',' or '}'": (
        "a mapping in { } is not closed.",
        'Write "," between pairs and "}" at its end.',
    ),
    "found unexpected end of stream": ("a quote is opened and never closed.", "Close it."),
    "found character that cannot start any token": (
        "this character cannot begin a value.",
        "Put the value in quotes.",
    ),
}


# --- Models --------------------------------------------------------------------------------------------------


def _validate(value: dict[str, Any], reader: _Reader) -> tuple[Manifest | None, list[Fault]]:
    """The model of a plain value, or the faults of its content with their places."""
    clean, faults = _clean(value, reader)
    manifest: Manifest | None = None
    found: list[tuple[_Path, str, dict[str, Any]]] = []
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


def _clean(value: dict[str, Any], reader: _Reader) -> tuple[dict[str, Any], list[Fault]]:
    """The value without what is broken, and a fault for each key that has no value and each odd number."""
    faults: list[Fault] = []

    def visit(node: Any, path: _Path) -> Any:
        if isinstance(node, dict):
            cleaned = {key: visit(child, (*path, key)) for key, child in node.items()}
            return {key: child for key, child in cleaned.items() if child is not _BROKEN}
        if isinstance(node, list):
            # A broken entry keeps its place, so that the paths of the others stay true.
            entries = [visit(entry, (*path, at)) for at, entry in enumerate(node)]
            return [f"entry {at}" if entry is _BROKEN else entry for at, entry in enumerate(entries)]
        if node is None or isinstance(node, _Odd):
            if not _known(path):
                return "" if node is None else str(node)  # its unknown key is the fault
            faults.append(_empty(path, reader) if node is None else _odd(path, reader))
            reader.broken.add(path)
            return _BROKEN
        return node

    return visit(value, ()), faults


def _empty(path: _Path, reader: _Reader) -> Fault:
    whole_table = len(path) > 1 and path[-2] == "tables"
    hint = "Write {} to take the whole table." if whole_table else "Write one, or delete the line."
    return Fault(f"{_subject(path)} has no value.", *reader.keys.get(path, reader.values[path]), _dotted(path), hint)


def _odd(path: _Path, reader: _Reader) -> Fault:
    hint = "Write a plain whole number." if _last(path) in ("version", "port", "max_size") else "Put it in quotes."
    return Fault(
        f"{_subject(path)} is a number that programs read differently.", *reader.values[path], _dotted(path), hint
    )


def _unkeyed(loc: Sequence[str | int]) -> _Path:
    return tuple(part for part in loc if part != "[key]")


def _covered(path: _Path, broken: set[_Path]) -> bool:
    return any(path[:length] in broken for length in range(len(path) + 1))


def _guesses(found: list[tuple[_Path, str, dict[str, Any]]]) -> dict[_Path, _Path]:
    """For each unknown key that looks like a slip of the pen, the path it was meant to have."""
    guesses: dict[_Path, _Path] = {}
    for path, kind, _ in found[:MAX_FAULTS]:
        if kind == "extra_forbidden":
            name = str(path[-1])
            known = _keys_at(path[:-1])
            near = difflib.get_close_matches(name.lower().replace("-", "_"), known, 1, 0.6) if len(name) <= 64 else []
            if near and name.lower() not in _SECRET_KEYS:
                guesses[path] = (*path[:-1], near[0])
    return guesses


def _worded(
    path: _Path, kind: str, error: dict[str, Any], reader: _Reader, guesses: dict[_Path, _Path]
) -> Fault | None:
    """The fault as an author reads it; None where another fault says it already."""
    key_place = reader.keys.get(path, (0, 0))
    place = reader.values.get(path, key_place)
    context = error.get("ctx") or {}
    dotted = _dotted(path)
    mistake = context.get("error")
    if kind == "extra_forbidden":
        hint = _unknown_hint(path, guesses)
        return Fault(f"unknown key {_quoted(str(path[-1]))} {_where(path[:-1])}.", *key_place, dotted, hint)
    if kind == "missing":
        parent = path[:-1]
        place = reader.keys.get(parent, reader.values.get(parent, (0, 0)))
        hint = f"Write `version: {VERSION}` at its top." if path == ("version",) else f"Add `{path[-1]}: …`."
        return Fault(f'{_where(parent).removeprefix("in ")} needs the key "{path[-1]}".', *place, dotted, hint)
    if isinstance(mistake, Mistake):
        if len(path) == 2 and path[0] == "datasets" and "[key]" not in error["loc"]:
            return None  # `_sources` says it, also where other faults hid it from the model
        named = "[key]" in error["loc"]
        subject = _quoted(str(path[-1])) if named else _subject(path)
        return Fault(f"{subject}{_joined(mistake.message)}", *(key_place if named else place), dotted, mistake.hint)
    if kind == "literal_error":
        return Fault(f"{_subject(path)} must be {str(context['expected']).replace(chr(39), chr(34))}.", *place, dotted)
    if kind in ("greater_than_equal", "less_than_equal"):
        return Fault(f"{_subject(path)} must be a port number from 1 to 65535.", *place, dotted)
    if kind == "too_short":
        return Fault(f"{_subject(path)} is an empty list.", *place, dotted, "Name something, or delete the line.")
    wanted, hint = _WANTED.get(kind, ("something else", ""))
    return Fault(f"{_subject(path)} must be {wanted}, not {_what(error.get('input'))}.", *place, dotted, hint)


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


def _sources(clean: dict[str, Any], reader: _Reader, guesses: dict[_Path, _Path]) -> list[Fault]:
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
                Fault(f"dataset {_quoted(name)} {mistake.message}", *reader.keys[path], _dotted(path), mistake.hint)
            )
        if len(faults) > MAX_FAULTS:
            break
    return faults


# --- Words ---------------------------------------------------------------------------------------------------


def _type_at(path: _Path) -> Any:
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


def _known(path: _Path) -> bool:
    return _type_at(path) is not None


def _keys_at(path: _Path) -> list[str]:
    for option in _options(_type_at(path)):
        if isinstance(option, type) and issubclass(option, BaseModel):
            return list(option.model_fields)
    return []


def _unknown_hint(path: _Path, guesses: dict[_Path, _Path]) -> str:
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


def _where(path: _Path) -> str:
    if not path:
        return "in the manifest"
    if len(path) >= 2 and path[-2] == "tables":
        return f"in table {_quoted(str(path[-1]))}"
    if len(path) == 2 and path[0] == "datasets":
        return f"in dataset {_quoted(str(path[1]))}"
    if path[-1] in SOURCES:
        return f"in {'an' if path[-1] == 's3' else 'a'} {path[-1]} source"
    return f'in "{_last(path)}"'


def _subject(path: _Path) -> str:
    if path and isinstance(path[-1], int):
        return f'entry {path[-1] + 1} of "{_last(path[:-1])}"'
    if len(path) >= 2 and path[-2] == "tables":
        return f"table {_quoted(str(path[-1]))}"
    if len(path) == 2 and path[0] == "datasets":
        return f"dataset {_quoted(str(path[1]))}"
    return _quoted(_last(path))


def _last(path: _Path) -> str:
    return str(path[-1]) if path else ""


def _dotted(path: _Path) -> str:
    return ".".join(_short(str(part)) for part in path if part != _KEY)


def _short(text: str) -> str:
    plain = "".join(c if c.isprintable() else "�" for c in text[:60])
    return plain + ("…" if len(text) > 60 else "")


def _quoted(text: str) -> str:
    return f'"{_short(text)}"'


def _mark(event: Any) -> tuple[int, int]:
    return event.start_mark.line + 1, event.start_mark.column + 1


def _place(before: str) -> tuple[int, int]:
    """The line and column after this text."""
    return before.count("\n") + 1, len(before) - before.rfind("\n")
