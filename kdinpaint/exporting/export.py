"""`kdinpaint.export`: a model as one ONNX file, checked before it is written."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdinpaint._core.checks import describe
from kdinpaint._core.errors import ConfigError
from kdinpaint._core.files import atomic_path
from kdinpaint._core.modes import evaluating
from kdinpaint._core.optional import require
from kdinpaint.exporting.capture import capture
from kdinpaint.exporting.comparison import compare
from kdinpaint.exporting.translation import MIN_OPSET, translations

__all__ = ["ExportReport", "export"]

Shape = tuple[int | str, ...]


@dataclass(frozen=True)
class ExportReport:
    """What `kdinpaint.export` wrote.

    Attributes:
        path: The file.
        opset: Version of the ONNX operator set.
        inputs: Shape of each input by name, in order; what may vary has a name ("batch", "height", "width").
        outputs: Shape of each output by name, in order.
        operators: How often each ONNX operator occurs.
        difference: Largest difference between onnxruntime and PyTorch, relative to the norm of the output; None
            if they were not compared.
    """

    path: Path
    opset: int
    inputs: Mapping[str, Shape]
    outputs: Mapping[str, Shape]
    operators: Mapping[str, int]
    difference: float | None


def export(
    model: nn.Module,
    example: Tensor | Sequence[Tensor],
    path: str | Path,
    *,
    opset: int = 20,
    dynamic: bool = True,
    check: bool = True,
    tolerance: float = 1e-5,
) -> ExportReport:
    """Write a model, or a single block, as an ONNX file.

    Adaptive convolutions become standard DeformConv nodes (with `region`, followed by Where, so that the output
    outside is exactly 0), everything else what `torch.onnx.export` makes of it. The model is exported in eval mode
    and left as it was. The file appears only when it has passed all checks.

    Args:
        model: Any module whose inputs and outputs are tensors.
        example: Its positional inputs; sizes must be ones that the model takes, values matter to `check` only.
        path: Where to write; an existing file is replaced.
        opset: Version of the ONNX operator set, from 19, which brought DeformConv.
        dynamic: Let the batch size and, of inputs (B, C, H, W), height and width vary. Otherwise the file
            takes inputs of the example's sizes only.
        check: If onnxruntime is installed, compare its results on the CPU with PyTorch's, for the example and,
            with `dynamic`, for another size.
        tolerance: Largest relative difference that passes `check`.

    Returns:
        What was written.

    Raises:
        ConfigError: An opset below 19 or unknown to the exporter; an example that is not made of tensors; a model
            that cannot be exported, or not for any size; onnxruntime computes something else.
        OutputError: The file cannot be written.
        MissingDependencyError: onnx or onnxscript is not installed.

    Example:
        >>> import torch
        >>> import kdinpaint
        >>> block = kdinpaint.AdaptiveConv2d(4, 8, 3, padding=1)
        >>> report = kdinpaint.export(block, torch.randn(1, 4, 16, 16), "block.onnx")
        >>> report.operators["DeformConv"], report.inputs
        (1, {'x': ('batch', 4, 'height', 'width')})
    """
    if opset < MIN_OPSET:
        raise ConfigError(
            f"opset is {opset}; expected {MIN_OPSET} or higher. Adaptive convolution is ONNX's DeformConv, which came "
            f"with opset {MIN_OPSET}: an older file would be written and refused by every runtime."
        )
    inputs = [example] if isinstance(example, Tensor) else list(example)
    for value in inputs:
        if not isinstance(value, Tensor):
            raise ConfigError(f"the example holds {describe(value)}; expected tensors, one for each input.")
    require("onnxscript", extra="export")
    checker = require("onnx.checker", extra="export")
    with evaluating(model):
        proto = _translate(model, inputs, opset=opset, dynamic=dynamic)
        checker.check_model(proto, full_check=True)
        serialized: bytes = proto.SerializeToString()
        difference = compare(model, serialized, inputs, dynamic=dynamic, tolerance=tolerance) if check else None
    with atomic_path(Path(path)) as temporary:
        temporary.write_bytes(serialized)
    return ExportReport(
        path=Path(path),
        opset=opset,
        inputs={value.name: _shape(value) for value in proto.graph.input},
        outputs={value.name: _shape(value) for value in proto.graph.output},
        operators=dict(Counter(node.op_type for node in proto.graph.node)),
        difference=difference,
    )


def _translate(model: nn.Module, inputs: list[Tensor], *, opset: int, dynamic: bool) -> Any:  # noqa: ANN401
    """The model as an ONNX protocol buffer."""
    program = capture(model, inputs, dynamic=dynamic)
    try:
        written = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=opset,
            custom_translation_table=translations(),
            verbose=False,
        )
        proto = written.model_proto  # type: ignore[union-attr]
    except Exception as error:  # whatever the exporter makes of operators that ONNX lacks
        raise ConfigError(
            f"{type(model).__name__} has no translation to ONNX ({type(error).__name__}: "
            f"{str(error).strip().splitlines()[0]})."
        ) from error
    version = max(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    if version != opset:
        raise ConfigError(f"this version of PyTorch exports to opset {version}, not {opset}.")
    _tidy(proto)
    return proto


def _tidy(proto: Any) -> None:  # noqa: ANN401
    """Name axes and outputs, and drop notes of where in whose source code a node comes from."""
    names: dict[str, str] = {}
    for value in proto.graph.input:
        for axis, name in zip(value.type.tensor_type.shape.dim, ("batch", "", "height", "width"), strict=False):
            if axis.dim_param and axis.dim_param not in names:
                taken = name != "batch" and name in names.values()
                names[axis.dim_param] = f"{value.name}_{name}" if taken else name
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        del value.metadata_props[:]
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_param = re.sub(r"\w+", lambda found: names.get(found[0], found[0]), axis.dim_param)
    renamed = {
        value.name: "output" if len(proto.graph.output) == 1 else f"output_{number}"
        for number, value in enumerate(proto.graph.output)
    }
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
        for held in (node.input, node.output):
            held[:] = [renamed.get(name, name) for name in held]
    for value in (*proto.graph.output, *proto.graph.value_info):
        value.name = renamed.get(value.name, value.name)
    for tensor in proto.graph.initializer:
        del tensor.metadata_props[:]


def _shape(value: Any) -> Shape:  # noqa: ANN401
    return tuple(axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim)
