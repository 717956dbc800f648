"""Does the file compute what the model computes? onnxruntime on the CPU against PyTorch."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdinpaint._core.errors import ConfigError, KDInpaintError, MissingDependencyError
from kdinpaint._core.optional import require
from kdinpaint.exporting.capture import resized, shapes

__all__ = ["compare"]


def compare(model: nn.Module, serialized: bytes, example: Sequence[Tensor], *, dynamic: bool, tolerance: float) -> Any:  # noqa: ANN401
    """The largest difference of an output, relative to its norm.

    Args:
        model: In eval mode.
        serialized: The ONNX file.
        example: Inputs.
        dynamic: Compare at another size, too, unless the model refuses it.
        tolerance: Largest difference that passes.

    Returns:
        A float, or None without onnxruntime, or with numbers that it does not take from NumPy (bfloat16).

    Raises:
        ConfigError: onnxruntime refuses the file, or finds something else.
    """
    try:
        runtime = require("onnxruntime", extra="export")
    except MissingDependencyError:
        return None
    if any(t.dtype == torch.bfloat16 for t in example):
        return None
    session = _session(runtime, serialized)
    names = [value.name for value in session.get_inputs()]
    worst = 0.0
    for inputs in (example, resized(example)) if dynamic else (example,):
        try:
            expected = _tensors(model(*inputs))
        except (KDInpaintError, RuntimeError):
            if inputs is example:
                raise
            continue
        found = session.run(None, {name: t.cpu().numpy() for name, t in zip(names, inputs, strict=True)})
        for theirs, ours in zip(found, expected, strict=True):
            difference = _relative(torch.from_numpy(theirs), ours.cpu())
            if not difference <= tolerance:
                raise ConfigError(
                    f"onnxruntime {runtime.__version__} and PyTorch differ by {difference:.1e} of the output's norm "
                    f"for inputs of {shapes(inputs)}; {tolerance:.0e} is allowed. Nothing was written. If the model "
                    f"itself magnifies rounding that much, pass a larger tolerance; if it computes in another way for "
                    f"other sizes, pass dynamic=False."
                )
            worst = max(worst, difference)
    return worst


def _session(runtime: Any, serialized: bytes) -> Any:  # noqa: ANN401
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return runtime.InferenceSession(serialized, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common base
        raise ConfigError(
            f"onnxruntime {runtime.__version__} cannot run the graph ({str(error).strip().splitlines()[0]}). "
            f"Nothing was written. DeformConv needs onnxruntime 1.25 or newer; check=False writes the file unchecked."
        ) from error


def _relative(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape:
        return float("inf")
    difference = (found.double() - expected.double()).norm()
    return float(difference / expected.double().norm()) if difference else 0.0


def _tensors(tree: Any) -> list[Tensor]:  # noqa: ANN401
    """All tensors of nested tuples, lists and dicts, in the order of the graph's outputs."""
    if isinstance(tree, Tensor):
        return [tree]
    branches = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ()
    return [t for branch in branches for t in _tensors(branch)]
