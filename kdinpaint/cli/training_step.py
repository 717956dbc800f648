"""What a training step costs: the filler blocks' share by hole ratio, and distillation beside the plain step."""

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from kdinpaint._core.errors import ConfigError
from kdinpaint.benchmark.profiling import largest_costs
from kdinpaint.benchmark.timing import Timing, interleave, speedup
from kdinpaint.data import MaskGenerator
from kdinpaint.layers import AdaptiveConv2d
from kdinpaint.models import AutoEncoder, InpaintingNet, create_model
from kdinpaint.ops import mask_pyramid
from kdinpaint.training.config import DistillConfig, LossConfig, OptimConfig, RuntimeConfig
from kdinpaint.training.engine import Stage, make_accelerator
from kdinpaint.training.student import StudentObjective

__all__ = ["TrainingStep"]

# Distillation at its full weight from the first step on, and steps that leave the weights where they are.
_DISTILL = DistillConfig(self_ramp=0.0)
_OPTIM = OptimConfig(steps=1_000_000, lr=0.0)

Progress = Callable[[str], None]


class TrainingStep:
    """Times whole steps of the training engine: forward, backward, clipping, optimiser and averaged weights.

    Args:
        model: A student of `kdinpaint.list_models()` with filler blocks.
        size: Side of the images, pixels.
        batch: Images a step.
        spread: Standard deviation of the offsets in pixels: fresh weights would not move anything.
        precision: "no" or "bf16".
        device: Where to compute.
        channels_last: Networks and batches in channels-last memory format.

    Raises:
        ConfigError: There is no such student, or it has no filler blocks.
    """

    def __init__(
        self,
        model: str,
        *,
        size: int,
        batch: int,
        spread: float,
        precision: str,
        device: str,
        channels_last: bool = False,
    ) -> None:
        if not model.startswith("kdinpaint_") or model.endswith("_plain"):
            raise ConfigError(f"model is {model!r}; expected a student with filler blocks, for example kdinpaint_base.")
        self.model, self.size, self.batch, self.spread = model, size, batch, spread
        self._folder = Path(tempfile.gettempdir())  # named to the engine, which only writes there in a real run
        self._runtime = RuntimeConfig(device="cpu" if device == "cpu" else "auto", channels_last=channels_last)
        self._accelerator = make_accelerator(self._runtime, precision, self._folder)
        self.device = self._accelerator.device

    def filler_share(self, ratios: Sequence[float], *, rounds: int, progress: Progress) -> list[dict[str, Any]]:
        """The filler blocks alone beside a plain step with them and one without them, by hole ratio; JSON-ready.

        All ratios take turns, so that what is read along them is the holes and not the hour.
        """
        stages = {"with": self._stage(distilled=False), "without": self._stage(distilled=False, filler="none")}
        net = cast(InpaintingNet, stages["with"].objective.net)
        batches = {f"{ratio:.0%}": self._batch(ratio) for ratio in ratios}
        calls: dict[str, Callable[[], Any]] = {}
        for hole, batch in batches.items():
            self._warm(stages.values(), batch)
            calls |= {f"{name}, hole {hole}": _step(stage, batch) for name, stage in stages.items()}
            calls[f"blocks, hole {hole}"] = _fillers(net, batch)
        timings = interleave(calls, rounds=rounds, device=self.device, progress=progress)
        rows = []
        for hole, batch in batches.items():
            found = {name: timings[f"{name}, hole {hole}"] for name in (*stages, "blocks")}
            rows.append(
                {
                    "hole_ratio": float(batch["mask"].mean()),
                    "level_ratios": _level_ratios(stages["with"], batch),
                    **{name: timing.summary() for name, timing in found.items()},
                    "filler_share": list(speedup(found["with"], found["blocks"])),
                }
            )
        return rows

    def distillation(self, ratio: float, *, rounds: int, progress: Progress) -> dict[str, Any]:
        """A distilled step beside the plain step of the same student; JSON-ready."""
        batch = self._batch(ratio)
        plain, distilled = self._stage(distilled=False), self._stage(distilled=True)
        self._warm((plain, distilled), batch)
        objective = cast(StudentObjective, distilled.objective)
        assert objective.teacher is not None
        teacher = objective.teacher
        every = _DISTILL.meta_every
        calls = {
            "plain": _step(plain, batch),
            "distilled": _step(distilled, batch, number=1),
            "distilled_with_meta": _step(distilled, batch, number=0),
            "teacher_forward": lambda: teacher(batch["image"]),
        }
        timings = interleave(calls, rounds=rounds, device=self.device, progress=progress)
        pairs = zip(timings["distilled"].samples, timings["distilled_with_meta"].samples, strict=True)
        amortised = Timing(tuple(((every - 1) * without + due) / every for without, due in pairs))
        return {
            "hole_ratio": float(batch["mask"].mean()),
            "meta_every": every,
            **{name: timing.summary() for name, timing in timings.items()},
            "amortised": amortised.summary(),
            "cost": list(speedup(timings["plain"], amortised)),
        }

    def largest_costs(self, ratio: float, *, steps: int = 3, count: int = 3) -> dict[str, list[dict[str, Any]]]:
        """The operators that take most time themselves, with their share of it.

        Of a plain and of a distilled step, of the filler blocks alone, forward and backward, and of inference.
        """
        batch = self._batch(ratio)
        plain, distilled = self._stage(distilled=False), self._stage(distilled=True)
        self._warm((plain, distilled), batch)
        net = cast(InpaintingNet, plain.objective.net)
        calls: dict[str, Callable[[], Any]] = {
            "plain": _step(plain, batch),
            "distilled": _step(distilled, batch),
            "filler blocks": _fillers(net, batch),
            "inference": torch.inference_mode()(partial(net, batch["image"], batch["mask"])),
        }
        return {name: largest_costs(call, self.device, steps=steps, count=count) for name, call in calls.items()}

    def _stage(self, *, distilled: bool, **options: Any) -> Stage:  # noqa: ANN401 - options of the model
        torch.manual_seed(0)
        net = cast(InpaintingNet, create_model(self.model, **options))
        teacher = None
        if distilled:
            teacher = cast(AutoEncoder, create_model(self.model.replace("kdinpaint_", "autoencoder_")))
        config = _DISTILL if distilled else replace(_DISTILL, cross=0.0, self_distill=0.0)
        self._scatter(net.to(self.device))
        objective = StudentObjective(net, teacher, loss=LossConfig(), distill=config)
        stage = Stage("benchmark", objective, _OPTIM, self._runtime, self._folder, self._accelerator)
        stage.model.train()
        return stage

    def _scatter(self, net: InpaintingNet) -> None:
        """Give the generators of kernels and offsets random weights of a scale that yields the wanted spread."""
        for module in net.modules():
            if isinstance(module, AdaptiveConv2d):
                for conv, deviation in ((module.offset_conv, self.spread), (module.kernel_conv, 1.0)):
                    if conv is not None:
                        _scale_first_output(conv, deviation)
        batch = self._batch(0.25)
        with torch.no_grad():
            net(batch["image"], batch["mask"])

    def _batch(self, ratio: float) -> dict[str, Tensor]:
        rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
        masks = MaskGenerator("mixed")
        mask = torch.stack([masks.draw((self.size, self.size), rng, ratio) for _ in range(self.batch)])
        image = torch.rand(self.batch, 3, self.size, self.size, generator=generator)
        return {"image": image.to(self.device), "mask": mask.to(self.device)}

    def _warm(self, stages: Iterable[Stage], batch: dict[str, Tensor]) -> None:
        for stage in stages:
            _step(stage, batch)()


