"""Real photographs, small, in a folder of their own."""

from pathlib import Path

import pytest
import skimage.data
from PIL import Image

INSTALLED = Path(skimage.data.__file__).parent


@pytest.fixture(scope="session")
def chelsea():
    """A real photograph as a Pillow image, 96 x 64."""
    with Image.open(INSTALLED / "chelsea.png") as image:
        return image.convert("RGB").resize((96, 64))


@pytest.fixture
def photo_folder(tmp_path):
    """Three real photographs of different sizes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, size in (("astronaut.png", (80, 80)), ("coffee.png", (120, 90)), ("rocket.jpg", (90, 130))):
        with Image.open(INSTALLED / name) as image:
            image.convert("RGB").resize(size).save(folder / name)
    return folder
