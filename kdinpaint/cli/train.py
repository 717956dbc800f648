"""`kdinpaint train`: from a folder of photos to a trained, measured inpainter."""

from typing import Annotated

import tyro

from kdinpaint._core.processes import process_rank
from kdinpaint.cli.report import print_results
from kdinpaint.training import TrainConfig, train

__all__ = ["command"]


def command(config: Annotated[TrainConfig, tyro.conf.arg(name="")]) -> None:
    """Train a teacher and a student on a folder of photos, and measure the student."""
    results = train(config)
    if process_rank() > 0:
        return
    print_results(results)
    print(f"\nResults: {config.out}. Try: kdinpaint inpaint IMAGE MASK -o OUT.png --weights {config.out}")
