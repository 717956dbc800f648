"""The examples in docstrings run and print what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Module: why its docstrings are not run.
EXCLUDED = {"kdinpaint.__main__": "importing it starts the command line"}


def modules() -> list[str]:
    names = []
    for path in sorted((ROOT / "kdinpaint").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return [name for name in names if name not in EXCLUDED]


def load(name: str):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if (error.name or "kdinpaint").split(".")[0] == "kdinpaint":
            raise
        return pytest.skip(f"needs {error.name}, which is not installed")


@pytest.mark.parametrize("name", modules())
def test_doctests(name, tmp_path, monkeypatch):
    module = load(name)
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert result.failed == 0, "see the output above"


def test_the_examples_are_found():
    core = [
        "kdinpaint.ops.adaptive_conv",
        "kdinpaint.layers.filler",
        "kdinpaint.distill.meta",
        "kdinpaint.inference.inpainter",
    ]
    for name in core:
        assert any(test.examples for test in doctest.DocTestFinder().find(load(name))), name
