"""Small data sets with the exact layouts of the real ones, drawn and not downloaded."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from kdinpaint.data import MaskGenerator


def picture(seed, size):
    """A smooth colour image, (width, height)."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def save(folder, name, image):
    path = Path(folder) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def pack(shard, files, *, root, extra=()):
    """Files of a folder in an uncompressed tar, members named relative to `root`; extra members of bytes."""
    with tarfile.open(shard, "w") as tar:
        for file in files:
            tar.add(file, arcname=str(Path(file).relative_to(root)))
        for name, data in extra:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def celeba(root, counts=(5, 2, 3)):
    """img_align_celeba/000001.jpg, 178 x 218, and list_eval_partition.txt."""
    lines = []
    for number in range(sum(counts)):
        name = f"{number + 1:06d}.jpg"
        save(root, f"img_align_celeba/{name}", picture(number, (178, 218)))
        lines.append(f"{name} {np.searchsorted(np.cumsum(counts), number, side='right')}")
    (Path(root) / "list_eval_partition.txt").write_text("\n".join(lines) + "\n")


def places2(root, *, resolution="256", variant="", classes=("airfield", "zen_garden"), each=3, val=3):
    """data_256/a/airfield/00000001.jpg and val_256/Places365_val_00000001.jpg."""
    size = (256, 256) if resolution == "256" else (700, 512)
    for number, scene in enumerate(classes):
        for image in range(each):
            place = f"data_{resolution}{variant}/{scene[0]}/{scene}/{image + 1:08d}.jpg"
            save(root, place, picture(10 * number + image, size))
    for number in range(val):
        save(root, f"val_{resolution}/Places365_val_{number + 1:08d}.jpg", picture(100 + number, size))


def paris(root, train=4, test=2):
    """paris_train_original and paris_eval_gt, 936 x 537."""
    for number in range(train):
        save(root, f"paris_train_original/{number}.JPG", picture(number, (936, 537)))
    for number in range(test):
        save(root, f"paris_eval_gt/{number + 1:03d}_im.png", picture(50 + number, (936, 537)))


def irregular_test_masks(root, each=1):
    """mask/testing_mask_dataset/00000.png, 512 x 512, white = hole; returns (bin, near the border) by file name.

    Six bins, half of the masks keep 50 pixels away from the border.
    """
    rng, truth, number = np.random.default_rng(0), {}, 0
    for low in range(6):
        for near in (False, True):
            for _ in range(each):
                ratio = (low + rng.uniform(0.3, 0.8)) / 10
                inner = 512 if near else 412
                wanted = ratio * 512**2 / inner**2
                drawn = MaskGenerator("strokes").draw((inner, inner), rng, min(wanted, 0.93))
                hole = np.zeros((512, 512), np.uint8)
                start = (512 - inner) // 2
                hole[start : start + inner, start : start + inner] = 255 * drawn[0].numpy()
                if near:
                    hole[:3, 100:200] = 255
                name = f"{number:05d}.png"
                save(root, f"mask/testing_mask_dataset/{name}", Image.fromarray(hole))
                truth[name] = (low, near)
                number += 1
    return truth


def irregular_training_masks(root, count=4):
    """irregular_mask/disocclusion_img_mask/00000.png, white = known: thin dark strokes."""
    for number in range(count):
        image = Image.new("L", (512, 512), 255)
        draw = ImageDraw.Draw(image)
        points = np.random.default_rng(number).integers(0, 512, (6, 2))
        draw.line([tuple(map(int, point)) for point in points], fill=0, width=9 + number)
        save(root, f"irregular_mask/disocclusion_img_mask/{number:05d}.png", image)
