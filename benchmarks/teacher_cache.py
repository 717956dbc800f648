"""Teacher features from disk against the teacher's forward pass.

python benchmarks/teacher_cache.py             prints
python benchmarks/teacher_cache.py --write     on an idle machine: writes benchmarks/results/teacher_cache.json

Files are read back at once, so that they come from the operating system's memory: a slow disk is slower.
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch

from kdinpaint import AutoEncoder, FrozenTeacher, TimmTeacher
from kdinpaint.benchmark.timing import interleave, speedup
from kdinpaint.retrofitting import FeatureCache
from kdinpaint.training.environment import environment

RESULTS = Path(__file__).parent / "results" / "teacher_cache.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--write", action="store_true", help="write the result; on an idle machine")
    options = parser.parse_args()
    torch.manual_seed(0)
    teachers = {
        "autoencoder 32/64/128": FrozenTeacher(AutoEncoder(channels=(32, 64, 128)), method="encode"),
        "resnet50 levels 1-3": TimmTeacher("resnet50", pretrained=False, out_indices=(1, 2, 3)),
    }
    images = torch.rand(options.batch, 3, options.size, options.size, device=options.device)
    keys = [str(number) for number in range(options.batch)]
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, teacher in teachers.items():
            teacher.to(options.device)
            caches = {
                "float32": FeatureCache(teacher, folder),
                "float16": FeatureCache(teacher, folder, dtype=torch.float16),
            }
            variants = {"teacher": lambda teacher=teacher: teacher(images)}
            for kind, cache in caches.items():
                cache(keys, images)
                variants[kind] = lambda cache=cache: cache(keys, images)
            times = interleave(variants, rounds=options.rounds, device=options.device)
            rows[name] = {
                "milliseconds": {kind: timing.summary() for kind, timing in times.items()},
                "speedup": {kind: speedup(times[kind], times["teacher"])._asdict() for kind in caches},
                "bytes_a_sample": {k: c.path("0", images).stat().st_size for k, c in caches.items()},
            }
    content = {
        "command": f"python benchmarks/teacher_cache.py --size {options.size} --batch {options.batch} "
        f"--rounds {options.rounds} --device {options.device} --write",
        "environment": environment(),
        "teachers": rows,
    }
    print(json.dumps(rows, indent=1))
    if options.write:
        RESULTS.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
