"""What an encoder knows inside a hole, what it gives away about it, and what adaptive convolutions do there."""

from collections.abc import Iterator

import torch
from torch import Tensor

from kdinpaint._core.checks import check_feature, check_mask, describe
from kdinpaint._core.errors import ConfigError, ShapeError
from kdinpaint.ops.masks import resize_mask

__all__ = ["adaptive_statistics", "area_under_curve", "hole_gap", "mask_probe_auc", "readout_gap"]


def hole_gap(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    r"""How far a student's feature is from the teacher's inside the hole, relative to how much that varies there.

    $\mathrm{mean}_{hole}\,(x - x^*)^2 \,/\, \mathrm{mean}_c \mathrm{var}_{hole}\, x^*_c$: 0 at equality, 1 for a
    student that knows no more than each channel's mean. All images of the batch are pooled.

    Args:
        student: (B, C, h, w).
        teacher: (B, C, h, w).
        mask: (B, 1, H, W), 1 = hole, from the feature's resolution upwards.

    Returns:
        A scalar >= 0; NaN where the hole has fewer than two cells or the teacher's feature does not vary there.

    Raises:
        ShapeError: Shapes do not fit each other.

    Example:
        >>> import torch
        >>> from kdinpaint.metrics import hole_gap
        >>> teacher, mask = torch.randn(4, 3, 8, 8), torch.ones(4, 1, 16, 16)
        >>> average = teacher.mean((0, 2, 3), keepdim=True).expand_as(teacher)
        >>> round(float(hole_gap(average, teacher, mask)), 3)
        1.0
    """
    check_feature(student, "student")
    if student.shape != teacher.shape:
        raise ShapeError(f"student is {describe(student)} and teacher {describe(teacher)}; expected equal shapes.")
    hole = _hole_cells(student, mask)
    known = teacher.transpose(0, 1)[:, hole].double()
    difference = (student.transpose(0, 1)[:, hole].double() - known).square().mean()
    variance = known.var(1, correction=0).mean() if known.shape[1] > 1 else known.new_tensor(0.0)
    return torch.where(variance > 0, difference / variance, torch.nan)


def mask_probe_auc(feature: Tensor, mask: Tensor, *, folds: int = 2, ridge: float = 1e-3) -> Tensor:
    """Whether a linear probe sees the hole in a feature: 0.5 if it is invisible, 1 if it is written all over it.

    A ridge regression from the channels of a cell to whether it is a hole is fitted on some images and judged on the
    others by the area under the ROC curve, in turn; the mean over the folds is returned. Images are split, not cells,
    so that neighbours do not help.

    Args:
        feature: (B, C, h, w), at least `folds` images.
        mask: (B, 1, H, W), 1 = hole, from the feature's resolution upwards.
        folds: Parts of the batch, at least 2; part k holds the images k, k + folds, ...
        ridge: Weight of the penalty, as a share of the number of cells; channels are standardised.

    Returns:
        A scalar in [0, 1]; below 0.5 only by chance. NaN where a part has only hole or only known cells.

    Raises:
        ShapeError: Shapes do not fit each other.
        ConfigError: Fewer than 2 folds, more than images, or a ridge that is not positive.

    Example:
        >>> import torch
        >>> from kdinpaint.metrics import mask_probe_auc
        >>> mask = (torch.rand(8, 1, 16, 16) > 0.5).float()
        >>> float(mask_probe_auc(torch.cat([torch.randn(8, 3, 16, 16), mask], 1), mask))
        1.0
    """
    check_feature(feature, "feature")
    label = _hole_cells(feature, mask)
    image = torch.arange(feature.shape[0], device=feature.device)[:, None, None].expand_as(label).flatten()
    cells, goal = feature.transpose(0, 1).flatten(1).T.double(), label.flatten().double()[:, None]
    held_out = _held_out(cells, goal, image, feature.shape[0], folds, ridge)
    return torch.stack([area_under_curve(found[:, 0], goal[test, 0] != 0) for found, test in held_out]).mean()


def readout_gap(student: Tensor, teacher: Tensor, mask: Tensor, *, folds: int = 2, ridge: float = 1e-3) -> Tensor:
    r"""How much of the teacher's feature inside the hole a linear readout of the student's misses.

    A ridge regression from the student's channels of a hole cell to the teacher's is fitted on some images and judged
    on the others, in turn. The error is relative to how much the teacher's feature varies there, as in `hole_gap`: 0 if
    the student knows all that the teacher does, in whatever code, 1 if it knows no more than each channel's mean.
    `hole_gap` asks for the teacher's own code; where it falls and this does not, the student has changed its code and
    learned nothing.

    Args:
        student: (B, C, h, w), at least `folds` images; images times hole cells should be many times C.
        teacher: (B, C', h, w).
        mask: (B, 1, H, W), 1 = hole, from the features' resolution upwards.
        folds: Parts of the batch, at least 2; part k holds the images k, k + folds, ...
        ridge: Weight of the penalty, as a share of the number of cells; channels are standardised.

    Returns:
        A scalar >= 0, float64; above 1 where the readout fits its own images alone. NaN where a part has no hole or the
        teacher's feature does not vary there.

    Raises:
        ShapeError: Shapes do not fit each other.
        ConfigError: Fewer than 2 folds, more than images, or a ridge that is not positive.

    Example:
        >>> import torch
        >>> from kdinpaint.metrics import hole_gap, readout_gap
        >>> teacher, mask = torch.randn(4, 3, 8, 8), torch.ones(4, 1, 16, 16)
        >>> student = 5 - 2 * teacher.flip(1)  # the same knowledge in another code
        >>> bool(hole_gap(student, teacher, mask) > 5), bool(readout_gap(student, teacher, mask) < 1e-4)
        (True, True)
    """
    check_feature(student, "student")
    check_feature(teacher, "teacher")
    if student.shape[0] != teacher.shape[0] or student.shape[2:] != teacher.shape[2:]:
        raise ShapeError(
            f"student is {describe(student)} and teacher {describe(teacher)}; only their channels may differ."
        )
    hole = _hole_cells(student, mask)
    image = torch.arange(student.shape[0], device=student.device)[:, None, None].expand_as(hole)[hole]
    cells, goal = (x.transpose(0, 1)[:, hole].T.double() for x in (student, teacher))
    held_out = _held_out(cells, goal, image, student.shape[0], folds, ridge)
    error = torch.cat([(found - goal[test]).square() for found, test in held_out]).mean()
    variance = goal.var(0, correction=0).mean() if len(goal) > 1 else goal.new_tensor(0.0)
    return torch.where(variance > 0, error / variance, torch.nan)


def area_under_curve(scores: Tensor, labels: Tensor) -> Tensor:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting half.

    Args:
        scores: (N,).
        labels: (N,), bool.

    Returns:
        A scalar in [0, 1], float64; NaN without a positive or without a negative.

    Raises:
        ShapeError: Not two tensors of one shape (N,).

    Example:
        >>> import torch
        >>> from kdinpaint.metrics import area_under_curve
        >>> float(area_under_curve(torch.tensor([0.1, 0.4, 0.4, 0.9]), torch.tensor([False, True, False, True])))
        0.875
    """
    if scores.dim() != 1 or scores.shape != labels.shape:
        raise ShapeError(f"scores are {describe(scores)} and labels {describe(labels)}; expected two of shape (N,).")
    _, place, count = torch.unique(scores, return_inverse=True, return_counts=True)
    above = count.cumsum(0).double()
    rank = (above - (count - 1) / 2)[place]  # the mean rank of equal scores, from 1
    positives = labels.bool().sum().double()
    negatives = len(labels) - positives
    area = rank[labels.bool()].sum() - positives * (positives + 1) / 2
    return torch.where(positives * negatives > 0, area / (positives * negatives), torch.nan)


def adaptive_statistics(offset: Tensor, kernel: Tensor, mask: Tensor) -> dict[str, float]:
    """How far an adaptive convolution reaches inside the hole, and how unevenly it weights its taps.

    Args:
        offset: (B, 2K^2, h, w) as (dy, dx) per tap, in cells; as `AdaptiveConv2d.generate` gives it.
        kernel: V, (B, K^2, h, w).
        mask: (B, 1, H, W), 1 = hole, from the maps' resolution upwards.

    Returns:
        Means over hole cells: "offset", the mean length of a tap's offset in cells; "offset_spread", the deviation of
        offsets over taps, 0 where all taps move together; "kernel_spread", the deviation of V over taps. NaN for
        empty holes.

    Raises:
        ShapeError: Shapes do not fit each other.

    Example:
        >>> import torch
        >>> from kdinpaint.metrics import adaptive_statistics
        >>> offset = torch.tensor([3.0, 4.0] * 9).reshape(1, 18, 1, 1).expand(1, 18, 8, 8)
        >>> found = adaptive_statistics(offset, torch.ones(1, 9, 8, 8), torch.ones(1, 1, 8, 8))
        >>> found["offset"], found["offset_spread"], found["kernel_spread"]
        (5.0, 0.0, 0.0)
    """
    check_feature(offset, "offset")
    check_feature(kernel, "kernel")
    if offset.shape[1] != 2 * kernel.shape[1] or offset.shape[2:] != kernel.shape[2:]:
        raise ShapeError(
            f"offset is {describe(offset)} and kernel {describe(kernel)}; expected (B, 2K^2, h, w) and (B, K^2, h, w)."
        )
    hole = _hole_cells(kernel, mask)
    pairs = offset.reshape(offset.shape[0], -1, 2, *offset.shape[2:])
    moves = pairs.movedim((1, 2), (0, 1))[:, :, hole].double()  # taps, (dy, dx), cells
    weights = kernel.transpose(0, 1)[:, hole].double()
    spread = moves.var(0, correction=0).sum(0).sqrt()
    return {
        "offset": float(moves.square().sum(1).sqrt().mean()),
        "offset_spread": float(spread.mean()),
        "kernel_spread": float(weights.std(0, correction=0).mean()),
    }


def _hole_cells(feature: Tensor, mask: Tensor) -> Tensor:
    """(B, h, w), bool."""
    check_mask(mask, feature, same_size=False)
    return resize_mask(mask, (feature.shape[-2], feature.shape[-1]))[:, 0] != 0


def _held_out(
    cells: Tensor, goal: Tensor, image: Tensor, images: int, folds: int, ridge: float
) -> Iterator[tuple[Tensor, Tensor]]:
    """Predict each fold of the images by a ridge regression from (N, C) cells to a (N, D) goal, fitted on the others.

    Yields:
        Of each fold, the predictions, and which of the N cells they are of.
    """
    if not 2 <= folds <= images or ridge <= 0:
        raise ConfigError(
            f"folds is {folds}, for {images} images, and ridge {ridge}; expected at least 2 folds, no more than "
            f"images, and a positive ridge."
        )
    part = image % folds
    for fold in range(folds):
        train, test = part != fold, part == fold
        if not train.any():
            yield torch.full_like(goal[test], torch.nan), test
            continue
        centre, spread = cells[train].mean(0), cells[train].std(0, correction=0)
        x = torch.where(spread > 0, (cells - centre) / torch.where(spread > 0, spread, 1), 0)
        mean = goal[train].mean(0)
        penalty = ridge * train.sum() * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        weights = torch.linalg.solve(x[train].T @ x[train] + penalty, x[train].T @ (goal[train] - mean))
        yield mean + x[test] @ weights, test
