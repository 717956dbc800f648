import pickle

import pytest
import torch

from kdinpaint._core.errors import ConfigError, DataError, ImageFileError, KDInpaintWarning
from kdinpaint.data import PhotoFolder, photos, read_image


def cut(path, share=0.6):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def test_is_a_sequence_of_photographs(photo_folder):
    folder = PhotoFolder(photo_folder)
    assert len(folder) == 3
    assert [path.name for path in folder.paths] == ["astronaut.png", "coffee.png", "rocket.jpg"]
    for photo, path in zip(folder, folder.paths, strict=True):
        assert photo.dtype == torch.uint8
        assert torch.equal(photo, read_image(path))
    assert torch.equal(folder[-1], folder[2])
    assert PhotoFolder(photo_folder, channels=1)[0].shape == (1, 80, 80)
    for index in (3, -4):
        with pytest.raises(IndexError, match="of 3"):
            folder[index]


def test_takes_a_list_of_files(photo_folder):
    files = [str(photo_folder / "rocket.jpg"), photo_folder / "coffee.png"]
    folder = PhotoFolder(files)
    assert [path.name for path in folder.paths] == ["rocket.jpg", "coffee.png"]
    with pytest.raises(DataError, match="list of photographs is empty"):
        PhotoFolder([])


def test_skip_warns_once_with_names_and_count(photo_folder, recwarn):
    for number in range(11):
        (photo_folder / f"bad{number:02d}.png").write_text("x")
    folder = PhotoFolder(photo_folder, min_size=85)
    assert [path.name for path in folder.paths] == ["coffee.png", "rocket.jpg"]
    message = str(recwarn.pop(KDInpaintWarning).message)
    assert message.startswith("12 of 14 photographs are damaged or too small and left out")
    assert message.count(".png") == 10
    assert "astronaut.png" in message
    assert "bad08.png, ..." in message
    assert not recwarn.list


def test_raise_says_which_and_why(photo_folder):
    with pytest.raises(DataError, match=r"astronaut.png is 80 x 80 pixels; expected sides of at least 81"):
        PhotoFolder(photo_folder, min_size=81, on_error="raise")
    (photo_folder / "a.png").write_text("x")
    with pytest.raises(ImageFileError, match=r"a.png cannot be read"):
        PhotoFolder(photo_folder, on_error="raise")


def test_none_usable_gives_the_first_reasons(photo_folder):
    with pytest.raises(
        DataError, match=r"None of the 3 photographs can be used. The first: .*astronaut.png is 80 x 80"
    ):
        PhotoFolder(photo_folder, min_size=500)


def test_unknown_options(photo_folder):
    with pytest.raises(ConfigError, match="on_error is 'ignore'; expected one of 'skip', 'raise'"):
        PhotoFolder(photo_folder, on_error="ignore")
    with pytest.raises(ConfigError, match="channels is 4"):
        PhotoFolder(photo_folder, channels=4)


def test_a_broken_body_is_replaced_by_the_next_photograph_and_warned_of_once(photo_folder, recwarn):
    cut(photo_folder / "rocket.jpg")
    folder = PhotoFolder(photo_folder)
    assert not recwarn.list
    for _ in range(3):
        assert torch.equal(folder[2], read_image(photo_folder / "astronaut.png"))
    assert len(recwarn.list) == 1
    assert "rocket.jpg cannot be read" in str(recwarn.list[0].message)
    assert len(folder) == 3


def test_a_broken_body_raises_if_asked(photo_folder):
    cut(photo_folder / "rocket.jpg")
    folder = PhotoFolder(photo_folder, on_error="raise")
    with pytest.raises(ImageFileError, match=r"rocket.jpg"):
        folder[2]


@pytest.mark.filterwarnings("ignore::kdinpaint._core.errors.KDInpaintWarning")
def test_all_bodies_broken(photo_folder):
    for path in photo_folder.iterdir():
        cut(path)
    with pytest.raises(DataError, match="None of the 3 photographs can be decoded"):
        PhotoFolder(photo_folder)[1]


def test_cache_decodes_once_up_to_its_limit(photo_folder, monkeypatch):
    read = []
    monkeypatch.setattr(
        photos, "read_image", lambda path, **options: read.append(path.name) or read_image(path, **options)
    )
    one = 3 * 80 * 80
    folder = PhotoFolder(photo_folder, cache_bytes=one)
    for _ in range(2):
        list(folder)
    assert read == ["astronaut.png", "coffee.png", "rocket.jpg", "coffee.png", "rocket.jpg"]
    folder[0].zero_()
    assert folder[0].any(), "writing into a photograph must not reach the cache"


def test_pickles_without_its_cache(photo_folder):
    folder = PhotoFolder(photo_folder)
    bare = len(pickle.dumps(folder))
    first = folder[0]
    state = pickle.dumps(folder)
    assert len(state) == bare
    copy = pickle.loads(state)
    assert torch.equal(copy[0], first)
    assert copy.paths == folder.paths
