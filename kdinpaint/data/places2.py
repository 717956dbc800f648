"""Places2 (Places365): standard and challenge, large and 256."""

from pathlib import Path
from typing import ClassVar, Literal

from kdinpaint._core.checks import check_choice
from kdinpaint._core.errors import DataError
from kdinpaint._core.images import PathLike
from kdinpaint.data.layouts import find_place
from kdinpaint.data.photos import OnError
from kdinpaint.data.stored_photos import Keep, StoredPhotos
from kdinpaint.data.stores import FolderStore, TarStore, open_store

__all__ = ["Places2"]

Resolution = Literal["256", "large"]
Variant = Literal["standard", "challenge"]


class Places2(StoredPhotos):
    """Places2, as unpacked, as renamed by torchvision, or still in its tar files.

    Below `root` the training images lie in ``data_256`` or ``data_large`` (with or without ``_standard`` or
    ``_challenge``), as ``a/airfield/00000001.jpg``, or in ``train_256_places365standard.tar`` and its like; those for
    validation in ``val_256``, ``val_large`` or the tar files of these names. A folder may hold tar shards instead of
    images. The 256 images are squashed to squares; large ones have a short side of 512 and more, and are
    decoded no larger than `enough`. A file list, given or found (``places365_train_standard.txt``,
    ``places365_val.txt``), decides order and choice and spares a walk through millions of files.

    Counts: 1,803,460 standard, 8,026,628 challenge, 36,500 for validation. Papers seldom say which they
    mean; this one does not.

    Source: Zhou et al., Places: A 10 Million Image Database for Scene Recognition, PAMI 2017.

    Args:
        root: The folder.
        split: "train" or "val".
        variant: "standard" or "challenge".
        resolution: "256" or "large".
        files: A text file with one path a line, relative to the images; what follows a space is ignored.
        enough: Of large images: decode at a fraction of the size while both sides keep this many pixels.
        channels: 3 for RGB, 1 for grey.
        on_error: "skip" or "raise".
        keep: "disk" or "memory" (25 GB for the standard set at 256).

    Raises:
        DataError: The layout is another one, or the list names images that a tar file does not hold.
        ConfigError: An option is not one of its choices.

    Example:
        >>> from PIL import Image
        >>> from pathlib import Path
        >>> from kdinpaint.data import Places2
        >>> Path("places/val_256").mkdir(parents=True)
        >>> Image.new("RGB", (256, 256)).save("places/val_256/Places365_val_00000001.jpg")
        >>> tuple(Places2("places", "val")[0].shape)
        (3, 256, 256)
    """

    COUNTS: ClassVar[dict[str, int]] = {"standard": 1_803_460, "challenge": 8_026_628, "val": 36_500}

    def __init__(
        self,
        root: PathLike,
        split: Literal["train", "val"] = "train",
        *,
        variant: Variant = "standard",
        resolution: Resolution = "256",
        files: PathLike | None = None,
        enough: int | None = 512,
        channels: int = 3,
        on_error: OnError = "skip",
        keep: Keep = "disk",
    ) -> None:
        check_choice(split, ("train", "val"), "split")
        check_choice(variant, ("standard", "challenge"), "variant")
        check_choice(resolution, ("256", "large"), "resolution")
        folder = Path(root)
        base = f"data_{resolution}"
        candidates = [f"{base}_{variant}", base, f"train_{resolution}_places365{variant}.tar"]
        if split == "val":
            candidates = [f"val_{resolution}", f"val_{resolution}.tar"]
        place = find_place(folder, candidates, f"Places2's {split} images ({resolution})")
        names = _listed(Path(files) if files is not None else _found_list(folder, split, variant))
        store, indices = _open(place, names)
        super().__init__(
            store,
            indices,
            channels=channels,
            enough=enough if resolution == "large" else None,
            on_error=on_error,
            keep=keep,
        )


def _found_list(root: Path, split: str, variant: str) -> Path | None:
    name = "places365_val.txt" if split == "val" else f"places365_train_{variant}.txt"
    places = (root / name, root / f"filelist_places365-{variant}" / name)
    return next((path for path in places if path.is_file()), None)


def _listed(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"the file list {path} cannot be read: {error.strerror or error}.") from error
    names = [line.split()[0].lstrip("/") for line in lines if line.strip()]
    if not names:
        raise DataError(f"the file list {path} is empty; expected one path a line.")
    return names


def _open(place: Path, names: list[str] | None) -> tuple[FolderStore | TarStore, list[int] | None]:
    packed = place.is_file() or any(place.glob("*.tar"))
    if names is None:
        return open_store(place), None
    if not packed:
        return FolderStore(place, names), None
    store = open_store(place)
    # Members keep the folder they were packed from: data_256/a/airfield/00000001.jpg.
    numbers = {name: i for i in range(len(store)) for name in _endings(store.name(i))}
    missing = [name for name in names if name not in numbers]
    if missing:
        raise DataError(
            f"{place} lacks {len(missing)} of the {len(names)} images of the file list, such as {missing[0]}; "
            f"expected all of them. Fetch the missing shards, or pass another list as files."
        )
    return store, [numbers[name] for name in names]


def _endings(name: str) -> tuple[str, str]:
    return name, name.partition("/")[2]
