import os
import pickle
import tarfile

import numpy as np
import pytest
import stand_ins
import torch
from PIL import Image

from kdinpaint._core.errors import ConfigError, DataError, ImageFileError, KDInpaintWarning
from kdinpaint.data import FolderStore, MemoryStore, PhotoFolder, StoredPhotos, TarStore, TrainingSamples, open_store
from kdinpaint.data.images import decode_image
from kdinpaint.data.tar_index import cache_of


@pytest.fixture
def folder(tmp_path):
    """Five pictures in two folders, a text file and a hidden file."""
    root = tmp_path / "photos"
    for number, name in enumerate(("a/1.png", "a/2.jpg", "b/c/3.png", "b/4.jpg", "5.png")):
        stand_ins.save(root, name, stand_ins.picture(number, (60 + number, 50)))
    (root / "notes.txt").write_text("x")
    (root / ".hidden.png").write_bytes(b"x")
    return root


@pytest.fixture
def shards(folder, tmp_path):
    """The same in two shards, with labels beside the images as webdataset packs them."""
    place = tmp_path / "shards"
    place.mkdir()
    names = sorted(p for p in folder.rglob("*") if p.suffix in (".png", ".jpg") and p.name[0] != ".")
    stand_ins.pack(place / "000.tar", names[:2], root=folder, extra=[("a/1.cls", b"7"), ("big.json", bytes(3000))])
    stand_ins.pack(place / "001.tar", names[2:], root=folder)
    return place


def test_all_stores_give_the_same(folder, shards):
    disk, tar = open_store(folder), open_store(shards)
    assert isinstance(disk, FolderStore)
    assert isinstance(tar, TarStore)
    names = ["5.png", "a/1.png", "a/2.jpg", "b/4.jpg", "b/c/3.png"]
    for store in (disk, tar, MemoryStore(disk), MemoryStore(tar)):
        assert [store.name(i) for i in range(len(store))] == names
        for index, name in enumerate(names):
            assert store.read(index) == (folder / name).read_bytes()
            assert name in store.place(index)
    part = MemoryStore(tar, [4, 0])
    assert [part.name(0), part.name(1)] == ["b/c/3.png", "5.png"]
    assert part.read(1) == (folder / "5.png").read_bytes()


def test_a_tar_store_can_be_pickled_while_files_are_open(shards):
    store = TarStore(sorted(shards.glob("*.tar")))
    first = store.read(0)
    again = pickle.loads(pickle.dumps(store))
    assert again._open == {}
    assert again.read(0) == first


@pytest.fixture
def settled(shards):
    """A shard that was not changed a moment ago."""
    shard = shards / "000.tar"
    os.utime(shard, ns=(10**18, 10**18))
    return shard


def test_headers_of_a_shard_are_read_once(settled, monkeypatch):
    first = TarStore([settled])
    with monkeypatch.context() as patch:
        patch.setattr(tarfile, "open", lambda *args: pytest.fail("headers are read again"))
        again = TarStore([settled])
    assert [again.name(i) for i in range(len(again))] == [first.name(i) for i in range(len(first))]
    assert [again.read(i) for i in range(len(again))] == [first.read(i) for i in range(len(first))]
    assert open_store(settled.parent).name(4) == "b/c/3.png", "kept and fresh indices together, no other files"


