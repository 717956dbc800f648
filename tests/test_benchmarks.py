"""Numbers in the documentation are those of the committed results."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_tables_are_what_the_results_give():
    command = [sys.executable, str(ROOT / "benchmarks" / "tables.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_results_name_command_and_machine():
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        commands = ("python benchmarks/", "kdinpaint bench ", "kdinpaint ablate ", "kdinpaint protocols ")
        assert content["command"].startswith(commands), path.name
        assert {"processor", "threads", "torch", "python"} <= set(content["environment"]), path.name
