"""What a meta-update costs: time and memory of each method beside the ordinary training step it is added to.

python benchmarks/meta_cost.py             prints
python benchmarks/meta_cost.py --write     on an idle machine: writes benchmarks/results/meta_cost.json

One student, one batch; the variants take turns within one run, and every one makes the same ordinary step. Each is the
step in which an update is due: with `every=N` a training run pays (ratio - 1) / N of it.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from kdinpaint.benchmark.memory import peak_memory
from kdinpaint.benchmark.timing import interleave, speedup
from kdinpaint.models import AutoEncoder, create_model
from kdinpaint.training import DistillConfig, LossConfig, StudentObjective
from kdinpaint.training.environment import environment

RESULTS = Path(__file__).parent / "results" / "meta_cost.json"
SIZE, BATCH = 64, 4
BASE = DistillConfig(self_ramp=0.0, importance="uniform")
VARIANTS: dict[str, DistillConfig] = {
    "step": BASE,
    "align": replace(BASE, importance="meta", meta_every=1),
    "lookahead": replace(BASE, importance="meta", meta_every=1, meta_method="lookahead"),
    "l2t, T = 1": replace(BASE, importance="meta", meta_every=1, meta_method="l2t", meta_inner_steps=1),
    "l2t, T = 2": replace(BASE, importance="meta", meta_every=1, meta_method="l2t", meta_inner_steps=2),
    "align, aligner": replace(BASE, importance="meta", meta_every=1, aligner="teacher"),
    "align, attention": replace(BASE, importance="meta", meta_every=1, attention_transfer=0.1),
}


def training_step(config: DistillConfig, batch: dict[str, torch.Tensor]) -> Callable[[], list[torch.Tensor]]:
    """One whole step of the student, its meta-update included; no optimiser, which all variants share."""
    torch.manual_seed(0)
    student = create_model("kdinpaint_tiny")
    teacher = create_model("autoencoder_tiny", attention="fuse" if config.attention_transfer else None)
    assert isinstance(teacher, AutoEncoder)
    stage = StudentObjective(student, teacher, loss=LossConfig(), distill=config)  # type: ignore[arg-type]
    # Smaller than any overshoot: a skipped update would look cheap.
    if stage.meta is not None:
        stage.meta.inner.lr = 1e-5

    def step() -> list[torch.Tensor]:
        stage.zero_grad(set_to_none=True)
        log = stage.backward(stage(batch, 0.5), 0, lambda loss: loss.backward())
        assert bool(log) == (stage.meta is not None)
        return []

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/meta_cost.json")
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(BATCH, 1, SIZE, SIZE)
    mask[..., SIZE // 4 : 3 * SIZE // 4, SIZE // 4 : 3 * SIZE // 4] = 1
    batch = {"image": torch.rand(BATCH, 3, SIZE, SIZE, generator=generator), "mask": mask}
    steps = {name: training_step(config, batch) for name, config in VARIANTS.items()}
    for step in steps.values():
        step()
    times = interleave(steps, rounds=options.rounds, device=torch.device("cpu"))
    memory = {name: peak_memory(step, torch.device("cpu")).peak for name, step in steps.items()}
    rows = {
        name: {
            "milliseconds": times[name].summary(),
            "times_a_plain_step": [round(value, 3) for value in speedup(times["step"], times[name])],
            "peak_mib": round(memory[name] / 2**20, 2),
            "peak_times_a_plain_step": round(memory[name] / memory["step"], 3),
        }
        for name in steps
    }
    command = "python benchmarks/meta_cost.py --write"
    if options.rounds != 11:
        command += f" --rounds {options.rounds}"
    content = {
        "command": command,
        "model": "kdinpaint_tiny",
        "size": SIZE,
        "batch": BATCH,
        "hole_ratio": 0.25,
        "environment": environment(),
        "variants": rows,
    }
    print(json.dumps(rows, indent=1))
    if options.write:
        RESULTS.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
