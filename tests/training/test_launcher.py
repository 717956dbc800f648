"""The command of the documentation under the launcher that it names."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import write_photos
from two_processes import needs_gloo

# With --cpu, the launcher starts a single process, whatever the number.
LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]


@needs_gloo
@pytest.mark.slow
def test_accelerate_launches_two_processes_that_make_one_run(tmp_path):
    given = {
        "photos": write_photos(tmp_path / "photos"), "out": tmp_path / "run", "model": "kdinpaint_tiny_plain",
        "data.size": 32, "student.init": "scratch", "student.distill.cross": 0, "student.distill.self-distill": 0,
        "student.optim.steps": 2, "student.optim.batch": 2, "evaluation.per-bin": 1, "runtime.device": "cpu",
    }  # fmt: skip
    options = [text for name, value in given.items() for text in (f"--{name}", str(value))]
    logs = ["--tee", "3", "--log_dir", str(tmp_path / "logs")]
    done = subprocess.run(
        [sys.executable, *LAUNCH, *logs, "-m", "kdinpaint", "train", *options],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = sorted((tmp_path / "logs").rglob("stdout.log"))
    assert [path.parent.name for path in said] == ["0", "1"]
    assert ["Results:" in path.read_text() for path in said] == [True, False], "the main process alone speaks"
    assert (tmp_path / "run" / "metrics.json").is_file()