def test_a_stale_or_damaged_index_is_not_trusted(folder, settled):
    TarStore([settled])
    kept = cache_of(settled).read_bytes()
    stand_ins.pack(settled, [folder / "b" / "4.jpg"], root=folder)
    assert TarStore([settled]).read(0) == (folder / "b" / "4.jpg").read_bytes(), "another shard, moments ago"
    assert cache_of(settled).read_bytes() == kept, "what may still change leaves no index"
    os.utime(settled, ns=(10**18, 10**18))
    assert len(TarStore([settled])) == 1, "same time, another size"
    assert cache_of(settled).read_bytes() != kept
    for content in (b"", b"nothing", kept[: len(kept) // 2]):
        cache_of(settled).write_bytes(content)
        assert TarStore([settled]).name(0) == "b/4.jpg"
        assert len(cache_of(settled).read_bytes()) > 100, "made anew"


def test_same_size_and_another_time_is_another_shard(folder, settled):
    size = settled.stat().st_size
    TarStore([settled])
    stand_ins.pack(settled, [folder / "5.png"], root=folder)
    with settled.open("ab") as file:
        file.truncate(size)
    os.utime(settled, ns=(10**18, 10**18 + 1))
    assert len(TarStore([settled])) == 1


def test_a_folder_that_cannot_be_written_keeps_no_index(settled):
    cache_of(settled).mkdir()
    assert len(TarStore([settled])) == 2
    assert [path.name for path in settled.parent.iterdir() if path.is_file() and path.suffix != ".tar"] == []


def test_stored_photos_equal_a_photo_folder(folder):
    photos, stored = PhotoFolder(folder), StoredPhotos(open_store(folder))
    by_name = {path.relative_to(folder).as_posix(): photos[i] for i, path in enumerate(photos.paths)}
    assert len(stored) == len(photos) == 5
    for index in range(5):
        assert torch.equal(stored[index], by_name[stored.name(index)])
        assert stored.files()[index] == folder / stored.name(index)
    assert StoredPhotos(open_store(folder), channels=1)[0].shape == (1, 50, 64)


def test_the_middle_square(folder):
    photo, square = StoredPhotos(open_store(folder))[0], StoredPhotos(open_store(folder), square=50)[0]
    assert torch.equal(square, photo[:, :, 7:57])
    assert StoredPhotos(open_store(folder), square=32)[0].shape == (3, 32, 32)


def test_training_from_shards_and_memory_is_training_from_files(folder, shards):
    def masks(size, rng):
        return torch.zeros(1, *size)

    streams = [
        TrainingSamples(StoredPhotos(open_store(place), keep=keep), masks, size=32, seed=1, length=12)
        for place, keep in ((folder, "disk"), (shards, "disk"), (folder, "memory"), (shards, "memory"))
    ]
    for index in range(12):
        for other in streams[1:]:
            assert torch.equal(streams[0][index]["image"], other[index]["image"])
    loader = torch.utils.data.DataLoader(streams[1], batch_size=4, num_workers=2)
    assert torch.equal(
        torch.cat([b["image"] for b in loader]), torch.stack([streams[0][i]["image"] for i in range(12)])
    )


def test_the_fingerprint_is_of_names_in_order(folder, shards):
    prints = [StoredPhotos(open_store(place)).fingerprint for place in (folder, shards)]
    assert prints[0] == prints[1]
    assert StoredPhotos(open_store(folder), [1, 0]).fingerprint != StoredPhotos(open_store(folder), [0, 1]).fingerprint


def test_large_jpegs_are_decoded_small(tmp_path):
    image = stand_ins.picture(0, (1600, 1200))
    image.save(tmp_path / "big.jpg", quality=95)
    image.save(tmp_path / "big.png")
    jpeg, png = (tmp_path / "big.jpg").read_bytes(), (tmp_path / "big.png").read_bytes()
    assert decode_image(jpeg, name="big").shape == (3, 1200, 1600)
    assert decode_image(jpeg, name="big", enough=512).shape == (3, 600, 800)
    assert decode_image(jpeg, name="big", enough=150).shape == (3, 150, 200)
    assert decode_image(jpeg, name="big", enough=1201).shape == (3, 1200, 1600)
    assert decode_image(png, name="big", enough=512).shape == (3, 1200, 1600)
    half = np.asarray(image.resize((800, 600), Image.Resampling.BOX)).astype(float)
    got = decode_image(jpeg, name="big", enough=600).permute(1, 2, 0).numpy()
    assert np.abs(got - half).mean() < 2


def test_damaged_images_are_stood_in_for_and_named(folder):
    (folder / "a" / "1.png").write_bytes(b"nothing")
    photos = StoredPhotos(open_store(folder))
    with pytest.warns(KDInpaintWarning, match=r"1\.png cannot be read as an image .* next photograph"):
        assert torch.equal(photos[1], photos[2])
    assert torch.equal(photos[1], photos[2])  # and no second warning
    with pytest.raises(ImageFileError, match=r"1\.png"):
        StoredPhotos(open_store(folder), on_error="raise")[1]
    with pytest.raises(DataError, match="None of the 1 photographs"), pytest.warns(KDInpaintWarning):
        StoredPhotos(open_store(folder), [1])[0]


def test_a_shard_that_goes_away_while_it_is_used(shards):
    photos = StoredPhotos(open_store(shards))
    (shards / "000.tar").unlink()
    with pytest.warns(KDInpaintWarning) as said:
        assert torch.equal(photos[0], photos[2])
    assert "000.tar:5.png cannot be read: No such file" in str(said[0].message)
    assert "000.tar:a/1.png" in str(said[1].message)


def test_damaged_shards(shards, tmp_path):
    whole = (shards / "001.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[:700])
    with pytest.raises(DataError, match=r"cut\.tar cannot be read as a tar file"):
        TarStore([tmp_path / "cut.tar"])
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as tar:
        tar.add(shards / "000.tar")
    with pytest.raises(DataError, match="uncompressed"):
        TarStore([tmp_path / "packed.tar"])
    with pytest.raises(DataError, match=r"gone\.tar"):
        TarStore([tmp_path / "gone.tar"])
    store = TarStore([shards / "001.tar"])
    (shards / "001.tar").write_bytes(whole[:1000])
    with pytest.raises(ImageFileError, match=r"is truncated: \d+ of \d+ bytes"):
        store.read(0)


def test_errors(tmp_path, folder, shards):
    with pytest.raises(DataError, match="does not exist; expected a folder"):
        open_store(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no image"):
        open_store(tmp_path / "empty")
    with pytest.raises(DataError, match="There is no photograph"):
        StoredPhotos(open_store(folder), [])
    with pytest.raises(ConfigError, match="square is 0"):
        StoredPhotos(open_store(folder), square=0)
    with pytest.raises(ConfigError, match="keep is 'gpu'"):
        StoredPhotos(open_store(folder), keep="gpu")
    with pytest.raises(DataError, match="lie in a TarStore; a manifest pins image files"):
        StoredPhotos(open_store(shards)).files()
    with pytest.raises(IndexError, match="photograph 5 of 5"):
        StoredPhotos(open_store(folder))[5]
