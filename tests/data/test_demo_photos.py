import sys
from types import SimpleNamespace

import pytest

from kdinpaint._core.errors import DataError, MissingDependencyError
from kdinpaint.data import PhotoFolder, demo_photos


def test_every_file_is_a_colour_photograph_large_enough():
    photos = demo_photos()
    for files in (photos.train, photos.held_out):
        folder = PhotoFolder(files, min_size=256, on_error="raise", cache_bytes=0)
        for photo in folder:
            spread = photo.float().amax(0) - photo.float().amin(0)
            assert spread.mean() > 2


def test_the_split_shares_no_scene():
    photos = demo_photos()
    train, held_out = ({path.stem for path in files} for files in (photos.train, photos.held_out))
    assert held_out == {"chelsea", "rocket"}
    assert {"astronaut", "coffee", "motorcycle_left", "motorcycle_right"} <= train
    assert not train & held_out


def test_without_scikit_image(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(MissingDependencyError, match=r"skimage is needed .*pip install 'kdinpaint\[demo\]'"):
        demo_photos()


def test_a_release_without_the_files(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "skimage", SimpleNamespace(__file__=str(tmp_path / "__init__.py")))
    with pytest.raises(DataError, match="holds 0 photographs to train on and 0 held out; expected 7 and 2"):
        demo_photos()
