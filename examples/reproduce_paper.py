"""One data set of the paper, all rows of its table: plain, ours, and every comparator that `list_models` knows.

Each row is what `kdinpaint train` does with the options printed; rows share the teacher, the evaluation pairs and the
iterations. Interrupted, the same command goes on; a row that is done is not trained again. With several GPUs, run
it under `accelerate launch --num_processes N`.

python examples/reproduce_paper.py --photos CELEBA --held-out TEST --out runs/celeba    400,000 iterations
python examples/reproduce_paper.py --photos CELEBA --held-out TEST --out runs/celeba --share 0.01
python examples/reproduce_paper.py --smoke    photographs from scikit-image, a few steps
"""

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

from accelerate import PartialState

from kdinpaint import list_models, training
from kdinpaint.data import demo_photos
from kdinpaint.training import (
    DataConfig,
    DistillConfig,
    EvaluationConfig,
    OptimConfig,
    RuntimeConfig,
    StudentConfig,
    TeacherConfig,
    TrainConfig,
    train,
)

ITERATIONS = {"celeba": 400_000, "paris": 400_000, "places2": 2_500_000}
COMPARATORS = ("pic", "pc", "gc", "ec")
COLUMNS = (("10-20 %", 0.1), ("30-40 %", 0.3))


def rows(options: argparse.Namespace) -> dict[str, TrainConfig]:
    """The configuration of every row, "ours" first because it trains the teacher."""
    steps = max(4, round(ITERATIONS[options.dataset] * options.share))
    lr = 1e-4 if steps >= 20_000 else 2e-4
    optim = OptimConfig(steps=steps, batch=options.batch, lr=lr)
    ours = TrainConfig(
        photos=options.photos,
        out=options.out / "ours",
        model=f"kdinpaint_{options.model}",
        mixed_precision=options.mixed_precision,
        data=DataConfig(size=options.size),
        teacher=TeacherConfig(optim=replace(optim, steps=max(2, steps // 4))),
        student=StudentConfig(optim=optim, distill=DistillConfig(meta_lr=lr if steps >= 20_000 else 1e-3)),
        evaluation=EvaluationConfig(photos=options.held_out, per_bin=options.per_bin),
        runtime=RuntimeConfig(workers=options.workers, checkpoint_every=max(250, steps // 200)),
    )
    teacher = TeacherConfig(weights=options.out / "ours" / "teacher")
    plain = replace(ours.student, distill=DistillConfig(cross=0.0, self_distill=0.0))
    found = {
        "ours": ours,
        "plain": replace(ours, out=options.out / "plain", model=f"{ours.model}_plain", teacher=teacher, student=plain),
    }
    for name in COMPARATORS:
        if name in list_models():
            budget = training.ComparatorConfig(steps=steps, batch=options.batch)
            found[name] = replace(ours, out=options.out / name, model=name, comparator=budget)
    return {name: config for name, config in found.items() if not options.rows or name in options.rows}


def table(results: dict[str, dict]) -> str:
    """PSNR and SSIM of every row in the bins of the paper's text, and all bins together."""
    head = [
        "",
        *(f"{metric.upper()} {name}" for metric in ("psnr", "ssim") for name in [c[0] for c in COLUMNS] + ["all"]),
    ]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, result in results.items():
        model = next(iter(result["models"].values()))
        parts = [next(b for b in model["bins"] if b["low"] == low) for _, low in COLUMNS] + [model["overall"]]
        cells = [
            f"{part['metrics'][metric]['mean']:.{digits}f}"
            for metric, digits in (("psnr", 2), ("ssim", 4))
            for part in parts
        ]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    manifests = {result["manifest"] for result in results.values()}
    return "\n".join(
        [*lines, "", f"protocol {next(iter(results.values()))['protocol']}, manifests {', '.join(manifests)}"]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="training images")
    parser.add_argument("--held-out", type=Path, help="test images")
    parser.add_argument("--out", type=Path, default=Path("runs/paper"))
    parser.add_argument("--dataset", choices=ITERATIONS, default="celeba", help="whose number of iterations")
    parser.add_argument("--share", type=float, default=1.0, help="of these iterations")
    parser.add_argument("--rows", nargs="*", help="only these: ours, plain, pic, pc, gc, ec")
    parser.add_argument("--model", default="base")
    for name, value in {"size": 256, "batch": 6, "per-bin": 1000, "workers": 4}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--mixed-precision", choices=["no", "bf16", "fp16"], default="no")
    parser.add_argument("--smoke", action="store_true", help="a few steps only")
    options = parser.parse_args()
    if options.smoke:
        options.share, options.model, options.size, options.batch, options.per_bin, options.workers = (
            1e-5,
            "tiny",
            64,
            2,
            1,
            0,
        )
        options.rows = ["ours", "plain"]  # comparators are full-sized: not in seconds
        for part, files in (("train", demo_photos().train[:2]), ("held_out", demo_photos().held_out)):
            (options.out / "photos" / part).mkdir(parents=True, exist_ok=True)
            for file in files:
                shutil.copy(file, options.out / "photos" / part)
        options.photos, options.held_out = options.out / "photos" / "train", options.out / "photos" / "held_out"
    if options.photos is None or options.held_out is None:
        parser.error("--photos and --held-out are needed, or --smoke")
    results = {}
    for name, config in rows(options).items():
        print(f"== {name}: {config.model}, results in {config.out}")
        results[name] = train(config)
    if PartialState().is_main_process:
        print(table(results))


if __name__ == "__main__":
    main()
