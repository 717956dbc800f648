"""The colour photographs that come inside the scikit-image package: data without a download."""

from dataclasses import dataclass
from pathlib import Path

from kdinpaint._core.errors import DataError
from kdinpaint._core.optional import require

__all__ = ["DemoPhotos", "demo_photos"]

_TRAIN = (
    "astronaut.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "motorcycle_right.png",  # the stereo twin of the one above: both must stay on one side of the split
    "retina.jpg",
)
_HELD_OUT = ("chelsea.png", "rocket.jpg")


@dataclass(frozen=True)
class DemoPhotos:
    """A split of whole photographs; none of those held out shares a scene with one to train on.

    Attributes:
        train: Files to train on.
        held_out: Files to evaluate on.
    """

    train: list[Path]
    held_out: list[Path]


def demo_photos() -> DemoPhotos:
    """Find the photographs that are installed with scikit-image; nothing is downloaded.

    Returns:
        Seven files to train on and two ordinary scenes held out, fewer if the installed release lacks some.

    Raises:
        MissingDependencyError: scikit-image is not installed.
        DataError: The installed scikit-image holds none of the files for one side.
    """
    folder = Path(str(require("skimage", extra="demo").__file__)).parent / "data"
    train, held_out = ([folder / name for name in names if (folder / name).is_file()] for names in (_TRAIN, _HELD_OUT))
    if not train or not held_out:
        raise DataError(
            f"{folder} holds {len(train)} photographs to train on and {len(held_out)} held out; expected "
            f"{len(_TRAIN)} and {len(_HELD_OUT)}. Reinstall scikit-image from its wheel."
        )
    return DemoPhotos(train=train, held_out=held_out)
