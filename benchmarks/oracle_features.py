"""What perfect imitation could bring: trained cells of an ablation with the teacher's features put into the hole.

python benchmarks/oracle_features.py --work ABLATION.work --held-out DIR --name N [--cells "no cross" 0.1]

WORK is the folder that `kdinpaint ablate` leaves beside its result. Every cell is measured on the pairs of the ablation
as it is, and as `kdinpaint.ablation.OracleNet` at each level and at all. Writes
benchmarks/results/oracle_features_N.json.
"""

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from kdinpaint import AutoEncoder, InpaintingNet
from kdinpaint._core.command_line import command_line
from kdinpaint._core.files import write_text
from kdinpaint.ablation import OracleNet
from kdinpaint.ablation.measuring import EvaluationPairs, quick_score
from kdinpaint.data import PairManifest
from kdinpaint.models import load_model
from kdinpaint.training.environment import environment

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Config:
    """What is measured."""

    work: Path
    """Folder of an ablation in which all cells of a seed share one teacher."""
    held_out: Path
    """The photos that it measured on."""
    name: str
    """Of the result file."""
    cells: tuple[str, ...] = ()
    """All by default."""


@functools.cache
def teacher_of(work: Path, seed: str) -> AutoEncoder:
    """The one teacher of a seed."""
    found = sorted((work / "teachers").glob(f"seed-{seed}-*"))
    if len(found) != 1:
        raise SystemExit(f"{work} has {len(found)} teachers for seed {seed}; expected one.")
    teacher = load_model(found[0] / "teacher")
    assert isinstance(teacher, AutoEncoder)
    return teacher.eval()


def measure(student: InpaintingNet, teacher: AutoEncoder, pairs: EvaluationPairs) -> dict[str, float]:
    """PSNR of a student as it is, with the teacher's features at each level, and at all."""
    variants = {str(level): [level] for level in range(len(student.channels))}
    told = {name: OracleNet(student, teacher, levels) for name, levels in variants.items()}
    nets = {"alone": student, **told, "all": OracleNet(student, teacher)}
    return {name: round(quick_score(net, pairs)["psnr"], 4) for name, net in nets.items()}


def main(config: Config) -> None:
    manifest = PairManifest.load(config.work / "manifest.json")
    pairs = EvaluationPairs.load(manifest, config.held_out, channels=3, device=torch.device("cpu"))
    cells: dict[str, Any] = {}
    for name in config.cells or sorted(folder.name for folder in (config.work / "cells").iterdir()):
        for folder in sorted((config.work / "cells" / name).iterdir()):
            student = load_model(folder / "student")
            assert isinstance(student, InpaintingNet)
            found = measure(student.eval(), teacher_of(config.work, folder.name), pairs)
            cells.setdefault(name, {})[folder.name] = found
            print(name, folder.name, found)
    content = {
        "command": command_line("python benchmarks/oracle_features.py", config),
        "manifest": manifest.hash,
        "pairs": len(pairs),
        "environment": environment(),
        "cells": cells,
    }
    RESULTS.mkdir(exist_ok=True)
    write_text(RESULTS / f"oracle_features_{config.name}.json", json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