def _level_ratios(stage: Stage, batch: dict[str, Tensor]) -> list[float]:
    """The share of hole cells at each level: pooling widens thin strokes, so it grows with depth."""
    net = cast(InpaintingNet, stage.objective.net)
    _, hole = net.prepare(batch["image"], batch["mask"])
    height, width = hole.shape[-2:]
    sizes = [(height >> level, width >> level) for level in range(1, len(net.channels) + 1)]
    return [float(level.mean()) for level in mask_pyramid(hole, sizes)]


def _step(stage: Stage, batch: dict[str, Tensor], *, number: int = 1) -> Callable[[], Any]:
    """The engine's own step, as number `number` of the run: those divisible by `meta_every` update the predictors."""

    def call() -> Any:  # noqa: ANN401 - a log
        stage.step = number
        return stage._one_step(batch)

    return call


def _fillers(net: InpaintingNet, batch: dict[str, Tensor]) -> Callable[[], None]:
    """All filler blocks, forward and backward, on what they get from a batch."""
    seen: list[tuple[nn.Module, tuple[Tensor, ...]]] = []
    handles = [
        filler.register_forward_hook(lambda module, arguments, _: seen.append((module, arguments)))
        for filler in net.encoder.fillers
    ]
    with torch.no_grad():
        net(batch["image"], batch["mask"])
    for handle in handles:
        handle.remove()

    def call() -> None:
        for filler, (x, *rest) in seen:
            filler(x.detach().requires_grad_(), *rest).sum().backward()

    return call


def _scale_first_output(conv: nn.Conv2d, deviation: float) -> None:
    """Draw random weights; the next forward pass, which must record no gradients, scales them."""

    def hook(module: nn.Module, arguments: Any, output: Tensor) -> Tensor:  # noqa: ANN401
        handle.remove()
        factor = float(deviation / output.float().std().clamp_min(1e-12))
        conv.weight.mul_(factor)
        return output * factor

    nn.init.normal_(conv.weight)
    handle = conv.register_forward_hook(hook)
