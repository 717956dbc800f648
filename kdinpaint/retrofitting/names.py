"""From what a plan calls a stage to modules of the host."""

import difflib
import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from torch import nn

from kdinpaint._core.errors import ConfigError
from kdinpaint.retrofitting.report import Level

__all__ = ["places", "resolve", "resolve_levels", "resolve_targets"]


def resolve(pattern: str, names: Sequence[str], *, missing: bool = False) -> list[str]:
    """The names that a path, the end of a path or a pattern means.

    Args:
        pattern: What a person writes.
        names: What there is.
        missing: Whether there may be none.

    Raises:
        ConfigError: None, or an end that fits several.
    """
    parts = pattern.split(".")
    globs = any(c in pattern for c in "*?[")

    def fits(name: str, whole: bool) -> bool:
        own = name.split(".")
        if len(own) < len(parts) or (whole and len(own) != len(parts)):
            return False
        tail = own[len(own) - len(parts) :]
        return all(fnmatch.fnmatchcase(a, b) if globs else a == b for a, b in zip(tail, parts, strict=True))

    found = [n for n in names if fits(n, True)] or [n for n in names if fits(n, False)]
    if not found and not missing:
        near = difflib.get_close_matches(pattern, names, n=5, cutoff=0.5)
        ends = difflib.get_close_matches(parts[-1], sorted({n.rpartition(".")[2] for n in names}), n=3, cutoff=0.6)
        near += [n for n in names if n.rpartition(".")[2] in ends and n not in near][: 5 - len(near)]
        few = near or [n for n in names if n.count(".") <= 1][:12]
        raise ConfigError(
            f"no module is called {pattern!r}. {'Did you mean' if near else 'There are'} {', '.join(map(repr, few))}? "
            f"kdinpaint.inspect(model, example) lists stages."
        )
    if not globs and len(found) > 1:
        raise ConfigError(f"{pattern!r} is the end of {', '.join(map(repr, found))}; write out the one that is meant.")
    return found


def resolve_levels(model: nn.Module, levels: Sequence[str | tuple[str, str] | Level]) -> list[tuple[str, str]]:
    """(first, last) of every stage, both the same for a stage of one module; each stage once.

    Raises:
        ConfigError: A name that fits nothing or too much.
    """
    first_name: dict[nn.Module, str] = {}
    modules = list(model.named_modules(remove_duplicate=False))
    return resolve_targets(levels, {name: first_name.setdefault(module, name) for name, module in modules if name})


def resolve_targets(
    levels: Sequence[str | tuple[str, str] | Level], first_name: Mapping[str, str]
) -> list[tuple[str, str]]:
    """See `resolve_levels`.

    Args:
        levels: What a person writes.
        first_name: Of every module, by each of its names.

    Raises:
        ConfigError: A name that fits nothing or too much.
    """
    names = list(first_name)
    stages: dict[tuple[str, str], None] = {}
    for level in levels:
        entry = level.target if isinstance(level, Level) else level
        if isinstance(entry, str) and " .. " in entry:  # as tables print a pair
            entry = cast("tuple[str, str]", tuple(entry.split(" .. ", 1)))
        if isinstance(entry, str):
            for name in resolve(entry, names):
                same = first_name[name]
                stages[same, same] = None
        else:
            ends = []
            for part in entry:
                found = resolve(part, names)
                if len(found) != 1:
                    raise ConfigError(f"{part!r} in {entry!r} fits {', '.join(found)}; a pair needs one module each.")
                ends.append(first_name[found[0]])
            stages[ends[0], ends[1]] = None
    last = [end for _, end in stages]
    for name in last:
        if last.count(name) > 1:
            raise ConfigError(f"two levels end with {name!r}; leave one out.")
    return list(stages)


def places(model: nn.Module, module: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Every (parent, name) at which a module hangs; several for a shared one."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is module:
                yield parent, name
