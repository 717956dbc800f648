"""From a module to a graph that holds for every batch, height and width."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from kdinpaint._core.errors import ConfigError

__all__ = ["capture", "resized", "shapes"]

_AXES = (0, 2, 3)
_SCALES = ((1, 2), (2, 1), (3, 2), (4, 1), (8, 1))


def capture(model: nn.Module, example: Sequence[Tensor], *, dynamic: bool) -> ExportedProgram:
    """The graph of a model.

    Args:
        model: In eval mode.
        example: Its inputs.
        dynamic: For every batch size and, of inputs (B, C, H, W), every height and width.

    Raises:
        ConfigError: The model cannot be captured, or computes in different ways for different sizes.
    """
    # Exporting is told to treat 1 as any other size, as torch.onnx.export does: an example may be a batch of one.
    from torch.fx.experimental import _config

    axes = tuple(
        {axis: Dim.DYNAMIC for axis in (_AXES if t.dim() == 4 else _AXES[:1]) if axis < t.dim()} for t in example
    )
    try:
        with _config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
            program = torch.export.export(model, tuple(example), dynamic_shapes=axes if dynamic else None)
    except Exception as error:  # whatever tracing makes of foreign code
        raise ConfigError(
            f"{type(model).__name__} cannot be exported{' for any size' if dynamic else ''} "
            f"({type(error).__name__}: {str(error).strip().splitlines()[0]}). "
            f"{'Try dynamic=False, or mend' if dynamic else 'Mend'} what torch.export.export({type(model).__name__}"
            f", ...) names."
        ) from error
    if dynamic:
        _check_guards(program, example)
    return program


def _check_guards(program: ExportedProgram, example: Sequence[Tensor]) -> None:
    """Raise if the graph was recorded for some sizes only; a graph in ONNX cannot refuse the others."""
    guards = getattr(program.module(), "_guards_fn", None)
    if guards is None:
        return
    for up, down in _SCALES:
        inputs = [
            t.new_empty([n * up // down if axis in _AXES[1:] else n for axis, n in enumerate(t.shape)], device="meta")
            for t in example
        ]
        if min(n for t in inputs for n in t.shape) < 1:
            continue
        try:
            guards(*inputs)
        except AssertionError as error:
            raise ConfigError(
                f"the model computes in another way for inputs of {shapes(inputs)} than for the example, "
                f"{shapes(example)} ({error}), and an ONNX graph holds one way. Export with dynamic=False at the size "
                f"you need."
            ) from error


def resized(example: Sequence[Tensor]) -> list[Tensor]:
    """Inputs of one batch element more, taller and narrower, made of the values of the example."""
    found = []
    for t in example:
        for axis, n in enumerate(t.shape):
            if axis == 0 or (axis in _AXES and t.dim() == 4):
                count = {0: n + 1, 2: n + n // 2 + 1, 3: max(n * 3 // 4, 1)}[axis]
                t = t.index_select(axis, torch.arange(count, device=t.device) % n)
        found.append(t)
    return found


def shapes(inputs: Sequence[Tensor]) -> str:
    """The shapes of some inputs, for messages."""
    return " and ".join(" x ".join(map(str, t.shape)) for t in inputs)
