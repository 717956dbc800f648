"""Evaluate a network again and again from one moment, and go back to it."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType

import torch
from torch import Tensor, nn

__all__ = ["Replay"]


class Replay:
    """A moment of training that evaluations start from and that is back, bit for bit, when the block ends.

    Held are the values of the parameters, the buffers of the modules (also those that are replaced), and torch's
    random numbers on the CPU and on the devices of the parameters. So dropout draws the same units in every evaluation,
    and statistics that an evaluation updates are not updated in the end. Gradients in `.grad` are not touched.

    Args:
        parameters: theta; free to be moved in place inside the block.
        modules: Modules whose buffers an evaluation may change.
    """

    def __init__(self, parameters: Sequence[Tensor], modules: Iterable[nn.Module] = ()) -> None:
        self.parameters = list(parameters)
        self.owners = [m for module in modules for m in module.modules() if m._buffers]

    def __enter__(self) -> "Replay":
        self.origin = [p.detach().clone() for p in self.parameters]
        self.buffers = [
            (owner, name, buffer, buffer.detach().clone())
            for owner in self.owners
            for name, buffer in owner._buffers.items()
            if buffer is not None
        ]
        self.devices = sorted({p.device.index or 0 for p in self.parameters if p.device.type == "cuda"})
        self.random = torch.get_rng_state(), [torch.cuda.get_rng_state(d) for d in self.devices]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.move(self.origin)
        self._restore()

    @torch.no_grad()
    def move(self, values: Sequence[Tensor]) -> None:
        """Put the parameters somewhere."""
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)

    @torch.no_grad()
    def shift(self, direction: Sequence[Tensor | None], factor: float) -> None:
        """Put the parameters at origin + factor * direction; None is zero."""
        for parameter, origin, v in zip(self.parameters, self.origin, direction, strict=True):
            if v is not None:
                parameter.copy_(origin).add_(v, alpha=factor)

    @contextlib.contextmanager
    def evaluation(self, *, grad: bool) -> Iterator[None]:
        """Evaluate here: the same random numbers and buffers every time, no autocast.

        A graph that is made inside must be used up inside: the buffers change under it afterwards.
        """
        kind = self.parameters[0].device.type if self.parameters else "cpu"
        try:
            with torch.set_grad_enabled(grad), torch.autocast(kind, enabled=False):
                yield
        finally:
            self._restore()

    @contextlib.contextmanager
    def fixed(self) -> Iterator[None]:
        """No graph through the parameters, whatever else asks for gradients."""
        wanted = [p.requires_grad for p in self.parameters]
        try:
            for parameter in self.parameters:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter, wish in zip(self.parameters, wanted, strict=True):
                parameter.requires_grad_(wish)

    def _restore(self) -> None:
        torch.set_rng_state(self.random[0])
        for device, state in zip(self.devices, self.random[1], strict=True):
            torch.cuda.set_rng_state(state, device)
        for owner, name, buffer, value in self.buffers:
            owner._buffers[name] = buffer
            buffer.data.copy_(value)
