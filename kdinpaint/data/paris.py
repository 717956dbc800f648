"""Paris StreetView, as the authors of Context Encoders send it."""

from pathlib import Path
from typing import ClassVar, Literal

from kdinpaint._core.checks import check_choice
from kdinpaint._core.images import PathLike
from kdinpaint.data.layouts import find_store
from kdinpaint.data.photos import OnError
from kdinpaint.data.stored_photos import Keep, StoredPhotos

__all__ = ["ParisStreetView"]

_FOLDERS = {
    "train": ("paris_train_original", "paris_street_view/train", "train"),
    "test": ("paris_eval_gt", "paris_eval/paris_eval_gt", "paris_street_view/val", "test", "val", "eval"),
}


class ParisStreetView(StoredPhotos):
    """Paris StreetView: 14,900 street scenes to train on and 100 to test on, 936 x 537 pixels.

    `root` holds ``paris_train_original`` and ``paris_eval_gt``, or ``paris_street_view/train`` and ``val``, or simply
    ``train`` and ``test``; each as files or tar shards. The set is sent on request by the authors of Context
    Encoders; there is no official validation part.

    Source: Pathak et al., Context Encoders, CVPR 2016; Doersch et al., What Makes Paris Look like Paris?, 2012.

    Args:
        root: The folder.
        split: "train" or "test".
        channels: 3 for RGB, 1 for grey.
        square: Bring the middle square to this side; None, the default, leaves images whole, for random windows.
        on_error: "skip" or "raise".
        keep: "disk" or "memory".

    Raises:
        DataError: The layout is another one.
        ConfigError: An option is not one of its choices.

    Example:
        >>> from PIL import Image
        >>> from pathlib import Path
        >>> from kdinpaint.data import ParisStreetView
        >>> Path("paris/paris_eval_gt").mkdir(parents=True)
        >>> Image.new("RGB", (936, 537)).save("paris/paris_eval_gt/001_im.png")
        >>> tuple(ParisStreetView("paris", "test")[0].shape)
        (3, 537, 936)
    """

    COUNTS: ClassVar[dict[str, int]] = {"train": 14_900, "test": 100}

    def __init__(
        self,
        root: PathLike,
        split: Literal["train", "test"] = "train",
        *,
        channels: int = 3,
        square: int | None = None,
        on_error: OnError = "skip",
        keep: Keep = "disk",
    ) -> None:
        check_choice(split, ("train", "test"), "split")
        store = find_store(Path(root), _FOLDERS[split], f"Paris StreetView's {split} images")
        super().__init__(store, channels=channels, square=square, on_error=on_error, keep=keep)
