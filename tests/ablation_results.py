"""A result file with known numbers."""

from typing import Any

import numpy as np

BINS = [(0.01, 0.1), (0.1, 0.2), (0.2, 0.3), (0.3, 0.4), (0.4, 0.5), (0.5, 0.6)]


def result(
    cells: dict[str, dict[str, int]], seeds: int = 3, pairs: int = 12, photos: int = 4, reference: str | None = None
) -> dict[str, Any]:
    """Cells with random scores, each 0.5 dB above the one before on average; the values of `cells` are factors."""
    rng = np.random.default_rng(0)
    ratio = [0.05 + 0.55 * k / pairs for k in range(pairs)]
    base = rng.normal(25, 3, pairs)

    def run(number: int) -> dict[str, Any]:
        psnr = base + 0.5 * number + rng.normal(0, 0.2) + rng.normal(0, 0.1, pairs)
        records = {"psnr": psnr.tolist(), "hole_psnr": (psnr - 8).tolist(), "ssim": (psnr / 40).tolist()}
        counts = [sum(low < r <= high for r in ratio) for low, high in BINS]
        return {
            "bins": [{"low": low, "high": high, "count": n} for (low, high), n in zip(BINS, counts, strict=True)],
            "records": records,
            "curve": [
                {"step": step, "psnr": 20 + step / 10 + number, "hole_psnr": 12.0, "ssim": 0.5} for step in (10, 20)
            ],
            "mechanism": {
                "hole_gap": [{"all": 0.9}, {"all": None}],
                "readout_gap": [{"all": 0.7, "deeper": 0.6}, {"all": 0.5}],
                "mask_probe_auc": [{"all": 0.8}, {"all": 0.6}],
                "adaptive": {"fillers.0.conv1": {"offset": {"all": 0.5}, "kernel_spread": {"all": 0.1}}},
                "importance": {"cross": [{"effective_channels": 4.0, "channels": 8, "correlation": -0.1}]},
            },
            "parameters": 1000,
            "gmac": 0.1,
            "train_seconds": 3.0,
        }

    names = list(cells)
    settings = {"data": {"size": 32}, "student": {"optim": {"steps": 20, "batch": 2}}}
    return {
        "command": "kdinpaint ablate made-up",
        "grid": {
            "name": "made-up",
            "question": "",
            "reference": reference or names[0],
            "cells": [
                {"name": name, "overrides": {}, "factors": factors, "parameters": 1000, "settings": settings}
                for name, factors in cells.items()
            ],
        },
        "seeds": list(range(seeds)),
        "photos": {"train": 5, "held_out": photos},
        "manifest": "0" * 64,
        "ratio": ratio,
        "image": [f"{k % photos}.png" for k in range(pairs)],
        "environment": {"processor": "a processor", "torch": "2", "threads": 1, "python": "3"},
        "device": "cpu",
        "results": {name: {str(s): run(number) for s in range(seeds)} for number, name in enumerate(names)},
        "failures": {},
    }
