"""The house as it is drawn: imports run one way, files stay short, packages are declared. Standard library only."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "kdinpaint"
LIMIT = 400

# What each room may import; rooms below may import rooms above, siblings never each other.
ALLOWED = {
    "_core": set(),
    "ops": {"_core"},
    "losses": {"_core", "ops"},
    "layers": {"_core", "ops"},
    "distill": {"_core", "ops", "layers"},
    "models": {"_core", "ops", "layers"},
    "retrofitting": {"_core", "ops", "layers", "distill"},
    "data": {"_core", "ops"},
    "metrics": {"_core", "ops"},
    "inference": {"_core", "ops", "models"},
    "exporting": {"_core", "ops"},
    "benchmark": {"_core", "ops", "layers"},
    "training": {"_core", "ops", "losses", "layers", "distill", "models", "data", "metrics", "inference"},
    "ablation": {"_core", "ops", "layers", "distill", "retrofitting", "models", "data", "metrics", "training"},
    "cli": {
        "_core",
        "ops",
        "layers",
        "distill",
        "retrofitting",
        "models",
        "data",
        "metrics",
        "inference",
        "exporting",
        "benchmark",
        "training",
        "ablation",
    },
    "errors": {"_core"},
    "__init__": {"ops", "layers", "distill", "retrofitting", "models", "inference", "exporting"},
    "__main__": {"cli"},
}
# File, relative to the root: why it may be longer than LIMIT lines.
LONG_FILES: dict[str, str] = {}
# Package: which declared one brings it.
BROUGHT_BY = {"packaging": "accelerate", "triton": "torch"}
DISTRIBUTION = {"PIL": "pillow", "skimage": "scikit-image", "huggingface_hub": "huggingface-hub"}

MODULES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path) -> list[tuple[str, str, int]]:
    """Every import of a file, wherever it stands: (module, name or "", line). Relative ones are made absolute."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, "", node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                package = path.relative_to(ROOT).parent.parts
                module = ".".join([*package[: len(package) - node.level + 1], *([module] if module else [])])
            found += [(module, alias.name, node.lineno) for alias in node.names]
    return found


def test_every_room_has_a_rule_and_the_rules_have_an_order():
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert rooms == set(ALLOWED) - {"errors", "__init__", "__main__"}, "a new room needs a line in ALLOWED"
    order = list(ALLOWED)
    for room, allowed in ALLOWED.items():
        assert all(order.index(other) < order.index(room) for other in allowed - {"cli"}), room


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    room = room_of(path)
    wrong = []
    for module, name, line in imports(path):
        if module.split(".")[0] != "kdinpaint":
            continue
        parts = [*module.split("."), name]
        target = parts[1]
        if target in ("", "__init__") or target not in ALLOWED:
            wrong.append(f"line {line}: imports the root package; name the room")
        elif target != room and target not in ALLOWED[room]:
            wrong.append(f"line {line}: {room} must not import {target}")
        elif target != room and any(part.startswith("_") for part in parts[2:]):
            wrong.append(f"line {line}: {'.'.join(filter(None, parts))} is private to {target}")
    assert not wrong, "\n".join([f"{path.relative_to(ROOT)}:", *wrong])


@pytest.mark.parametrize("folder", ["kdinpaint", "tests", "examples", "benchmarks"])
def test_files_stay_short(folder):
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in (ROOT / folder).rglob("*.py")
    }
    long = {name: count for name, count in lengths.items() if count > LIMIT and name not in LONG_FILES}
    assert not long, f"longer than {LIMIT} lines; split by idea: {long}"


def test_exclusions_have_reasons_and_are_needed():
    for name, reason in LONG_FILES.items():
        assert len(reason) > 20, f"{name}: say why"
        assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) > LIMIT, f"{name} is short; remove it"


def declared() -> tuple[set[str], set[str]]:
    """Names of the packages that pyproject.toml requires always, and of those that some extra does."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    needed = re.search(r"^dependencies = \[(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    extras = re.search(r"^\[project\.optional-dependencies\](.*?)^\[project\.", text, re.DOTALL | re.MULTILINE)
    assert needed is not None
    assert extras is not None
    always, optional = (set(re.findall(r'"([A-Za-z0-9_-]+)', part.group(1))) for part in (needed, extras))
    return always, always | optional


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_packages_that_are_imported_are_declared(path):
    always, any_extra = declared()
    allowed = any_extra if room_of(path) in ("data", "metrics", "exporting", "training", "ablation", "cli") else always
    for module, _, line in imports(path):
        top = module.split(".")[0]
        if top in sys.stdlib_module_names or top == "kdinpaint":
            continue
        assert DISTRIBUTION.get(BROUGHT_BY.get(top, top), BROUGHT_BY.get(top, top)) in allowed, f"line {line}: {module}"
