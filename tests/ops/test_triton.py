"""The Triton backend: its kernels in a process of their own, its choices and its absence here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kdinpaint.ops.triton import arguments, configs, launch, unsupported

CASES = Path(__file__).with_name("triton_cases.py")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Triton exists for Linux only")
@pytest.mark.parametrize("way", ["interpreted", pytest.param("native", marks=pytest.mark.gpu)])
def test_kernels(way):
    # Whether kernels are interpreted is decided when Triton is imported, so it needs a process of its own.
    surroundings = {**os.environ, "TRITON_INTERPRET": "1", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    if way == "native":
        surroundings.pop("TRITON_INTERPRET")
    command = [sys.executable, "-m", "pytest", "-q", str(CASES), "-x"]
    done = subprocess.run(command, env=surroundings, cwd=CASES.parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Triton exists for Linux only")
def test_kernels_compile_without_a_gpu(tmp_path):
    # The interpreter takes what the compiler refuses. Fresh cache: what is tested is compiling.
    surroundings = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, str(CASES.parents[2] / "benchmarks" / "inspect_kernels.py"), "--quick", "--check"]
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("wgmma") >= 12


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Triton exists for Linux only")
def test_the_check_for_a_gpu_runs_where_there_is_none():
    command = [sys.executable, str(CASES.parents[2] / "benchmarks" / "gpu_check.py"), "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "24 checks, 0 failed" in done.stdout


def arguments_of(dtype=torch.float32, weight=None, device="cpu", channels=3):
    image = torch.zeros(1, channels, 4, 4, dtype=dtype, device=device)
    matrix = torch.zeros(2, channels, 1, 1, dtype=weight or dtype, device=device)
    return image, matrix, torch.zeros(1, 2, 4, 4, device=device), torch.zeros(1, 1, 4, 4, device=device)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"dtype": torch.float64}, "dtype"),
        ({"weight": torch.bfloat16}, "different dtypes"),
        ({"device": "meta"}, "GPU"),
        ({}, "GPU"),
    ],
    ids=["float64", "mixed", "meta", "cpu"],
)
def test_says_why_it_cannot_run(monkeypatch, given, reason):
    monkeypatch.setattr(launch, "_has_triton", lambda: True)
    assert reason in unsupported(*arguments_of(**given))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("_has_triton", lambda: False), "not installed"),
        (("_interpreter_asked_for", lambda: True), None),
    ],
    ids=["no triton", "interpreter"],
)
def test_what_it_asks_of_the_surroundings(monkeypatch, change, reason):
    monkeypatch.setattr(launch, "_has_triton", lambda: True)
    monkeypatch.setattr(launch, *change)
    said = unsupported(*arguments_of())
    assert said is None if reason is None else reason in said


def test_an_empty_argument_is_left_to_others(monkeypatch):
    monkeypatch.setattr(launch, "_has_triton", lambda: True)
    monkeypatch.setattr(launch, "_interpreter_asked_for", lambda: True)
    assert "empty" in unsupported(*arguments_of(channels=0))


def test_works_without_triton():
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch; from kdinpaint.ops.triton import unsupported\n"
        "t = torch.zeros(1, 1, 1, 1); print(unsupported(t, t, torch.zeros(1, 2, 1, 1), t))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "not installed" in done.stdout


def test_importing_it_defines_no_kernels():
    # PyTorch may: what counts is that nothing of ours has been built on it.
    code = "import sys, kdinpaint.ops.triton; print('kdinpaint.ops.triton.kernels' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "False", done.stderr


def test_precision_follows_pytorch(monkeypatch):
    monkeypatch.setattr(arguments, "interpreted", lambda: False)
    matmul = torch.backends.cuda.matmul
    kept = matmul.fp32_precision
    try:
        assert arguments.precision(torch.float32) == "tf32x3"
        matmul.fp32_precision = "tf32"
        assert arguments.precision(torch.float32) == "tf32"
    finally:
        matmul.fp32_precision = kept
    monkeypatch.setattr(arguments, "interpreted", lambda: True)
    assert arguments.precision(torch.float32) == "ieee"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("step", ["forward", "data", "weight", "columns"])
def test_default_blocks_fit(step, dtype):
    for channels in (1, 3, 48, 64, 256):
        for outputs in (1, 3, 80, 256):
            found = configs.default(step, channels, outputs, dtype, 10_000)
            assert found.pixels >= 16
            assert 16 <= found.channels <= 64
            assert found.warps in (4, 8)
            if step != "columns":
                assert 16 <= found.outputs <= 256


def test_measured_blocks_are_used_on_their_own_device_only(monkeypatch, tmp_path):
    measured = configs.Config(32, 16, 16, 2, 1)
    shape = ("forward", 64, 64, torch.float32, 1000)
    file = tmp_path / "tuned.json"
    file.write_text(json.dumps({"This GPU": {configs.key(*shape): list(measured)}}), encoding="utf-8")
    monkeypatch.setattr(configs, "TUNED", file)
    configs.forget()
    device = torch.device("cuda", 0)
    try:
        monkeypatch.setattr(configs, "_device_name", lambda _: "This GPU")
        assert configs.choose(*shape, device) == measured
        assert configs.choose(*shape[:4], 5000, device) == configs.default(*shape[:4], 5000)
        monkeypatch.setattr(configs, "_device_name", lambda _: "Another")
        assert configs.choose(*shape, device) == configs.default(*shape)
    finally:
        configs.forget()
