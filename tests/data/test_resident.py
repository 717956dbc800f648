"""Batches made on the device: the windows of the ordinary pipeline, reproducible, whatever came before."""

import numpy as np
import pytest
import torch

from kdinpaint._core.errors import ConfigError, DataError, OutputError
from kdinpaint.data import MaskGenerator, PhotoFolder, ResidentBatches, ResidentData
from kdinpaint.data.resident import resampling_weights
from kdinpaint.data.windows import cut_window


@pytest.fixture
def data(photo_folder):
    return ResidentData.make(PhotoFolder(photo_folder), MaskGenerator(), size=32, min_window=0.5, pool=6, seed=0)


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in ("image", "mask"))


def test_a_full_disk_is_an_output_error_and_leaves_nothing(data, tmp_path, monkeypatch):
    def full(content, path):
        raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 128 vs 22")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match=r"cannot write .*data\.pt: .*unexpected pos"):
        data.save(tmp_path / "data.pt")
    assert not list(tmp_path.glob("*data.pt*"))


def test_a_batch_depends_on_seed_and_step_alone(data):
    stream = list(ResidentBatches(data, size=32, seed=3).batches(0, 5, 4))
    again = ResidentBatches(data, size=32, seed=3)
    assert same(again.batch(4, 4), stream[4])
    assert same(next(again.batches(2, 3, 4)), stream[2])
    assert not same(ResidentBatches(data, size=32, seed=4).batch(2, 4), stream[2])
    assert not same(stream[1], stream[2])


def test_values_are_what_they_should_be(data):
    batch = ResidentBatches(data, size=32, seed=0, recolor=True).batch(0, 8)
    assert batch["image"].shape == (8, 3, 32, 32)
    assert batch["mask"].shape == (8, 1, 32, 32)
    assert 0 <= float(batch["image"].min()) < float(batch["image"].max()) <= 1
    assert set(batch["mask"].unique().tolist()) == {0.0, 1.0}
    assert not ResidentBatches(data, size=32, seed=0, holes=False).batch(0, 8)["mask"].any()


def test_every_photograph_comes_once_an_epoch(data):
    stream = ResidentBatches(data, size=32, seed=0)
    order = np.concatenate([stream._photos(start, 2) for start in range(0, 12, 2)])
    assert all(sorted(epoch) == [0, 1, 2] for epoch in order.reshape(4, 3).tolist())


def test_turned_and_shifted_masks_keep_their_size(data):
    stream = ResidentBatches(data, size=32, seed=0)
    sizes = set(data.masks.flatten(1).sum(1).tolist())
    assert {int(m.sum()) for m in stream.batch(0, 16)["mask"]} <= sizes


@pytest.mark.parametrize(("start", "side"), [((3, 5), 64), ((0, 0), 100), ((10, 7), 32), ((1, 2), 47)])
def test_resampling_equals_interpolation(start, side):
    photo = torch.randint(0, 256, (3, 100, 120), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rows, columns = (
        torch.from_numpy(resampling_weights(np.array([first]), np.array([side]), 32, length))[0]
        for first, length in zip(start, (100, 120), strict=True)
    )
    found = rows @ (photo.float() / 255) @ columns.T
    torch.testing.assert_close(found, cut_window(photo, (*start, side), 32), rtol=0, atol=1e-5)


def test_photographs_are_reduced_to_what_windows_need():
    photos = [torch.zeros(3, 200, 1000, dtype=torch.uint8), torch.zeros(3, 40, 50, dtype=torch.uint8)]
    data = ResidentData.make(photos, MaskGenerator(), size=32, min_window=0.4, pool=2, seed=0)
    assert data.extents.tolist() == [[80, 120], [40, 50]]
    assert tuple(data.photos.shape) == (2, 3, 120, 120)


def test_round_trip_and_damage(data, tmp_path):
    data.save(tmp_path / "data.pt")
    back = ResidentData.load(tmp_path / "data.pt")
    assert all(torch.equal(a, b) for a, b in zip(vars(data).values(), vars(back).values(), strict=True))
    (tmp_path / "data.pt").write_bytes(b"nothing")
    with pytest.raises(DataError, match="Delete it"):
        ResidentData.load(tmp_path / "data.pt")


def test_errors(data):
    with pytest.raises(ConfigError, match="masks of that size"):
        ResidentBatches(data, size=64, seed=0)
    with pytest.raises(ConfigError, match="0 photographs"):
        ResidentData.make([], MaskGenerator(), size=32, min_window=0.5, pool=1, seed=0)
    small = torch.zeros(3, 20, 20, dtype=torch.uint8)
    with pytest.raises(DataError, match="20 x 20 pixels"):
        ResidentData.make([small], MaskGenerator(), size=32, min_window=0.5, pool=1, seed=0)
