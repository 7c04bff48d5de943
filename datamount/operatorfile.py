"""The operator's YAML files, and what is wrong with one in a sentence: settings, policy, settings of the injection.

Values are never quoted: a misplaced secret must not reach a terminal or a log.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from datamount.errors import UsageError

M = TypeVar("M", bound=BaseModel)


def read(path: Path, model: type[M], what: str) -> M:
    """The file as the model has it, the defaults of an empty one. UsageError, which calls the file `what`."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{what} {path} cannot be read ({error.strerror}).", who="the hub's operator") from error
    return parse(content, model, f"{what} {path}")


def parse(content: bytes, model: type[M], where: str) -> M:
    """The same of a file's content."""
    try:
        loaded = yaml.safe_load(content)
        return model.model_validate({} if loaded is None else loaded)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        # The parser's own error quotes the line.
        raise UsageError(f"{where}: {yaml_fault(error)}.", who="the hub's operator") from None
    except ValidationError as error:
        raise UsageError(
            f"{where}: {faults(error, model)}.", hint="Mend the chart's values, or the file.", who="the hub's operator"
        ) from None


def yaml_fault(error: Exception) -> str:
    """What is wrong with a YAML text, and where, in one line and in words."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    problem = str(getattr(error, "problem", None) or "")
    for known, words in _WORDS.items():
        if known in problem:
            return place + words
    return f"{place}this is not YAML; check indentation, colons and quotes"


_WORDS = {
    "mapping values are not allowed here": "a colon where none can be; quote the text, or check the line before",
    "cannot start any token": "a character that cannot stand here; YAML is indented with spaces, not tabs",
    "found unexpected end of stream": "a quote or bracket is not closed",
    "found undefined alias": "a * that names nothing; quote the text",
    "expected ',' or": "a bracket is not closed, or a comma is missing",
    "expected <block end>": "the indentation does not fit the lines before",
    "could not find expected ':'": "a key without a colon",
    "could not determine a constructor": "a tag (!) that is not known",
}


_REASONS = {
    "missing": "is missing",
    "model_type": "must be a mapping of keys",
    "string_type": "must be text; put it in quotes",
}


def faults(error: ValidationError, model: type[BaseModel]) -> str:
    """Each fault's key and reason, with the nearest key for one that is not known."""
    return "; ".join(_fault(fault, model) for fault in error.errors(include_input=False, include_url=False)[:10])


def _fault(fault: Any, model: type[BaseModel]) -> str:
    where = ".".join(map(str, fault["loc"])) or "the file"
    if fault["type"] != "extra_forbidden":
        return f"{where}: {_REASONS.get(fault['type'], fault['msg'].replace('Value error, ', ''))}"
    *above, name = fault["loc"]
    near = difflib.get_close_matches(str(name).lower().replace("-", "_"), _keys_at(model, above), 1, 0.6)
    return f"{where}: there is no such key{f' (did you mean {near[0]!r}?)' if near else ''}"


def _keys_at(model: Any, path: Sequence[str | int]) -> list[str]:
    """The keys that may stand at a place of the model; none where it is no mapping of fixed keys."""
    found = _models(model)
    for part in path:
        fields = [inner.model_fields[str(part)].annotation for inner in found if str(part) in inner.model_fields]
        # A list's index, a mapping's own key, or a union's branch: what is below is the same type's.
        found = [below for field in fields for below in _models(field)] if fields else found
    return sorted({name for inner in found for name in inner.model_fields})


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models that a type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    inner = get_args(annotation)
    if get_origin(annotation) in (typing.Annotated, typing.Literal):
        inner = inner[:1] if get_origin(annotation) is typing.Annotated else ()
    elif not (get_origin(annotation) or isinstance(annotation, types.UnionType)):
        return []
    return [model for part in inner for model in _models(part)]
