"""Importing kdinpaint is silent, free of extras, and leaves the process as it was."""

import json
import subprocess
import sys

import pytest

# tqdm is not listed: huggingface_hub, which the models need, imports it.
EXTRAS = [
    "accelerate",
    "torchmetrics",
    "tyro",
    "skimage",
    "matplotlib",
    "tensorboard",
    "onnx",
    "onnxscript",
    "onnxruntime",
]
SLOW = ["torchvision", "timm", "torch.utils.tensorboard", "torch._inductor", "torch._dynamo"]

PROBE = """
import json, sys, warnings
import torch
before = torch.get_rng_state(), torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()
loaded, filters = set(sys.modules), list(warnings.filters)
import kdinpaint
after = torch.get_rng_state(), torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()
print(json.dumps({
    "modules": sorted(set(sys.modules) - loaded),
    "seed": torch.equal(before[0], after[0]),
    "settings": before[1:] == after[1:],
    "filters": filters == warnings.filters,
    "cuda": torch.cuda.is_initialized(),
    "missing": [name for name in kdinpaint.__all__ if not hasattr(kdinpaint, name)],
}))
"""


@pytest.fixture(scope="module")
def fresh():
    run = subprocess.run([sys.executable, "-W", "error", "-c", PROBE], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run


def test_is_silent(fresh):
    assert fresh.stderr == ""
    assert fresh.stdout.count("\n") == 1, "import kdinpaint printed something"


@pytest.mark.parametrize("package", [*EXTRAS, *SLOW])
def test_does_not_import(fresh, package):
    assert package not in json.loads(fresh.stdout)["modules"]


def test_leaves_the_process_as_it_was(fresh):
    found = json.loads(fresh.stdout)
    assert found["seed"], "the random state has changed"
    assert found["settings"], "a setting of torch has changed"
    assert found["filters"], "the warning filters have changed"
    assert not found["cuda"], "CUDA has been initialised"


def test_every_public_name_is_there(fresh):
    assert json.loads(fresh.stdout)["missing"] == []
