"""`kdinpaint inpaint`: fill the hole of one image, or of a folder of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from PIL import Image

from kdinpaint._core.errors import DataError
from kdinpaint._core.files import make_folder
from kdinpaint.data import list_images
from kdinpaint.inference import Inpainter
from kdinpaint.inference.convert import load_image

__all__ = ["InpaintConfig", "command"]


@dataclass(frozen=True)
class InpaintConfig:
    """Fill holes with a trained model. Pixels outside the hole stay as they are, bit for bit (in PNG)."""

    image: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="IMAGE")]
    """An image, or a folder of images."""
    mask: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MASK")]
    """Its mask, two values, white = hole; or a folder of masks, paired with the images by name."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Where to write the result: a file, or a folder for a folder of images."""
    weights: Annotated[Path, tyro.conf.arg(aliases=["-w"])]
    """A run folder, or a folder with model.safetensors and config.json."""
    polarity: Literal["hole", "known"] = "hole"
    """What white means in the masks."""
    threshold: float | None = None
    """Accept masks that are not binary: hole where brighter than this share of white, for example 0.5."""
    device: str | None = None
    """cpu or cuda; a GPU is used if there is one."""


def command(config: Annotated[InpaintConfig, tyro.conf.arg(name="")]) -> None:
    """Fill the hole of one image, or of a folder of them."""
    jobs = _pairs(config.image, config.mask, config.output)
    inpainter = Inpainter(config.weights, device=config.device)
    for image, mask, output in jobs:
        inpainter(image, _read_mask(mask, config.polarity), threshold=config.threshold, output=output)
        print(output)


def _pairs(image: Path, mask: Path, output: Path) -> list[tuple[Path, Path, Path]]:
    """(image, mask, output) of every job."""
    if not image.is_dir():
        return [(image, mask, output / f"{image.stem}.png" if output.is_dir() else output)]
    images = {path.relative_to(image).with_suffix(""): path for path in list_images(image)}
    if not mask.is_dir():
        masks = dict.fromkeys(images, mask)
    else:
        masks = {path.relative_to(mask).with_suffix(""): path for path in list_images(mask)}
    unpaired = sorted(str(name) for name in images.keys() ^ masks.keys())
    if unpaired:
        raise DataError(
            f"{len(unpaired)} names are in only one of {image} and {mask}: {', '.join(unpaired[:8])}. Images and "
            f"masks are paired by name without ending; nothing was written."
        )
    make_folder(output)
    return [(path, masks[name], output / name.with_suffix(".png")) for name, path in images.items()]


def _read_mask(path: Path, polarity: str) -> Image.Image:
    mask = load_image(path)
    if polarity == "hole":
        return mask
    grey = mask if mask.mode == "L" else mask.convert("L")
    return Image.fromarray(255 - np.asarray(grey))
