"""Results as tables on the terminal."""

import math
from typing import Any

from kdinpaint.metrics import compare_methods

__all__ = ["paired_difference", "print_results"]

_TITLES = {
    "psnr": "PSNR of the composite, dB (higher is better)",
    "ssim": "SSIM of the composite (higher is better)",
    "hole_psnr": "PSNR of the hole alone, dB (higher is better)",
}


def print_results(results: dict[str, Any]) -> None:
    """Print what `Run.evaluate` returned: quality by hole ratio, then cost."""
    models = results["models"]
    measured = next(iter(models.values()))["overall"]["metrics"]
    for metric, title in _TITLES.items():
        if metric not in measured:
            continue
        print(f"\n{title}")
        print(compare_methods(models, metric, digits=4 if metric == "ssim" else 2, style="plain"))
    print(f"\n{'cost':12}{'parameters':>12}{'GMAC':>9}{'ms/image':>10}{'training':>12}")
    for name, model in models.items():
        stages = results.get("train_seconds", {}).items()
        seconds = [took for stage, took in stages if stage == name or stage.startswith(f"phases/{name}_")]
        took = f"{sum(seconds):.0f} s" if seconds else "-"
        millions, milliseconds = model["parameters"] / 1e6, model["milliseconds"]
        print(f"{name:12}{millions:>10.2f} M{model['gmac']:>9.2f}{milliseconds:>10.1f}{took:>12}")
    print(f"\nprotocol {results['protocol']}, manifest {results['manifest'][:12]}")


def paired_difference(results: dict[str, Any], method: str, baseline: str, metric: str) -> tuple[float, float]:
    """Mean and standard error of a metric's difference over the pairs that both methods were measured on."""
    ours, theirs = (results["models"][name]["records"] for name in (method, baseline))
    values = [a[metric] - b[metric] for a, b in zip(ours, theirs, strict=True)]
    mean = math.fsum(values) / len(values)
    variance = math.fsum((v - mean) ** 2 for v in values) / max(len(values) - 1, 1)
    return mean, math.sqrt(variance / len(values))
