"""`kdinpaint evaluate`: measure trained models on photos of one's own, by hole ratio."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from kdinpaint._core.errors import ConfigError, WeightsError
from kdinpaint._core.files import write_text
from kdinpaint.cli.report import print_results
from kdinpaint.data import ManifestPairs, MaskGenerator, PairManifest
from kdinpaint.metrics import PerceptualMetrics
from kdinpaint.models import InpaintingNet, load_model
from kdinpaint.models.comparators import Comparator
from kdinpaint.ops import composite
from kdinpaint.training.environment import environment
from kdinpaint.training.evaluation import evaluate_models, predict_pairs
from kdinpaint.training.figures import write_contact_sheet
from kdinpaint.training.sources import open_masks

__all__ = ["EvaluateConfig", "command", "run_evaluation"]


@dataclass(frozen=True)
class EvaluateConfig:
    """Measure the students of a run on other photos. The pairs are frozen in a manifest that others can use."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """A run folder, or a folder with model.safetensors and config.json."""
    photos: Path
    """Folder of photos."""
    masks: Path | None = None
    """Folder of mask files; generated masks by default."""
    polarity: Literal["auto", "hole", "known"] = "auto"
    """What white means in the mask files."""
    manifest: Path | None = None
    """Measure on exactly these pairs (a manifest.json whose image paths are relative to --photos)."""
    size: int = 256
    """Side in pixels to which the middle square of each photo is brought."""
    min_side: int | None = None
    """Smallest side of a photo, by default --size; what is smaller is enlarged, as CelebA's 178 pixels are."""
    per_bin: int = 50
    """Pairs in each hole-ratio bin."""
    seed: int = 0
    protocol: Literal["default", "edgeconnect", "skimage7", "lama", "lbam", "mat"] = "default"
    """How predictions become numbers; see kdinpaint.metrics.measure."""
    perceptual: bool = False
    """Measure LPIPS and FID too (needs the extra `perceptual`, and fetches weights on first use)."""
    out: Path | None = None
    """Where manifest.json, metrics.json and contact_sheet.png go; RUN/evaluation by default."""
    device: str | None = None
    """cpu or cuda; a GPU is used if there is one."""


def command(config: Annotated[EvaluateConfig, tyro.conf.arg(name="")]) -> None:
    """Measure trained models on photos of your own, by hole ratio."""
    results, folder = run_evaluation(config)
    print_results(results)
    for name, values in results.get("perceptual", {}).items():
        print(f"{name}: " + ", ".join(f"{metric} {value:.4f}" for metric, value in values.items()))
    print(f"\nResults: {folder}")


def run_evaluation(config: EvaluateConfig) -> tuple[dict[str, Any], Path]:
    """Do the work; returns what metrics.json holds, and its folder."""
    models = _models(config)
    manifest = _manifest(config)
    pairs = manifest.pairs(config.photos, channels=_channels(models))
    suffix = "" if config.protocol == "default" else f"-{config.protocol}"
    folder = config.out or config.run / "evaluation" / f"{manifest.hash[:12]}{suffix}"
    results = {
        "protocol": config.protocol,
        "manifest": manifest.hash,
        "seed": config.seed,
        "environment": environment(),
        "models": evaluate_models(models, pairs, size=manifest.size, protocol=config.protocol),
    }
    if config.perceptual:
        results["perceptual"] = {name: _perceptual(model, pairs) for name, model in models.items()}
    manifest.save(folder / "manifest.json")
    write_text(folder / "metrics.json", json.dumps(results, indent=1) + "\n")
    write_contact_sheet(folder / "contact_sheet.png", models, pairs)
    return results, folder


def _perceptual(model: InpaintingNet | Comparator, pairs: ManifestPairs) -> dict[str, float]:
    """LPIPS and FID of the composites."""
    metrics = PerceptualMetrics(device=next(model.parameters()).device)
    for item, prediction in predict_pairs(model, pairs, label="LPIPS and FID"):
        metrics.update(composite(prediction.clamp(0, 1), item["image"], item["mask"]), item["image"])
    return metrics.compute()


def _models(config: EvaluateConfig) -> dict[str, InpaintingNet | Comparator]:
    """The inpainting networks of a run by name of their stage; teachers are passed over."""
    folders = [p.parent for p in sorted(config.run.glob("*/model.safetensors"))]
    if (config.run / "model.safetensors").is_file() or not folders:
        folders = [config.run]
    device = torch.device(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    loaded = {folder.name: load_model(folder, device=device) for folder in folders}
    models = {name: model for name, model in loaded.items() if isinstance(model, InpaintingNet | Comparator)}
    if not models:
        raise WeightsError(f"{config.run} holds no inpainting network, only {', '.join(loaded)}.")
    return models


def _channels(models: dict[str, InpaintingNet | Comparator]) -> int:
    channels = {model.in_channels for model in models.values()}
    if len(channels) > 1:
        raise ConfigError(f"the models take {sorted(channels)} channels; expected one number. Evaluate them apart.")
    return channels.pop()


def _manifest(config: EvaluateConfig) -> PairManifest:
    if config.manifest is not None:
        if config.masks is not None:
            raise ConfigError(f"{config.manifest} holds its masks; leave out --masks, or --manifest for other pairs.")
        return PairManifest.load(config.manifest)
    masks = MaskGenerator() if config.masks is None else open_masks(config.masks, "test", polarity=config.polarity)
    return PairManifest.build(
        config.photos,
        size=config.size,
        masks=masks,
        per_bin=config.per_bin,
        seed=config.seed,
        min_side=config.min_side,
    )
