"""Overrides: a dotted name and a value, checked against the dataclass or constructor that it changes."""

import dataclasses
import difflib
import inspect
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from kdinpaint._core.errors import ConfigError
from kdinpaint._core.optional import require

__all__ = ["check_option", "coerce", "near", "override", "parse_assignment"]

T = TypeVar("T")


def near(name: str, known: Sequence[str]) -> str:
    """What to write instead of an unknown name: the near misses, or everything there is."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"expected one of {', '.join(sorted(known))}."


def override(config: T, path: str, value: Any, *, full: str | None = None) -> T:  # noqa: ANN401
    """A frozen dataclass with one field, however deep, replaced.

    Args:
        config: A dataclass.
        path: Dotted name, for example "student.distill.cross".
        value: As TOML has it; converted to the type of the field.
        full: How to name the path in errors.

    Raises:
        ConfigError: There is no such field, or the value does not fit its type.
    """
    full = full or path
    name, _, rest = path.partition(".")
    fields = [field.name for field in dataclasses.fields(config)]  # type: ignore[arg-type]
    if name not in fields:
        prefix = full[: len(full) - len(path)]
        raise ConfigError(f"there is no setting {full!r}: {prefix or 'the top level'} {_has(fields, name)}")
    before = getattr(config, name)
    if rest:
        if not dataclasses.is_dataclass(before):
            raise ConfigError(f"{full!r} goes on after {name}, which is a single value ({before!r}).")
        after: Any = override(before, rest, value, full=full)
    elif dataclasses.is_dataclass(before):
        inside = ", ".join(f"{full}.{field.name}" for field in dataclasses.fields(before))
        raise ConfigError(f"{full!r} is a group of settings; set one of {inside}.")
    else:
        after = coerce(value, get_type_hints(type(config))[name], full)
    return dataclasses.replace(config, **{name: after})  # type: ignore[type-var]


def _has(fields: Sequence[str], name: str) -> str:
    return f"has none of that name; {near(name, fields)}"


def check_option(function: Callable[..., Any], name: str, value: Any, full: str) -> Any:  # noqa: ANN401
    """A keyword argument of a constructor, converted to the type of its annotation.

    Raises:
        ConfigError: There is no such argument, or the value does not fit its type.
    """
    parameters = [p for p in inspect.signature(function).parameters if p not in ("self", "device", "dtype")]
    if name not in parameters:
        raise ConfigError(f"there is no setting {full!r}; {near(name, parameters)}")
    return coerce(value, get_type_hints(function)[name], full)


def coerce(value: Any, hint: Any, name: str) -> Any:  # noqa: ANN401 - one branch a kind of type
    """A value as TOML or JSON has it, as an annotation wants it: numbers, texts, choices, paths, lists, unions.

    Raises:
        ConfigError: It does not fit.
    """
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value in (None, "none", "None") and type(None) in parts and not _fits(value, parts):
            return None
        for part in parts:
            try:
                return coerce(value, part, name)
            except ConfigError:
                continue
    elif origin is Literal:
        if value in parts:
            return value
        hint_text = near(str(value), [str(p) for p in parts])
        raise ConfigError(f"{name} is {value!r}; {hint_text}")
    elif origin in (tuple, list, Sequence):
        if isinstance(value, list | tuple):
            kinds = parts if origin is tuple and Ellipsis not in parts else [parts[0]] * len(value)
            if len(kinds) == len(value):
                return tuple(coerce(v, kind, name) for v, kind in zip(value, kinds, strict=True))
    elif hint is type(None):
        if value is None:
            return None
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif hint is Path and isinstance(value, str | Path):
        return Path(value)
    elif (hint in (bool, str) and isinstance(value, hint)) or (hint is int and type(value) is int):
        return value
    raise ConfigError(f"{name} is {value!r}, a {type(value).__name__}; expected {_readable(hint)}.")


def _fits(value: Any, parts: Sequence[Any]) -> bool:  # noqa: ANN401
    """Whether "none" is itself one of the choices."""
    return any(get_origin(part) is Literal and value in get_args(part) for part in parts)


def _readable(hint: Any) -> str:  # noqa: ANN401
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_readable(part) for part in get_args(hint))
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    return "none" if hint is type(None) else getattr(hint, "__name__", str(hint))


def read_toml(text: str, source: str) -> Mapping[str, Any]:
    """Parse TOML.

    Raises:
        ConfigError: It is not TOML.
        MissingDependencyError: On Python 3.10, tomli is not installed.
    """
    toml = require("tomllib" if sys.version_info >= (3, 11) else "tomli", extra="train")
    try:
        content: Mapping[str, Any] = toml.loads(text)
    except ValueError as error:
        raise ConfigError(f"{source} is not TOML: {error}.") from error
    return content


def parse_assignment(text: str) -> tuple[str, Any]:
    """Split "name=value" as typed on a command line: the value as TOML reads it, or else as text.

    Raises:
        ConfigError: There is no equals sign.

    Example:
        >>> from kdinpaint.ablation.values import parse_assignment
        >>> parse_assignment("student.distill.cross=0.05"), parse_assignment("model.filler=none")
        (('student.distill.cross', 0.05), ('model.filler', 'none'))
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ConfigError(f"{text!r} is not an assignment; expected NAME=VALUE, such as student.distill.cross=0.05.")
    try:
        return name.strip(), read_toml(f"value = {value}", "the value")["value"]
    except ConfigError:
        return name.strip(), value.strip()
