"""Evaluation on the way: how good the averaged weights are by now, in numbers and in pictures."""

import time
from itertools import pairwise
from typing import Any, cast

import numpy as np
from PIL import Image
from torch.utils.data import Subset

from kdinpaint.data import ManifestPairs
from kdinpaint.ops import RATIO_BINS
from kdinpaint.training.checkpoint import random_state, restore_random_state
from kdinpaint.training.engine import Stage
from kdinpaint.training.evaluation import evaluate_model
from kdinpaint.training.figures import write_contact_sheet
from kdinpaint.training.tracking import writing_logs

__all__ = ["Watch"]


class Watch:
    """An `on_step` of a `Stage` that evaluates its averaged weights now and then. Training does not notice.

    Numbers go to the trackers under `eval/`; a sheet of samples goes there, too, and to `samples/` in the stage's
    folder. The last step is left out: the evaluation of the run comes after it.

    Args:
        pairs: From `PairManifest.pairs`.
        every: Steps from one evaluation to the next.
        per_bin: Pairs of each hole-ratio bin that are used.
        rows: Of the sheet.

    Attributes:
        seconds: Time that evaluations took.
    """

    def __init__(self, pairs: ManifestPairs, every: int, *, per_bin: int = 20, rows: int = 6) -> None:
        self.pairs, self.every, self.rows = pairs, every, rows
        ratios = [entry.ratio for entry in pairs.manifest.entries]
        bins = [[i for i, ratio in enumerate(ratios) if low < ratio <= high] for low, high in pairwise(RATIO_BINS)]
        self.chosen = [i for inside in bins for i in inside[:per_bin]]
        self.seconds = 0.0

    def __call__(self, stage: Stage) -> None:
        """Evaluate if it is time to."""
        if stage.step % self.every or stage.step == stage.config.steps:
            return
        began, state = time.monotonic(), random_state()
        try:
            self._evaluate(stage)
        finally:
            restore_random_state(state)
        self.seconds += time.monotonic() - began

    def _evaluate(self, stage: Stage) -> None:
        net = cast(Any, stage.ema.module)
        table = evaluate_model(net, cast(Any, Subset(cast(Any, self.pairs), self.chosen)))
        found = {f"eval/{name}": value["mean"] for name, value in table.summary()["overall"]["metrics"].items()}
        with writing_logs(stage.accelerator):
            stage.accelerator.log(found, step=stage.step)
        if not stage.accelerator.is_main_process:
            return
        path = stage.folder / "samples" / f"{stage.step:07}.png"
        write_contact_sheet(path, {stage.name: net}, self.pairs, rows=self.rows)
        with Image.open(path) as sheet:
            pixels = np.asarray(sheet.convert("RGB"))
        with writing_logs(stage.accelerator):
            for tracker in stage.accelerator.trackers:
                options = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                cast(Any, tracker).log_images({"eval/samples": pixels[None]}, step=stage.step, **options)
