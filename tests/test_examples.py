"""Every script in examples/ runs in its small mode, as a user would run it; a new one is tested by being there."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "examples"
LIMIT = 200
# Script: why it cannot run here.
EXCLUDED: dict[str, str] = {}

# Script: a package that it needs and that may be missing outside of the extra `test`.
NEEDS = {"retrofit_smp.py": "segmentation_models_pytorch"}

EXAMPLES = sorted(path.name for path in FOLDER.glob("*.py"))


def test_there_are_examples_and_few_are_excluded():
    assert EXAMPLES, "examples/ is empty"
    assert set(EXCLUDED) | set(NEEDS) <= set(EXAMPLES), "an exclusion is out of date"
    assert len(EXCLUDED) < len(EXAMPLES) / 2, "the exclusions cover the folder"
    assert all(len(reason) > 20 for reason in EXCLUDED.values()), "say why"


@pytest.mark.parametrize("name", EXAMPLES)
def test_is_short_and_says_what_it_shows(name):
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert len(text.splitlines()) < LIMIT
    assert text.lstrip().startswith(('"""', "#!")), "begin with a docstring"


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name not in EXCLUDED])
def test_runs(name, tmp_path):
    if name in NEEDS and find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed; the extra test brings it")
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    run = subprocess.run(
        [sys.executable, str(FOLDER / name), "--smoke"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, f"{run.stdout[-2000:]}\n{run.stderr[-4000:]}"
