"""The numbers that the paper prints in its Table 1, as printed."""

from dataclasses import dataclass

__all__ = ["PAPER_BINS", "PAPER_TABLE", "PublishedValue"]

PAPER_BINS = ((0.1, 0.2), (0.3, 0.4))
"""The two bins of the hole ratio, (low, high], that the paper reports."""

_DATASETS = ("places2", "celeba", "paris")
# By metric and method: 10-20 % and 30-40 % of Places2, then CelebA, then Paris StreetView. None: not printed.
_PRINTED: dict[str, dict[str, tuple[float | None, ...]]] = {
    "psnr": {
        "PIC": (27.14, 21.72, 30.67, 24.74, 29.35, 23.97),
        "PC": (27.29, 22.12, 32.77, 26.94, 30.76, 25.46),
        "GC": (None, None, 32.56, 26.72, 31.32, 25.54),
        "EC": (27.17, 22.18, 32.48, 26.62, 31.19, 26.04),
        "Ours": (28.75, 23.53, 33.86, 27.84, 32.71, 27.34),
    },
    "ssim": {
        "PIC": (0.932, 0.786, 0.965, 0.881, 0.930, 0.785),
        "PC": (0.934, 0.803, 0.977, 0.922, 0.947, 0.835),
        "GC": (None, None, 0.973, 0.914, 0.953, 0.849),
        "EC": (0.933, 0.802, 0.975, 0.915, 0.950, 0.849),
        "Ours": (0.939, 0.819, 0.981, 0.934, 0.819, 0.862),
    },
}
# It equals the cell of Places2, 30-40 %, stands beside 32.71 dB, and every other method has 0.93 to 0.95 there.
_SLIPS = {("ssim", "Ours", "paris", (0.1, 0.2))}


@dataclass(frozen=True)
class PublishedValue:
    """One cell of the paper's table.

    Attributes:
        dataset: "places2", "celeba" or "paris".
        metric: "psnr" in dB, or "ssim".
        method: "PIC", "PC", "GC", "EC" or "Ours", which is the paper's own.
        low: Of the hole ratio, not included.
        high: Of the hole ratio, included.
        value: As printed.
        slip: The printed value cannot be meant, and is no result.
    """

    dataset: str
    metric: str
    method: str
    low: float
    high: float
    value: float
    slip: bool


def _cells() -> tuple[PublishedValue, ...]:
    places = [(dataset, bounds) for dataset in _DATASETS for bounds in PAPER_BINS]
    return tuple(
        PublishedValue(dataset, metric, method, *bounds, value, (metric, method, dataset, bounds) in _SLIPS)
        for metric, rows in _PRINTED.items()
        for method, values in rows.items()
        for (dataset, bounds), value in zip(places, values, strict=True)
        if value is not None
    )


PAPER_TABLE = _cells()
"""Every printed value of the paper's Table 1. Its protocol is not stated there, and its masks are not known."""
