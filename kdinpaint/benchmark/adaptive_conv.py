"""Adaptive convolution against everything else that computes it: checked first, then timed in turn."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kdinpaint.benchmark.cases import Answer, Case, Inputs, make_inputs, make_region, reference, worst_error
from kdinpaint.benchmark.contenders import COLUMNS, CONV2D, TORCHVISION, Contender, contenders
from kdinpaint.benchmark.memory import peak_memory
from kdinpaint.benchmark.timing import Timing, interleave, speedup

__all__ = ["TOLERANCE", "measure_case"]

TOLERANCE = {"float32": 1e-4, "tf32": 5e-3, "bfloat16": 3e-2}
"""Largest relative norm of the difference to the float64 reference, output and gradients, by precision."""


def measure_case(
    case: Case,
    *,
    backends: Sequence[str] = ("auto",),
    regions: Sequence[float] = (0.25, 0.1),
    rounds: int = 15,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Check, time and weigh every contender of a case; JSON-ready.

    Args:
        case: The problem.
        backends: Of `adaptive_conv2d`.
        regions: Hole ratios that our own are also measured on.
        rounds: Samples of each.
        progress: Called with a line of text whenever something begins.
    """

    def say(*texts: str) -> None:
        progress(f"{case}: {', '.join(texts)}")

    inputs = make_inputs(case)
    masks = {ratio: make_region(case, ratio) for ratio in regions}
    field, absent = contenders(case, inputs, backends=backends, regions=masks)
    entries: dict[str, dict[str, Any]] = {one.name: _entry(one, masks) for one in field}
    entries.update({name: {"name": name, "unavailable": reason} for name, reason in absent.items()})

    answers: dict[float | None, Answer] = {}
    fit = []
    for one in field:
        say(f"checking {one.name}")
        if one.plain:
            expected = _plain_reference(inputs)
        else:
            if one.region not in answers:
                answers[one.region] = reference(inputs, None if one.region is None else masks[one.region])
            expected = answers[one.region]
        if _check(one, case, expected, entries[one.name]):
            fit.append(one)
    answers.clear()

    for one in fit:
        if one.counted:
            say(f"memory of {one.name}")
            entries[one.name]["memory"] = {
                which: peak_memory(call, case.device)._asdict() for which, call in _passes(one).items()
            }
    for which in ("forward", "training"):
        calls = {one.name: _passes(one)[which] for one in fit if which in _passes(one)}
        timings = interleave(calls, rounds=rounds, device=case.device, progress=partial(say, which))
        _record(which, timings, fit, entries)
    return {
        "device": case.device.type,
        "dtype": case.dtype,
        "shape": list(case.shape),
        "out_channels": case.out_channels,
        "kernel_size": 3,
        "spread": case.spread,
        "contenders": list(entries.values()),
    }


def _passes(one: Contender) -> dict[str, Callable[[], Any]]:
    passes: dict[str, Callable[[], Any]] = {"forward": one.forward}
    if one.training is not None:
        passes["training"] = one.training
    return passes


def _entry(one: Contender, masks: dict[float, Tensor]) -> dict[str, Any]:
    hole = None if one.region is None else float(masks[one.region].mean())
    return {
        "name": one.name,
        "backend": one.backend,
        "runs": one.runs,
        "region": one.region,
        "hole_ratio": hole,
        "note": one.note,
    }


def _check(one: Contender, case: Case, expected: Answer, entry: dict[str, Any]) -> bool:
    """Whether a contender is right, by fresh runs; what came out is noted in its entry."""
    try:
        _poison(expected[0], case.device)
        errors = {"forward": worst_error([one.forward()], expected[:1])}
        if one.training is not None:
            _poison(expected[0], case.device)
            errors["training"] = worst_error(one.training(), expected)
    except Exception as error:  # what it cannot do, it says in its own way; out of memory among them
        entry["unavailable"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        return False
    entry["error"] = errors
    limit = TOLERANCE[_precision(one, case)]
    wrong = {which: error for which, error in errors.items() if not error <= limit}
    if wrong:
        what = ", ".join(f"{which} {error:.2g}" for which, error in wrong.items())
        entry["refused"] = f"differs from the float64 reference by {what} (relative norm, at most {limit:g} allowed)"
        entry["error"] = {which: None if math.isnan(error) else error for which, error in errors.items()}
    return not wrong


def _precision(one: Contender, case: Case) -> str:
    precision = one.precision or case.dtype
    # On a GPU PyTorch lets convolutions use TF32 by default, and matrix products when told to.
    shortened = one.plain or torch.get_float32_matmul_precision() != "highest"
    return "tf32" if precision == "float32" and case.device.type == "cuda" and shortened else precision


def _poison(like: Tensor, device: torch.device) -> None:
    """Leave NaN where the next results may come to lie: memory that is not written to does not pass for a zero."""
    blocks = [torch.full(like.shape, torch.nan, device=device) for _ in range(4)]
    del blocks


def _plain_reference(inputs: Inputs) -> Answer:
    x, weight, bias = (t.detach().double().cpu().requires_grad_() for t in inputs.leaves[:3])
    output = torch.nn.functional.conv2d(x, weight, bias, padding=1)
    return output.detach(), *torch.autograd.grad(output, (x, weight, bias), inputs.gradient.double().cpu())


def _record(which: str, timings: dict[str, Timing], fit: list[Contender], entries: dict[str, dict[str, Any]]) -> None:
    """Times, and how many times as fast each is as the others that matter to it."""
    dense = {one.backend: one.name for one in fit if one.backend is not None and one.region is None}
    plain = {one.region: one.name for one in fit if one.backend == "torch"}
    for one in fit:
        if one.name not in timings:
            continue
        entry = entries[one.name]
        entry[which] = timings[one.name].summary()
        rivals = {name: name for name in (TORCHVISION, CONV2D, COLUMNS, "onnxruntime", "openvino")}
        if one.region is not None and one.backend in dense:
            rivals["dense"] = dense[one.backend]
        if one.backend is not None and one.region in plain:
            rivals["torch"] = plain[one.region]
        entry.setdefault("speedup", {})[which] = {
            label: list(speedup(timings[one.name], timings[name]))
            for label, name in rivals.items()
            if name in timings and name != one.name
        }
