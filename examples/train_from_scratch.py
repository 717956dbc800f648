"""The whole method in one honest training loop: the library's parts, and no engine.

An autoencoder learns intact photographs; an inpainting network starts from its weights and is guided by its features
and by its own deeper levels, while a meta-learner decides which channels are worth imitating. Weights are averaged, the
learning rate falls, a killed run goes on where it was, and held-out pairs are measured by hole ratio.

python examples/train_from_scratch.py --photos PHOTOS --held-out OTHERS --size 256 --steps 400000   days of a GPU
python examples/train_from_scratch.py            photographs from scikit-image, half an hour on a CPU
python examples/train_from_scratch.py --smoke    a few seconds
"""

import argparse
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Subset

from kdinpaint import CrossDistillLoss, FrozenTeacher, MetaLearner, SelfDistillLoss, create_model
from kdinpaint.data import MaskGenerator, PairManifest, PhotoFolder, TrainingSamples, common_folder, demo_photos
from kdinpaint.metrics import RatioTable, measure
from kdinpaint.models import save_model
from kdinpaint.ops import masked_channel_mean

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def stream(options, first: int, *, holes: bool) -> DataLoader:
    """Batches from step `first` on. A sample depends on seed and number, so a restart sees what was to come."""
    masks = MaskGenerator() if holes else lambda size, rng: torch.zeros(1, *size)
    photos = PhotoFolder(options.photos or demo_photos().train, min_size=options.size)
    length = options.steps * options.batch
    samples = TrainingSamples(photos, masks, size=options.size, seed=options.seed, length=length)
    rest = Subset(samples, range(first * options.batch, length))
    return DataLoader(rest, options.batch, num_workers=options.workers, pin_memory=DEVICE.type == "cuda")


def train(name: str, net: nn.Module, parts: dict, parameters: list, options, gradients) -> nn.Module:
    """Adam, averaged weights, and a checkpoint of all there is; `gradients` fills them and returns the loss."""
    adam = torch.optim.Adam(parameters, lr=options.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, options.steps, eta_min=options.lr / 10)
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(options.ema), use_buffers=True)
    kept = {"net": net, "adam": adam, "schedule": schedule, "average": average, **parts}
    path, first = options.out / f"{name}.pt", 0
    if path.exists():
        state = torch.load(path, map_location=DEVICE, weights_only=True)
        first = state.pop("step")
        for key, value in state.items():
            kept[key].load_state_dict(value)
    net.train()
    for step, batch in enumerate(stream(options, first, holes=name == "student"), first):
        loss = gradients({key: value.to(DEVICE, non_blocking=True) for key, value in batch.items()}, step)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        adam.step()
        adam.zero_grad()
        schedule.step()
        average.update_parameters(net)
        if (step + 1) % options.save_every == 0 or step + 1 == options.steps:
            print(f"{name} {step + 1:6}/{options.steps}  loss {float(loss):.4f}", flush=True)
            fresh = path.with_suffix(".new")  # a checkpoint is whole or not there
            torch.save({"step": step + 1, **{key: part.state_dict() for key, part in kept.items()}}, fresh)
            fresh.replace(path)
    return average.module.eval()


def train_teacher(options) -> nn.Module:
    net = create_model(f"autoencoder_{options.model}").to(DEVICE)

    def gradients(batch: dict, step: int) -> torch.Tensor:
        loss = F.l1_loss(net(batch["image"]), batch["image"])
        loss.backward()
        return loss.detach()

    return train("teacher", net, {}, list(net.parameters()), options, gradients)


def train_student(autoencoder: nn.Module, options) -> nn.Module:
    student = create_model(f"kdinpaint_{options.model}").to(DEVICE)
    student.load_from(autoencoder)
    encoder = list(student.encoder.parameters())
    teacher = FrozenTeacher(autoencoder, method="encode")
    cross = CrossDistillLoss(student.channels, scale="teacher_std").to(DEVICE)
    own = SelfDistillLoss(student.channels, scale="teacher_std").to(DEVICE)
    # Importance predictors are the meta-learner's alone: trained with the loss they weigh, they would collapse.
    meta = MetaLearner([*cross.meta_parameters(), *own.meta_parameters()], every=10, lr=1e-3)

    def gradients(batch: dict, step: int) -> torch.Tensor:
        image, mask = batch["image"], batch["mask"]
        prediction, features = student(image, mask, return_features=True)
        error, target = (prediction - image).abs(), teacher(image)
        task = 6 * masked_channel_mean(error, mask).mean() + masked_channel_mean(error, 1 - mask).mean()
        due = meta.due(step)
        direction = torch.autograd.grad(task, encoder, retain_graph=True, allow_unused=True) if due else ()
        (task + 0.01 * cross(features, target, mask) + 0.1 * own(features, mask)).backward()
        if due:  # channels gain weight if imitating them lowers the task loss
            deeper = [feature.detach() for feature in features[1:]]

            def distances() -> list[torch.Tensor]:
                now = student.encode(image, mask)
                return cross.distances(now, target, mask) + own.distances(now, mask, targets=deeper)

            importance = cross.importance(target, mask) + own.importance(deeper, mask)
            meta.step(parameters=encoder, direction=direction, distances=distances, importance=importance)
        return task.detach()

    parameters = [*student.parameters(), *own.aligners.parameters()]
    return train("student", student, {"cross": cross, "own": own, "meta": meta}, parameters, options, gradients)


@torch.inference_mode()
def evaluate(net: nn.Module, options) -> None:
    files = sorted(options.held_out.iterdir()) if options.held_out else demo_photos().held_out
    count, masks = options.per_bin, MaskGenerator()
    manifest = PairManifest.build(
        files, size=options.size, masks=masks, per_bin=count, seed=options.seed, windows_per_photo=6 * count
    )
    table = RatioTable()
    for pair in DataLoader(manifest.pairs(common_folder(files)), batch_size=8):
        prediction = net(pair["image"].to(DEVICE), pair["mask"].to(DEVICE)).cpu()
        table.add(pair["ratio"], measure(prediction, pair["image"], pair["mask"]))
    print(table.to_markdown())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("photos", "held-out", "out"):
        parser.add_argument(f"--{name}", type=Path)
    numbers = {"size": 64, "batch": 6, "steps": 1000, "save-every": 100, "per-bin": 8, "workers": 0, "seed": 0}
    for name, value in {**numbers, "lr": 1e-3, "ema": 0.99, "model": "tiny"}.items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    parser.add_argument("--smoke", action="store_true", help="a few steps only")
    options = parser.parse_args()
    if options.smoke:
        options.steps, options.per_bin, options.batch = 3, 1, 2
    options.out = options.out or Path("runs/from_scratch")
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    student = train_student(train_teacher(options), options)
    save_model(student, options.out)
    evaluate(student, options)
    print(f"kdinpaint inpaint IMAGE MASK -o OUT.png --weights {options.out}")


if __name__ == "__main__":
    main()
