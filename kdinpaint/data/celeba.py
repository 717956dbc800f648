"""CelebA, aligned and cropped, with its official partition."""

from pathlib import Path
from typing import ClassVar, Literal

from kdinpaint._core.checks import check_choice
from kdinpaint._core.errors import DataError
from kdinpaint._core.images import PathLike
from kdinpaint.data.layouts import by_base_name, find_file, find_store
from kdinpaint.data.photos import OnError
from kdinpaint.data.stored_photos import Keep, StoredPhotos

__all__ = ["CelebA"]

_FOLDERS = ("img_align_celeba/img_align_celeba", "img_align_celeba", "Img/img_align_celeba", "celeba/img_align_celeba")
_PARTITIONS = tuple(
    f"{folder}list_eval_partition.{suffix}" for suffix in ("txt", "csv") for folder in ("", "Eval/", "celeba/")
)
_SPLITS = ("train", "val", "test")


class CelebA(StoredPhotos):
    """The 202,599 aligned faces of CelebA: the middle 178 x 178 of each, brought to `size`.

    `root` holds ``list_eval_partition.txt`` (also in ``Eval/``, or as csv), and the images 178 x 218 in
    ``img_align_celeba/`` (also in ``Img/``), as files or as tar shards. The partition has 162,770 images to
    train on, 19,867 for validation and 19,962 to test on. CelebA-HQ is another data set; take `PhotoFolder` for it.

    Source: Liu et al., Deep Learning Face Attributes in the Wild, ICCV 2015.

    Args:
        root: The folder.
        split: "train", "val" or "test".
        size: Side, in pixels.
        channels: 3 for RGB, 1 for grey.
        on_error: "skip" or "raise".
        keep: "disk" or "memory" (1.4 GB for everything).

    Raises:
        DataError: The layout is another one, or the partition names no image that is there.
        ConfigError: An option is not one of its choices.

    Example:
        >>> from PIL import Image
        >>> from pathlib import Path
        >>> from kdinpaint.data import CelebA
        >>> Path("faces/img_align_celeba").mkdir(parents=True)
        >>> Image.new("RGB", (178, 218)).save("faces/img_align_celeba/000001.jpg")
        >>> _ = Path("faces/list_eval_partition.txt").write_text("000001.jpg 0")
        >>> tuple(CelebA("faces")[0].shape)
        (3, 256, 256)
    """

    COUNTS: ClassVar[dict[str, int]] = {"train": 162_770, "val": 19_867, "test": 19_962}

    def __init__(
        self,
        root: PathLike,
        split: Literal["train", "val", "test"] = "train",
        *,
        size: int = 256,
        channels: int = 3,
        on_error: OnError = "skip",
        keep: Keep = "disk",
    ) -> None:
        check_choice(split, _SPLITS, "split")
        folder = Path(root)
        store = find_store(folder, (*_FOLDERS, "."), "CelebA's img_align_celeba")
        partition = _read_partition(find_file(folder, _PARTITIONS, "CelebA's partition"))
        numbers = by_base_name(store)
        wanted = [name for name, part in partition.items() if part == split]
        present = [numbers[name] for name in wanted if name in numbers]
        if not present:
            raise DataError(
                f"{folder}: none of the {len(wanted)} images that the partition has for {split!r} is among the "
                f"{len(store)} found (such as {store.name(0)}); expected names such as 000001.jpg."
            )
        super().__init__(store, present, channels=channels, square=size, on_error=on_error, keep=keep)


def _read_partition(path: Path) -> dict[str, str]:
    """Split by file name, in the order of the file: lines such as `000001.jpg 0`, or with a comma."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        fields = line.replace(",", " ").split()
        if len(fields) == 2 and fields[1] in ("0", "1", "2"):
            found[fields[0]] = _SPLITS[int(fields[1])]
    if not found:
        raise DataError(f"{path} holds no partition; expected lines such as '000001.jpg 0'. Fetch it again.")
    return found
