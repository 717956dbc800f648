"""Tensors inside nested tuples, lists and dicts: list them, pick one, put another in its place."""

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

from torch import Tensor

__all__ = ["Path", "leaves", "pick", "replace"]

Path = tuple[int | str, ...]


def leaves(tree: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:  # noqa: ANN401
    """Every tensor, with the positions, keys and field names that lead to it."""
    if isinstance(tree, Tensor):
        yield path, tree
    elif isinstance(tree, dict):
        for key, branch in tree.items():
            yield from leaves(branch, (*path, key))
    elif isinstance(tree, (list, tuple)):
        for number, branch in enumerate(tree):
            yield from leaves(branch, (*path, number))
    elif dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        for field in dataclasses.fields(tree):
            yield from leaves(getattr(tree, field.name), (*path, field.name))


def pick(tree: Any, path: Path) -> Any:  # noqa: ANN401
    """What a path leads to.

    Raises:
        LookupError: Nothing.
    """
    for step in path:
        if isinstance(tree, (dict, list, tuple)):
            tree = tree[step]  # type: ignore[index]
        elif isinstance(step, str) and hasattr(tree, step):
            tree = getattr(tree, step)
        else:
            raise KeyError(step)
    return tree


def replace(tree: Any, old: Tensor, new: Tensor) -> Any:  # noqa: ANN401
    """The same nest with `new` wherever `old` itself was; what does not hold it is handed on as it is."""
    if tree is old:
        return new
    if isinstance(tree, dict):
        changed = {key: replace(branch, old, new) for key, branch in tree.items()}
        if all(changed[key] is tree[key] for key in tree):
            return tree
        if type(tree) is dict:
            return changed
        result = copy.copy(tree)
        for key, value in changed.items():
            if value is not tree[key]:
                result[key] = value
        return result
    if isinstance(tree, (list, tuple)):
        items = [replace(branch, old, new) for branch in tree]
        if all(a is b for a, b in zip(items, tree, strict=True)):
            return tree
        if type(tree) is list:
            return items
        if type(tree) is tuple:
            return tuple(items)
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        values = {f.name: replace(getattr(tree, f.name), old, new) for f in dataclasses.fields(tree) if f.init}
        changed = {name: value for name, value in values.items() if value is not getattr(tree, name)}
        return dataclasses.replace(tree, **changed) if changed else tree
    return tree
