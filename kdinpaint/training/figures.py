"""Pictures of a run: a contact sheet of results, and what an encoder knows inside the hole."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from kdinpaint._core.files import atomic_path
from kdinpaint._core.optional import require
from kdinpaint.data import ManifestPairs
from kdinpaint.metrics import hole_gap
from kdinpaint.models import InpaintingNet
from kdinpaint.models.comparators import Comparator
from kdinpaint.ops import composite, resize_mask

__all__ = ["spread_over_ratios", "write_contact_sheet", "write_feature_figure"]

_GAP, _HEADER = 4, 22


def spread_over_ratios(pairs: ManifestPairs, count: int, *, smallest: float = 0.1) -> list[int]:
    """Numbers of `count` pairs, evenly spread over the hole ratios above `smallest`."""
    ratios = [entry.ratio for entry in pairs.manifest.entries]
    order = sorted(range(len(ratios)), key=ratios.__getitem__)
    order = [i for i in order if ratios[i] > smallest] or order
    count = min(count, len(order))
    return [order[int((k + 0.5) * len(order) / count)] for k in range(count)]


@torch.inference_mode()
def write_contact_sheet(
    path: Path, models: Mapping[str, InpaintingNet | Comparator], pairs: ManifestPairs, *, rows: int = 8
) -> None:
    """A PNG with one row a pair: input, the result of each model, truth.

    Args:
        path: Of the PNG.
        models: By the name that heads the column.
        pairs: From `PairManifest.pairs`; rows are spread over its hole ratios.
        rows: Number of pairs.
    """
    columns: dict[str, list[Tensor]] = {name: [] for name in ("input", *models, "truth")}
    for number in spread_over_ratios(pairs, rows):
        pair = pairs[number]
        image, mask = pair["image"][None], pair["mask"][None]
        columns["input"].append(torch.where(mask != 0, 1.0, image)[0])
        columns["truth"].append(image[0])
        for name, model in models.items():
            device = next(model.parameters()).device
            prediction = model.eval()(image.to(device), mask.to(device)).cpu()
            columns[name].append(composite(prediction, image, mask)[0])
    _write_grid(path, columns)


def _write_grid(path: Path, columns: Mapping[str, Sequence[Tensor]]) -> None:
    side = next(iter(columns.values()))[0].shape[-1]
    scale = max(1, round(128 / side))
    cell = side * scale
    count = len(next(iter(columns.values())))
    sheet = Image.new("RGB", (len(columns) * (cell + _GAP) + _GAP, count * (cell + _GAP) + _HEADER + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    for x, (name, images) in enumerate(columns.items()):
        left = _GAP + x * (cell + _GAP)
        draw.text((left + cell / 2, _HEADER / 2), name, fill="black", font=font, anchor="mm")
        for y, image in enumerate(images):
            pixels = (image.expand(3, -1, -1).clamp(0, 1) * 255).round().to(torch.uint8)
            tile = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
            sheet.paste(tile.resize((cell, cell), Image.Resampling.NEAREST), (left, _HEADER + y * (cell + _GAP)))
    with atomic_path(path) as temporary:
        sheet.save(temporary)


@torch.inference_mode()
def write_feature_figure(
    path: Path,
    encode: Callable[[Tensor], list[Tensor]],
    students: Mapping[str, InpaintingNet],
    pairs: ManifestPairs,
    *,
    rows: int = 4,
    level: int = 0,
) -> dict[str, list[float]]:
    """The paper's argument in one picture: an encoder channel of the teacher and of each student.

    In each row the channel shown is the one whose teacher feature varies most inside the hole, so the choice
    does not depend on any student. The colours of a row are those of the teacher's values.

    Args:
        path: Of the PNG.
        encode: The teacher's features (B, C_l, H_l, W_l) of an intact image, those that students imitate.
        students: By the name that heads the column.
        pairs: From `PairManifest.pairs`.
        rows: Number of pairs, spread over the hole ratios above 20 %.
        level: Which encoder level, from 0.

    Returns:
        For each student the relative hole gap of every level over all pairs, shallow to deep.
    """
    figure_class = require("matplotlib.figure", extra="train").Figure
    device = next(next(iter(students.values())).parameters()).device

    def features(number: int) -> tuple[Tensor, Tensor, list[Tensor], dict[str, list[Tensor]]]:
        pair = pairs[number]
        image, mask = pair["image"][None].to(device), pair["mask"][None].to(device)
        return image, mask, encode(image), {n: s.encode(image, mask) for n, s in students.items()}

    gaps: dict[str, list[list[float]]] = {name: [] for name in students}
    for number in range(len(pairs)):
        _, mask, target, found = features(number)
        for name, values in found.items():
            gaps[name].append([float(hole_gap(a, b, mask)) for a, b in zip(values, target, strict=True)])
    mean_gaps = {name: torch.tensor(rows).nanmean(0).tolist() for name, rows in gaps.items()}

    chosen = spread_over_ratios(pairs, rows, smallest=0.2)
    titles = ["input", "teacher", *(f"{n}\nhole gap {g[level]:.2f}" for n, g in mean_gaps.items())]
    figure = figure_class(figsize=(2.1 * len(titles), 2.1 * len(chosen) + 0.5), layout="tight")
    axes = figure.subplots(len(chosen), len(titles), squeeze=False)
    for row, number in zip(axes, chosen, strict=True):
        image, mask, target, found = features(number)
        cells = resize_mask(mask, (target[level].shape[-2], target[level].shape[-1])).bool()
        channel = int(target[level][0][:, cells[0, 0]].var(1).argmax())
        shown = [target[level], *(values[level] for values in found.values())]
        low, high = (float(v) for v in target[level][0, channel].aminmax())
        seen = torch.where(mask != 0, 1.0, image)[0].expand(3, -1, -1)
        row[0].imshow(seen.permute(1, 2, 0).cpu().numpy())
        for axis, value in zip(row[1:], shown, strict=True):
            axis.imshow(value[0, channel].cpu().numpy(), cmap="viridis", vmin=low, vmax=high)
        row[0].set_ylabel(f"channel {channel}")
        for axis in row:
            axis.set_xticks([])
            axis.set_yticks([])
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
    return mean_gaps
