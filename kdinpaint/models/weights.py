"""Models on disk: a folder with `model.safetensors` and `config.json`, as the Hugging Face hub keeps them."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from kdinpaint._core.errors import WeightsError
from kdinpaint._core.files import atomic_path, make_folder
from kdinpaint.models.autoencoder import AutoEncoder
from kdinpaint.models.comparators import Comparator, EdgeConnectNet, GatedConvNet, PartialConvNet, PluralisticNet
from kdinpaint.models.inpainting import InpaintingNet

__all__ = ["load_model", "save_model"]

_CLASSES: dict[str, type[AutoEncoder] | type[InpaintingNet] | type[Comparator]] = {
    "AutoEncoder": AutoEncoder,
    "InpaintingNet": InpaintingNet,
    "PartialConvNet": PartialConvNet,
    "GatedConvNet": GatedConvNet,
    "EdgeConnectNet": EdgeConnectNet,
    "PluralisticNet": PluralisticNet,
}
_WEIGHTS, _CONFIG = "model.safetensors", "config.json"


def save_model(model: AutoEncoder | InpaintingNet | Comparator, folder: str | Path) -> None:
    """Write weights and configuration; earlier files are replaced when both are complete.

    Args:
        model: The model; training state is not part of it.
        folder: Made if missing. `from_pretrained` of the model's class reads it, too.

    Raises:
        OutputError: The folder cannot be written.
    """
    folder = Path(folder)
    make_folder(folder)
    # Both are written before either takes its place: a full disk leaves the earlier pair.
    with atomic_path(folder / _CONFIG) as description:
        description.write_text(json.dumps(model.configuration(), indent=2, sort_keys=True), encoding="utf-8")
        with atomic_path(folder / _WEIGHTS) as weights:
            state = {name: value.contiguous() for name, value in model.state_dict().items()}
            try:
                save_file(state, weights, metadata={"format": "pt"})
            except SafetensorError as error:  # how it reports a full disk
                raise OSError(str(error)) from error


def load_model(source: str | Path, *, device: torch.device | str = "cpu") -> AutoEncoder | InpaintingNet | Comparator:
    """Read a model that `save_model` or `save_pretrained` wrote.

    Nothing in the files is executed, and shapes are compared before any memory is taken.

    Args:
        source: The folder, or the `model.safetensors` in it.
        device: Where to put the weights.

    Returns:
        The model, in eval mode.

    Raises:
        WeightsError: Files are missing, damaged, foreign, or do not fit each other.
    """
    path = Path(source)
    folder = path if path.is_dir() else path.parent
    weights = folder / _WEIGHTS if path.is_dir() else path
    if not weights.is_file():
        held = sorted(p.name for p in folder.iterdir())[:8] if folder.is_dir() else []
        raise WeightsError(
            f"there are no weights at {weights} (the folder holds: {', '.join(held) or 'nothing'}). Pass a folder "
            f"with {_WEIGHTS} and {_CONFIG}, such as RUN/student."
        )
    if weights.suffix != ".safetensors":
        raise WeightsError(
            f"{weights.name} is not a safetensors file. Pickled weights can run code when they are read and are "
            f"not loaded; convert them with safetensors.torch.save_file first."
        )
    found = _inventory(weights)
    model = _empty_model(folder / _CONFIG, limit=len(found))
    _compare(model, found, weights)
    try:
        with safe_open(weights, framework="pt", device=str(device)) as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise WeightsError(_damaged(weights, error)) from error
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(True).eval()


def _inventory(weights: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Number format and shape of every tensor of a file."""
    try:
        with safe_open(weights, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            return {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
    except (SafetensorError, OSError) as error:
        raise WeightsError(_damaged(weights, error)) from error


def _empty_model(config: Path, *, limit: int) -> AutoEncoder | InpaintingNet | Comparator:
    """The model of a configuration, without memory for its weights, of at most `limit` blocks a level."""
    try:
        options: dict[str, Any] = json.loads(config.read_text(encoding="utf-8"))
        cls = _CLASSES[options.pop("model")]
        if options.get("blocks", 1) > limit:
            raise ValueError(f"{options['blocks']} blocks a level and {limit} tensors in the weights")
        with torch.device("meta"):
            return cls(**options)
    except FileNotFoundError as error:
        raise WeightsError(f"{config} is missing; it says which model the weights belong to.") from error
    except Exception as error:  # whatever constructors make of a foreign configuration
        raise WeightsError(
            f"{config} does not describe a kdinpaint model ({type(error).__name__}: {error}); expected the file "
            f"that save_model writes, naming one of {', '.join(_CLASSES)}."
        ) from error


def _compare(model: nn.Module, found: dict[str, tuple[str, tuple[int, ...]]], weights: Path) -> None:
    """Raise unless the file holds exactly the tensors of the model."""
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    shapes = [
        f"{name} {found[name][1]} instead of {expected[name]}"
        for name in sorted(expected.keys() & found.keys())
        if expected[name] != found[name][1]
    ]
    counters = {name for name, value in model.state_dict().items() if not value.is_floating_point()}
    kinds = {kind for name, (kind, _) in found.items() if name not in counters}
    formats = sorted(kinds - {"F16", "BF16", "F32", "F64"})
    problems = [
        f"{label} {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
        for label, names in (
            ("missing:", missing),
            ("not part of the model:", extra),
            ("shapes:", shapes),
            ("not numbers with a fraction:", formats),
        )
        if names
    ]
    if problems:
        raise WeightsError(
            f"{weights} does not fit the {type(model).__name__} of its {_CONFIG}: {'; '.join(problems)}. "
            f"Use the two files that were written together."
        )


def _damaged(weights: Path, error: Exception) -> str:
    return (
        f"{weights} is damaged or not a safetensors file ({error}); it may be truncated. "
        f"Copy it again, or write it again from the run's checkpoint."
    )
