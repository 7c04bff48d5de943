"""The plain part of YAML that a manifest may use, with the place of every value.

A manifest comes from a stranger's repo and is read in the controller, in init containers and on laptops. So this
reads a small part of YAML and refuses the rest by name: no aliases and anchors (hence no bombs), no tags, one
document, at most 1 MiB and 50 levels, and no scalar that YAML 1.1 and 1.2 read differently (`no`, 0123, 1_000).
Parsing is libyaml's; its events are taken one by one, because `compose()` resolves aliases before anyone can object.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from datamount.errors import Fault
from datamount.manifest.document import VERSION

MAX_BYTES = 1 << 20
MAX_DEPTH = 50

Where = tuple[str | int, ...]
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


class _Stop(Exception):
    """The rest of the file cannot be read; the fault is recorded."""


class _Broken:
    """Stands for a value whose fault is recorded already."""


BROKEN = _Broken()


class Odd(str):
    """A plain scalar that is neither text nor a plain number, such as `1.5` or 0123; wrong wherever it stands."""

    __slots__ = ()


class Reader:
    """One file's plain value, where each part of it stands, and the faults of its YAML."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.keys: dict[Where, tuple[int, int]] = {}
        self.values: dict[Where, tuple[int, int]] = {}
        self.broken: set[Where] = set()

    def read(self, data: bytes) -> Any:
        """The file's value; not a dict when nothing can be said about its content."""
        try:
            text = self._text(data)
            tabs = self._tabs(text)
            return self._document(text, tabs)
        except _Stop:
            return BROKEN

    def fault(self, place: tuple[int, int], message: str, hint: str = "", path: Where = ()) -> None:
        self.faults.append(Fault(message, *place, key=dotted(path), hint=hint))

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
            elif value is not BROKEN:
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

    def _node(self, event: Any, events: Iterator[Any], path: Where, depth: int) -> Any:
        place = _mark(event)
        self.values.setdefault(path, place)
        if isinstance(event, yaml.AliasEvent):
            self.fault(place, "an alias (`*name`) is not allowed in a manifest.", "Write the value out.", path)
            self.broken.add(path)
            return BROKEN
        if depth > MAX_DEPTH:
            raise self.stop(place, f"the file is nested deeper than {MAX_DEPTH} levels.")
        if event.anchor is not None:
            self.fault(place, "an anchor (`&name`) is not allowed in a manifest.", "Write the value out twice.", path)
        if event.tag is not None:
            self.fault(place, "a tag (`!name`) is not allowed in a manifest.", "Write the plain value.", path)
        if isinstance(event, yaml.ScalarEvent):
            if event.tag is not None:
                self.broken.add(path)
                return BROKEN
            return self._scalar(event, path)
        value: Any = (
            self._mapping(events, path, depth)
            if isinstance(event, yaml.MappingStartEvent)
            else self._sequence(events, path, depth)
        )
        if event.tag is not None:
            self.broken.add(path)
            return BROKEN
        return value

    def _sequence(self, events: Iterator[Any], path: Where, depth: int) -> list[Any]:
        values: list[Any] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            values.append(self._node(event, events, (*path, len(values)), depth + 1))
        return values

    def _mapping(self, events: Iterator[Any], path: Where, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            place = _mark(event)
            count = len(self.faults)
            key = self._node(event, events, (*path, _KEY), depth + 1)
            self.values.pop((*path, _KEY), None)
            if isinstance(key, str) and not isinstance(key, Odd) and key not in values:
                self.keys[(*path, key)] = place
                values[key] = self._node(next(events), events, (*path, key), depth + 1)
                continue
            if isinstance(key, str) and not isinstance(key, Odd):
                first = self.keys[(*path, key)][0]
                self.fault(
                    place, f"the key {quoted(key)} is there already, on line {first}.", "Keep one.", (*path, key)
                )
            elif len(self.faults) == count:
                self.fault(place, "a key must be text.", 'Put it in quotes, such as "1".', path)
            # The value of a key that does not count is read for its own faults, and left out.
            self._node(next(events), events, (*path, _KEY, len(values)), depth + 1)
        return values

    def _scalar(self, event: Any, path: Where) -> Any:
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
            return BROKEN
        if _INTEGER.fullmatch(text):
            return int(text)
        return Odd(text) if _NUMBER.fullmatch(text) else text


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


def dotted(path: Where) -> str:
    return ".".join(_short(str(part)) for part in path if part != _KEY)


def _short(text: str) -> str:
    plain = "".join(c if c.isprintable() else "�" for c in text[:60])
    return plain + ("…" if len(text) > 60 else "")


def quoted(text: str) -> str:
    return f'"{_short(text)}"'


def _mark(event: Any) -> tuple[int, int]:
    return event.start_mark.line + 1, event.start_mark.column + 1


def _place(before: str) -> tuple[int, int]:
    """The line and column after this text."""
    return before.count("\n") + 1, len(before) - before.rfind("\n")
