"""Measuring a student on pairs that are held on the device: quality, and what its features know."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdinpaint._core.modes import evaluating
from kdinpaint.data import PairManifest
from kdinpaint.distill import CrossDistillLoss, SelfDistillLoss, effective_channels, importance_correlation
from kdinpaint.layers import AdaptiveConv2d
from kdinpaint.metrics import (
    RatioTable,
    adaptive_statistics,
    hole_gap,
    hole_psnr,
    mask_probe_auc,
    measure,
    psnr,
    readout_gap,
    round_to_uint8,
)
from kdinpaint.models import InpaintingNet
from kdinpaint.ops import RATIO_BINS, composite
from kdinpaint.ops.masks import erode
from kdinpaint.training.student import StudentObjective

__all__ = ["EvaluationPairs", "hole_depth", "mechanism", "quick_score", "score"]

_BATCH = 32


@dataclass(frozen=True)
class EvaluationPairs:
    """The pairs of a manifest as tensors.

    Attributes:
        image: (N, C, s, s), in [0, 1].
        mask: (N, 1, s, s), 1 = hole.
        ratio: Hole ratio of each.
    """

    image: Tensor
    mask: Tensor
    ratio: tuple[float, ...]

    @classmethod
    def load(cls, manifest: PairManifest, root: Path, *, channels: int, device: torch.device) -> "EvaluationPairs":
        """Read and verify all pairs of a manifest."""
        pairs = manifest.pairs(root, channels=channels)
        found = [pairs[index] for index in range(len(pairs))]
        return cls(
            torch.stack([pair["image"] for pair in found]).to(device),
            torch.stack([pair["mask"] for pair in found]).to(device),
            tuple(pair["ratio"] for pair in found),
        )

    def __len__(self) -> int:
        return len(self.ratio)

    def spread(self, count: int) -> "EvaluationPairs":
        """`count` of the pairs at even distances, which spreads them over the hole ratios; all if there are fewer."""
        count = min(count, len(self))
        return self.take([int((k + 0.5) * len(self) / count) for k in range(count)])

    def take(self, chosen: list[int]) -> "EvaluationPairs":
        """Some of the pairs."""
        index = torch.tensor(chosen, dtype=torch.long, device=self.image.device)
        return EvaluationPairs(self.image[index], self.mask[index], tuple(self.ratio[i] for i in chosen))

    def batches(self) -> Iterator[tuple[Tensor, Tensor, tuple[float, ...]]]:
        """Image, mask and ratios, some pairs at a time."""
        for start in range(0, len(self), _BATCH):
            part = slice(start, start + _BATCH)
            yield self.image[part], self.mask[part], self.ratio[part]


@torch.inference_mode()
def quick_score(model: nn.Module, pairs: EvaluationPairs) -> dict[str, float]:
    """Mean PSNR and hole PSNR as `score` has them, without SSIM, which takes longer than all the rest."""
    found: dict[str, list[Tensor]] = {"psnr": [], "hole_psnr": []}
    with evaluating(model):
        for image, mask, _ in pairs.batches():
            filled = composite(model(image, mask).float(), image, mask)
            filled, truth = (round_to_uint8(x).float() / 255 for x in (filled, image))
            found["psnr"].append(psnr(filled, truth))
            found["hole_psnr"].append(hole_psnr(filled, truth, mask))
    return {name: float(torch.cat(values).mean()) for name, values in found.items()}


@torch.inference_mode()
def score(model: InpaintingNet, pairs: EvaluationPairs) -> RatioTable:
    """PSNR, SSIM, hole PSNR and hole L1 of every pair, under the default protocol.

    Args:
        model: On the device of the pairs; it runs in eval mode and is put back.
        pairs: What to measure on.
    """
    table = RatioTable()
    with evaluating(model):
        for image, mask, ratio in pairs.batches():
            table.add(ratio, measure(model(image, mask).float(), image, mask))
    return table


@torch.inference_mode()
def mechanism(
    model: InpaintingNet, teacher: nn.Module | None, objective: StudentObjective | None, pairs: EvaluationPairs
) -> dict[str, Any]:
    """What the features of a student know and show, over all pairs and by hole ratio; JSON-ready.

    Args:
        model: The student, in eval mode.
        teacher: Has `encode`; without it there are no gaps.
        objective: Holds the importance predictors, if any.
        pairs: What to measure on.

    Returns:
        "hole_gap", "readout_gap" and "mask_probe_auc", a list with one entry a level, shallow to deep; "adaptive", one
        entry a module, by its name; "importance", one entry a pair of levels. Entries hold one value for "all" pairs
        and one for each hole-ratio bin in "bins", None where there is none. Those of "hole_gap" have "depth", too: one
        value for each of three bins of how deep the hole is, see `hole_depth`; "depth" itself holds the "edges" between
        these bins, pixels, and the number of "pairs" in each. There is no hole gap to a teacher of other widths.
        Readouts need many pairs and have no bins, but "deeper", what is read of the same level of the teacher from the
        next deeper level of the student.
    """
    features, stats = _observe(model, pairs)
    depth, edges = hole_depth(pairs.mask).tolist(), [pairs.mask.shape[-1] // 16, pairs.mask.shape[-1] // 8]
    pairs = replace(pairs, mask=model.prepare(pairs.image, pairs.mask)[1])  # which covers what the features cover
    found: dict[str, Any] = {
        "mask_probe_auc": [_by_ratio(pairs, _probe, feature) for feature in features],
        "adaptive": {
            name: {
                key: _by_ratio(pairs, partial(_adaptive, key=key), offset, kernel)
                for key in ("offset", "offset_spread", "kernel_spread")
            }
            for name, (offset, kernel) in stats.items()
        },
    }
    if teacher is None:
        return found
    encode = cast("Callable[[Tensor], list[Tensor]]", teacher.encode)
    targets = [torch.cat(level) for level in zip(*(encode(image) for image, _, _ in pairs.batches()), strict=True)]
    groups = [[i for i, d in enumerate(depth) if low < d <= high] for low, high in pairwise([0, *edges, math.inf])]
    found["depth"] = {"edges": edges, "pairs": [len(group) for group in groups]}
    if all(f.shape == t.shape for f, t in zip(features, targets, strict=True)):
        found["hole_gap"] = [
            {**_by_ratio(pairs, _gap, f, t), "depth": _binned(groups, pairs.mask, _gap, f, t)}
            for f, t in zip(features, targets, strict=True)
        ]
    if len(pairs) > 1:
        found["readout_gap"] = _readouts(features, targets, pairs.mask)
    if objective is not None:
        found["importance"] = _importance(objective, features, targets, pairs)
    return found


def hole_depth(mask: Tensor) -> Tensor:
    """How deep a hole is: the largest number of steps from one of its pixels to the nearest known one.

    Args:
        mask: (B, 1, H, W), 1 = hole.

    Returns:
        (B,), pixels, 0 without a hole; diagonal steps count as one, and the border of the image is not known.
    """
    inside = (mask != 0).float()
    depth = inside.new_zeros(len(mask))
    for _ in range(max(mask.shape[-2:])):  # as deep as a hole without a known pixel is said to be
        if not inside.any():
            break
        depth += inside.amax((1, 2, 3))
        inside = erode(inside)
    return depth


def _observe(model: InpaintingNet, pairs: EvaluationPairs) -> tuple[list[Tensor], dict[str, tuple[Tensor, Tensor]]]:
    """Features of every level, and offsets and kernels of every adaptive convolution, of all pairs."""
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def watch(name: str) -> Any:  # noqa: ANN401 - a hook
        def hook(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
            assert isinstance(module, AdaptiveConv2d)
            seen.setdefault(name, []).append(module.generate(arguments[0], *arguments[2:3]))

        return hook

    adaptive = [(name, m) for name, m in model.encoder.named_modules() if isinstance(m, AdaptiveConv2d)]
    handles = [module.register_forward_hook(watch(name)) for name, module in adaptive]
    try:
        levels = [model.encode(image, mask) for image, mask, _ in pairs.batches()]
    finally:
        for handle in handles:
            handle.remove()
    features = [torch.cat(level) for level in zip(*levels, strict=True)]
    stats = {name: (torch.cat([o for o, _ in parts]), torch.cat([v for _, v in parts])) for name, parts in seen.items()}
    return features, stats


def _probe(feature: Tensor, mask: Tensor) -> float:
    return float(mask_probe_auc(feature, mask)) if len(feature) > 1 else math.nan


def _gap(student: Tensor, teacher: Tensor, mask: Tensor) -> float:
    return float(hole_gap(student, teacher, mask))


def _readouts(features: list[Tensor], targets: list[Tensor], mask: Tensor) -> list[dict[str, float | None]]:
    found = []
    for level, target in enumerate(targets):
        sources = {"all": features[level]}
        if level + 1 < len(features):
            sources["deeper"] = F.interpolate(features[level + 1], target.shape[2:])
        found.append({name: _finite(float(readout_gap(source, target, mask))) for name, source in sources.items()})
    return found


def _adaptive(offset: Tensor, kernel: Tensor, mask: Tensor, *, key: str) -> float:
    return adaptive_statistics(offset, kernel, mask)[key]


def _by_ratio(pairs: EvaluationPairs, value: Callable[..., float], *maps: Tensor) -> dict[str, Any]:
    """A value of maps and masks over all pairs and over those of each bin of the hole ratio."""
    groups = [[i for i, r in enumerate(pairs.ratio) if low < r <= high] for low, high in pairwise(RATIO_BINS)]
    return {"all": _finite(value(*maps, pairs.mask)), "bins": _binned(groups, pairs.mask, value, *maps)}


def _binned(groups: list[list[int]], mask: Tensor, value: Callable[..., float], *maps: Tensor) -> list[float | None]:
    """The same over the pairs of each group; None for an empty one."""
    return [_finite(value(*(m[group] for m in maps), mask[group])) if group else None for group in groups]


def _finite(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def _importance(
    objective: StudentObjective, features: list[Tensor], targets: list[Tensor], pairs: EvaluationPairs
) -> dict[str, Any]:
    """Channels that count, and whether weight goes where the distance is small."""
    found: dict[str, Any] = {}
    mask = pairs.mask
    terms: list[tuple[str, CrossDistillLoss | SelfDistillLoss | None]] = [
        ("cross", objective.cross),
        ("self", objective.self_distill),
    ]
    for name, term in terms:
        if term is None:
            continue
        if isinstance(term, CrossDistillLoss):
            goals, distances = targets, term.distances(objective.read(features), targets, mask)
        else:
            goals, distances = features[1:], term.distances(features, mask)
        found[name] = [
            {
                "channels": rho.shape[1],
                "effective_channels": _by_ratio(pairs, lambda rho, _: float(effective_channels(rho)), rho),
                "correlation": _by_ratio(pairs, lambda rho, d, _: float(importance_correlation(rho, d)), rho, d),
                "distance": float(d.mean()),
            }
            for rho, d in zip(term.importance(goals, mask), distances, strict=True)
        ]
    return found
