"""The command that gives a result, as the result records it."""

import dataclasses
import shlex
from collections.abc import Collection
from pathlib import Path
from typing import Any

__all__ = ["command_line"]


def command_line(start: str, config: Any, *, leave_out: Collection[str] = ()) -> str:  # noqa: ANN401 - any dataclass
    """A command with the options that differ from their defaults.

    Folders stand as DIR and files as FILE, for their places mean nothing elsewhere.

    Args:
        start: The command itself, with its positional arguments.
        config: Its options, a dataclass.
        leave_out: Fields that are positional, or on which no result depends.
    """
    words = [start]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name not in leave_out and value != field.default:
            words += _option(field.name.replace("_", "-"), value)
    return " ".join(words)


def _option(name: str, value: Any) -> list[str]:  # noqa: ANN401 - any field of a dataclass
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, Path):
        return [f"--{name}", "FILE" if value.suffix and not value.is_dir() else "DIR"]
    parts = value if isinstance(value, tuple) else (value,)
    return [f"--{name}", *(shlex.quote(str(part)) for part in parts)]
