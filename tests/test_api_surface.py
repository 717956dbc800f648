"""Public names are held in tests/api_surface.json: none disappears unnoticed, none appears unreviewed.

To record an intended change: python tests/test_api_surface.py --update
"""

import ast
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HELD = Path(__file__).with_name("api_surface.json")
ROOMS = [
    "kdinpaint",
    "kdinpaint.errors",
    *(
        f"kdinpaint.{r}"
        for r in (
            "ops",
            "layers",
            "losses",
            "distill",
            "models",
            "models.comparators",
            "retrofitting",
            "data",
            "metrics",
            "inference",
            "exporting",
            "training",
            "ablation",
        )
    ),
]


def parsed(module: str) -> ast.Module:
    """A package or module, read without importing it: optional packages need not be there."""
    path = ROOT / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))


def public_names(module: str) -> list[str]:
    """Its `__all__`."""
    tree = parsed(module)
    for node in tree.body:
        if isinstance(node, ast.Assign) and [getattr(t, "id", "") for t in node.targets] == ["__all__"]:
            return sorted(ast.literal_eval(node.value))
    raise AssertionError(f"{module} has no __all__")


@pytest.mark.parametrize("module", ROOMS)
def test_public_names_are_the_held_ones(module):
    held, present = set(json.loads(HELD.read_text(encoding="utf-8")).get(module, [])), set(public_names(module))
    assert not held - present, (
        f"{module} has lost {sorted(held - present)}. Somebody imports them: bring them back, or deprecate them first; "
        f"then run: python tests/test_api_surface.py --update"
    )
    assert not present - held, (
        f"{module} has new names {sorted(present - held)}. If they are meant to be public, run: "
        f"python tests/test_api_surface.py --update"
    )


def test_no_room_is_held_that_is_gone():
    assert sorted(json.loads(HELD.read_text(encoding="utf-8"))) == sorted(ROOMS)


@pytest.mark.parametrize("module", ROOMS)
def test_all_lists_exactly_what_the_room_imports_and_defines(module):
    tree = parsed(module)
    bound = set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom | ast.Import):
            bound |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            bound.add(node.name)
    private = {name for name in bound if name.startswith("_")}
    assert set(public_names(module)) == bound - private, "__all__ and the imports of the room differ"


if __name__ == "__main__" and "--update" in sys.argv:
    HELD.write_text(json.dumps({module: public_names(module) for module in ROOMS}, indent=2) + "\n", encoding="utf-8")
