"""What each named model costs: parameters, multiply-accumulates, milliseconds, beside the gated-convolution generator.

python benchmarks/model_cost.py            writes benchmarks/results/model_cost.json
"""

import functools
import json
from pathlib import Path

import torch

from kdinpaint.benchmark.timing import interleave
from kdinpaint.models import AutoEncoder, create_model, list_models, model_cost
from kdinpaint.training.environment import environment

RESULTS = Path(__file__).parent / "results" / "model_cost.json"
SIZE = 256
# Published figures of the generator of DeepFill v2 (gated convolution) at 256 x 256.
GATED = {"parameters": 4_100_000, "gmac": 27.7}


def main() -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 3, SIZE, SIZE)
    mask = torch.zeros(1, 1, SIZE, SIZE)
    mask[..., 64:192, 64:192] = 1  # 25 % hole
    models = {}
    for name in list_models():
        model = create_model(name).eval()
        models[name] = (model, (image,) if isinstance(model, AutoEncoder) else (image, mask))
    calls = {name: functools.partial(model, *inputs) for name, (model, inputs) in models.items()}
    with torch.inference_mode():
        times = interleave(calls, rounds=15, device=image.device)
    rows = {
        name: {**vars(model_cost(model, *inputs)), "milliseconds": times[name].median}
        for name, (model, inputs) in models.items()
    }
    content = {
        "command": "python benchmarks/model_cost.py",
        "size": SIZE,
        "hole_ratio": 0.25,
        "environment": environment(),
        "gated_convolution": GATED,
        "models": rows,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
