"""Measure models on a frozen list of pairs."""

import time
from collections.abc import Iterator, Mapping, Sized
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from kdinpaint._core.modes import evaluating
from kdinpaint._core.processes import gathered_in_turn, process_count, process_rank
from kdinpaint.data import ManifestPairs, Pair
from kdinpaint.metrics import RatioTable, measure
from kdinpaint.models import InpaintingNet, model_cost
from kdinpaint.models.comparators import Comparator

__all__ = ["evaluate_model", "evaluate_models", "predict_pairs"]

Inpainting = InpaintingNet | Comparator


@torch.inference_mode()
def predict_pairs(
    model: Inpainting, pairs: Dataset[Pair], *, batch: int = 16, label: str | None = None
) -> Iterator[tuple[dict[str, Any], Tensor]]:
    """Run a model over all pairs.

    Args:
        model: In any mode; it runs in eval mode, where it is, and is put back.
        pairs: From `PairManifest.pairs`.
        batch: Pairs at a time.
        label: Text of a progress bar, or None for no bar.

    Yields:
        The batch (image, mask, ratio, name) on the CPU and the raw prediction (B, C, H, W) on the CPU.
    """
    parameter = next(model.parameters())
    loader = DataLoader(pairs, batch_size=batch)
    with evaluating(model):
        for item in tqdm(loader, desc=label, disable=label is None, unit="batch", leave=False):
            image = item["image"].to(parameter.device, parameter.dtype)
            yield item, model(image, item["mask"].to(image)).float().cpu()


def evaluate_model(
    model: Inpainting,
    pairs: Dataset[Pair],
    *,
    protocol: str = "default",
    batch: int = 16,
    label: str | None = None,
) -> RatioTable:
    """Metrics of every pair, by hole ratio.

    In distributed training all processes call it, each measures its share, and all return the whole table, every pair
    in it once.

    Args:
        model: The model.
        pairs: From `PairManifest.pairs`, or a part of them.
        protocol: See `kdinpaint.metrics.measure`.
        batch: Pairs at a time.
        label: Text of a progress bar, or None for no bar.
    """
    table = RatioTable()
    if process_count() > 1:
        share = range(process_rank(), len(cast(Sized, pairs)), process_count())
        pairs, label = Subset(cast(Any, pairs), share), None if process_rank() else label
    for item, prediction in predict_pairs(model, pairs, batch=batch, label=label):
        table.add(item["ratio"], measure(prediction, item["image"], item["mask"], protocol=protocol))
    table.records = gathered_in_turn(table.records)
    return table


def evaluate_models(
    models: Mapping[str, Inpainting], pairs: ManifestPairs, *, size: int, protocol: str = "default"
) -> dict[str, dict[str, Any]]:
    """Evaluate several models on the same pairs.

    Args:
        models: By name.
        pairs: From `PairManifest.pairs`.
        size: Side of the images, for the cost of one.
        protocol: See `kdinpaint.metrics.measure`.

    Returns:
        For each model its metrics per bin and overall, every pair's values, parameters, GMAC and milliseconds
        for one image of that size.
    """
    results = {}
    for name, model in models.items():
        table = evaluate_model(model, pairs, protocol=protocol, label=f"evaluate {name}")
        cost = model_cost(model, *_example(model, size))
        results[name] = {
            **table.summary(),
            "records": table.records,
            "parameters": cost.parameters,
            "gmac": cost.gmac,
            "milliseconds": _milliseconds(model, size),
        }
    return results


def _example(model: Inpainting, size: int) -> tuple[Tensor, Tensor]:
    parameter = next(model.parameters())
    image = torch.full((1, model.in_channels, size, size), 0.5, device=parameter.device, dtype=parameter.dtype)
    mask = torch.zeros_like(image[:, :1])
    mask[..., size // 4 : size * 3 // 4, size // 4 : size * 3 // 4] = 1
    return image, mask


@torch.inference_mode()
def _milliseconds(model: Inpainting, size: int, repeats: int = 5) -> float:
    """Best of a few runs; indicative only, comparisons are the benchmarks' business."""
    example = _example(model, size)
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        model(*example)
        if example[0].is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return 1000 * min(times[1:])
