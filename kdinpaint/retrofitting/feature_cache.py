"""Features of a teacher on disk, for a data set that does not change."""

import hashlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from kdinpaint._core.checks import check_feature
from kdinpaint._core.errors import ConfigError, KDInpaintWarning
from kdinpaint._core.files import atomic_path, make_folder
from kdinpaint.distill.teacher import FrozenTeacher
from kdinpaint.retrofitting.alignment import check_features, freeze

__all__ = ["FeatureCache"]


class FeatureCache:
    """Compute a teacher's features of each sample once, and read them from disk afterwards.

    For samples that are the same whenever they come: no random crops, flips or colours. The folder holds one file
    a sample, named by its key and by a fingerprint of the teacher's weights and structure (all that it prints), so
    that another teacher makes files of its own. A file that is damaged is computed again, with a warning. Nothing is
    deleted; when `limit` bytes are reached, further samples are computed each time.

    Features of all levels take 4 (float32) or 2 (half) bytes a number: for 256 x 256 images and the paper's widths
    of 32, 64 and 128 at strides 2, 4 and 8, 3.5 MiB a sample in float32.

    Args:
        teacher: `TimmTeacher`, `ModuleTeacher`, `FrozenTeacher`, or any module that takes images and returns a list.
        folder: Made if missing. Several processes may share it.
        dtype: Of the numbers on disk; float16 halves files and rounds features to about three digits. None keeps
            the teacher's.
        limit: Size of all files of this teacher in bytes.

    Raises:
        ConfigError: `limit` is negative.
        OutputError: The folder cannot be written.

    Example:
        >>> import tempfile, torch
        >>> from kdinpaint import AutoEncoder, FrozenTeacher
        >>> from kdinpaint.retrofitting import FeatureCache
        >>> teacher = FrozenTeacher(AutoEncoder(channels=(8, 16)), method="encode")
        >>> cache = FeatureCache(teacher, tempfile.mkdtemp())
        >>> images = torch.rand(2, 3, 32, 32)
        >>> first = cache(["photo 1", "photo 2"], images)
        >>> cache.computed, cache.read
        (2, 0)
        >>> again = cache(["photo 2"], images[1:])
        >>> torch.equal(again[0], first[0][1:]), cache.read
        (True, 1)
    """

    def __init__(
        self,
        teacher: nn.Module,
        folder: str | Path,
        *,
        dtype: torch.dtype | None = None,
        limit: int = 50 * 2**30,
    ) -> None:
        if limit < 0:
            raise ConfigError(f"limit is {limit} bytes; expected 0 or more.")
        self.teacher = freeze(teacher)
        self.dtype = dtype
        self.limit = limit
        self.fingerprint = _fingerprint(self.teacher, dtype)
        self.folder = Path(folder) / self.fingerprint
        make_folder(self.folder)
        self.read = 0
        self.computed = 0
        self._size = sum(file.stat().st_size for file in self.folder.glob("*.safetensors"))
        self._full = False

    def __call__(self, keys: Sequence[str], images: Tensor) -> list[Tensor]:
        """The teacher's features, for `Distiller(..., teacher_features=...)`.

        Args:
            keys: One a sample; whatever identifies the image as the teacher sees it, such as its path.
            images: (B, C, H, W); the teacher sees those that are not on disk.

        Returns:
            One (B, C_l, H_l, W_l) a level, on the device of `images`.

        Raises:
            ConfigError: Another number of keys than of images.
            ShapeError: The teacher gives no list of features.
            OutputError: A file cannot be written.
        """
        check_feature(images, "images")
        if isinstance(keys, str) or len(keys) != len(images):
            raise ConfigError(f"got {len(keys)} keys for {len(images)} images; expected one each.")
        # A sample that is the same under its key but of another size is another sample.
        paths = [self.path(key, images) for key in keys]
        rows: list[list[Tensor] | None] = []
        for path in paths:
            rows.append(self._load(path))
        missing = [number for number, row in enumerate(rows) if row is None]
        if missing:
            found = check_features(self.teacher(images[missing]))
            features = [f if self.dtype is None else f.to(self.dtype) for f in found]
            for place, number in enumerate(missing):
                rows[number] = [f[place].cpu() for f in features]
                self._store(paths[number], rows[number] or [])
        self.read += len(keys) - len(missing)
        self.computed += len(missing)
        full = [row for row in rows if row is not None]
        return [
            torch.stack(level).to(images.device, images.dtype, non_blocking=True) for level in zip(*full, strict=True)
        ]

    def path(self, key: str, images: Tensor) -> Path:
        """The file of a sample."""
        text = json.dumps([key, list(images.shape[1:])])
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"

    def _load(self, path: Path) -> list[Tensor] | None:
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                row = [file.get_tensor(str(level)) for level in range(len(file.keys()))]
                checksum = (file.metadata() or {}).get("sha256")
            # safetensors notices a truncated file, and no flipped bit.
            if checksum != _digest(row):
                raise ValueError("its checksum is another one")
            return row
        except (SafetensorError, OSError, ValueError) as error:
            warnings.warn(
                f"the cached features in {path} cannot be used ({error}); they are computed again.",
                KDInpaintWarning,
                stacklevel=3,
            )
            return None

    def _store(self, path: Path, row: list[Tensor]) -> None:
        row = [feature.contiguous() for feature in row]
        body = save({str(level): feature for level, feature in enumerate(row)}, metadata={"sha256": _digest(row)})
        if self._size + len(body) > self.limit:
            if not self._full:
                warnings.warn(
                    f"the feature cache in {self.folder} has reached its limit of {self.limit} bytes; further samples "
                    f"are computed each time. Raise limit=, or store float16.",
                    KDInpaintWarning,
                    stacklevel=3,
                )
            self._full = True
            return
        with atomic_path(path) as temporary:
            temporary.write_bytes(body)
        self._size += len(body)


def _fingerprint(teacher: FrozenTeacher, dtype: torch.dtype | None) -> str:
    """Of weights, structure and stored number format; the same on every device."""
    digest = hashlib.sha256(f"2\0{teacher!r}\0{teacher.module!r}\0{dtype}".encode())
    for name, value in sorted(teacher.module.state_dict().items()):
        digest.update(f"{name}\0{tuple(value.shape)}\0{value.dtype}\0".encode())
        digest.update(_bytes(value))
    return digest.hexdigest()[:16]


def _digest(row: Sequence[Tensor]) -> str:
    return hashlib.sha256(b"".join(map(_bytes, row))).hexdigest()


def _bytes(value: Tensor) -> bytes:
    return value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
