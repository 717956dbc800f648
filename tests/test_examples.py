"""Every script in examples/ runs in its small mode, as a user would run it; a new one is tested by being there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "examples"
LIMIT = 200
# Script: why it cannot run here.
EXCLUDED: dict[str, str] = {}

EXAMPLES = sorted(path.name for path in FOLDER.glob("*.py"))


def test_there_are_examples_and_few_are_excluded():
    assert EXAMPLES, "examples/ is empty"
    assert set(EXCLUDED) <= set(EXAMPLES), "an exclusion is out of date"
    assert len(EXCLUDED) < len(EXAMPLES) / 2, "the exclusions cover the folder"
    assert all(len(reason) > 20 for reason in EXCLUDED.values()), "say why"


@pytest.mark.parametrize("name", EXAMPLES)
def test_is_short_and_says_what_it_shows(name):
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert len(text.splitlines()) < LIMIT
    assert text.lstrip().startswith(('"""', "#!")), "begin with a docstring"


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name not in EXCLUDED])
def test_runs(name, tmp_path):
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
