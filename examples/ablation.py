"""An ablation of one's own: what is uniform cross distillation worth, with and without filler blocks?

The grid is data. Every cell of a seed sees the same teacher, crops, holes and order, and starts from the same weights
wherever two cells share a layer; differences are paired, and told with their intervals.

python examples/ablation.py            long on a CPU, photographs from scikit-image; see --work
python examples/ablation.py --smoke    seconds; the numbers mean nothing
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from kdinpaint.ablation import AblationPlan, Cell, CellSettings, Grid, change, effects, paired_difference, report
from kdinpaint.ablation import run_ablation as run
from kdinpaint.data import demo_photos

CROSS = "student.distill.cross"
GRID = Grid(
    name="cross with and without fillers",
    question="Do fillers make the teacher's features reachable?",
    reference="neither",
    cells=(
        Cell("neither", {CROSS: 0.0, "model.filler": "none"}, factors={"cross": 0, "filler": 0}),
        Cell("cross", {"model.filler": "none"}, factors={"cross": 1, "filler": 0}),
        Cell("filler", {CROSS: 0.0}, factors={"cross": 0, "filler": 1}),
        Cell("both", {}, factors={"cross": 1, "filler": 1}),
    ),
)


def base(smoke: bool) -> CellSettings:
    """What all cells have in common; a wrong name or value would be an error here, naming what it may have been."""
    settings = CellSettings()
    for name, value in {
        "model.attention": None,
        "student.distill.importance": "uniform",
        "student.distill.self_distill": 0.0,
        "data.min_window": 0.2,
        "data.recolor": True,
    }.items():
        settings = change(settings, name, value)
    if smoke:
        small = {"data.size": 32, "model.channels": [4, 8], "student.optim.steps": 6, "teacher.optim.steps": 4}
        for name, value in {**small, "student.optim.batch": 2, "teacher.optim.batch": 2}.items():
            settings = change(settings, name, value)
    return settings


def main(smoke: bool, work: Path) -> None:
    photos = demo_photos()
    content = run(
        AblationPlan(
            grid=GRID,
            base=base(smoke),
            photos=photos.train,
            held_out=photos.held_out,
            work=work,
            seeds=(0, 1) if smoke else (0, 1, 2),
            per_bin=2 if smoke else 50,
            mask_pool=16 if smoke else 4096,
            device="cpu",
            eval_every=3 if smoke else 100,
        )
    )
    print(report(content))
    found = paired_difference(content, effects(content["grid"]["cells"])["cross x filler"], "psnr").seeds
    print(f"The gain of cross distillation is {found.mean:+.2f} dB larger with fillers than without", end=" ")
    print("(more than chance)." if found.clear else "(within chance).")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--work", type=Path, help="keep checkpoints here, so that the same command goes on")
    arguments = parser.parse_args()
    with TemporaryDirectory() as temporary:
        main(arguments.smoke, arguments.work or Path(temporary))
