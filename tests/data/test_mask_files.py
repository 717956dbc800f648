import logging

import numpy as np
import pytest
import torch
from PIL import Image

from kdinpaint._core.errors import ConfigError, DataError, ImageFileError, RangeError
from kdinpaint.data import MaskFolder, MaskGenerator, polarity_vote


def fill(folder, ratios, *, white="hole", mode="L"):
    """Mask files of given hole ratios; returns the masks, 1 = hole."""
    folder.mkdir(exist_ok=True)
    rng, masks = np.random.default_rng(0), []
    for number, ratio in enumerate(ratios):
        mask = MaskGenerator("strokes").draw((64, 64), rng, ratio)
        white_where = mask if white == "hole" else 1 - mask
        image = Image.fromarray((white_where[0] * 255).byte().numpy()).convert(mode)
        image.save(folder / f"{number:03d}.png")
        masks.append(mask)
    return masks


@pytest.mark.parametrize("white", ["hole", "known"])
@pytest.mark.parametrize("polarity", ["auto", "explicit"])
@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_either_polarity_reads_as_hole(tmp_path, white, polarity, mode):
    masks = fill(tmp_path / "m", [0.05, 0.2, 0.34, 0.5], white=white, mode=mode)
    folder = MaskFolder(tmp_path / "m", polarity="auto" if polarity == "auto" else white)
    assert folder.polarity == white
    assert len(folder) == len(folder.paths) == 4
    for index, mask in enumerate(masks):
        assert torch.equal(folder.read(index), mask)
        assert folder.read(index).dtype == torch.float32


def test_the_decision_is_logged(tmp_path, caplog):
    fill(tmp_path / "m", [0.1, 0.2], white="known")
    with caplog.at_level(logging.INFO, logger="kdinpaint"):
        MaskFolder(tmp_path / "m")
    assert "white means known, say 2 of 2 masks (median white share" in caplog.text


def test_one_in_five_may_disagree_and_no_more(tmp_path):
    fill(tmp_path / "m", [0.1, 0.1, 0.1, 0.1, 0.9])
    assert MaskFolder(tmp_path / "m").polarity == "hole"
    fill(tmp_path / "n", [0.1, 0.1, 0.1, 0.9])
    with pytest.raises(DataError, match=r"White covers 10% to 90% of the 4 masks looked at \(median 10%\); 3 of them"):
        MaskFolder(tmp_path / "n")


def test_folders_that_disagree_are_refused_even_when_one_is_small(tmp_path):
    """82 % of the NVIDIA masks under one root are training masks, and 80 % would do."""
    for ratios, white, name in (([0.1] * 40, "known", "train"), ([0.2] * 4, "hole", "train/inner")):
        fill(tmp_path / name, ratios, white=white)
    with pytest.raises(DataError, match=r"folders disagree .* hole in .*inner \(4 of 4 votes\), known in .*train \(40"):
        MaskFolder(tmp_path)
    assert MaskFolder(tmp_path, polarity="known").polarity == "known"
    assert MaskFolder(tmp_path / "train" / "inner").polarity == "hole"


def test_folders_of_one_or_two_masks_do_not_outvote_the_rest(tmp_path):
    for number, ratio in enumerate([0.1, 0.2, 0.3, 0.9, 0.2, 0.1]):
        fill(tmp_path / f"scene{number}", [ratio])
    assert MaskFolder(tmp_path).polarity == "hole"


def test_undecided_is_refused_with_the_way_out(tmp_path):
    fill(tmp_path / "m", [0.5, 0.55, 0.6])
    with pytest.raises(DataError, match=r"0 of them say hole, 0 known. .* pass polarity='hole' or 'known'"):
        MaskFolder(tmp_path / "m")
    assert MaskFolder(tmp_path / "m", polarity="known").polarity == "known"


def test_auto_looks_at_two_hundred_files_from_all_over(tmp_path, monkeypatch):
    fill(tmp_path / "m", [0.1])
    data = (tmp_path / "m" / "000.png").read_bytes()
    for number in range(1, 401):
        (tmp_path / "m" / f"{number:03d}.png").write_bytes(data)
    seen = []
    white = polarity_vote.read_white
    monkeypatch.setattr(polarity_vote, "read_white", lambda path: seen.append(int(path.stem)) or white(path))
    MaskFolder(tmp_path / "m")
    assert len(set(seen)) == 200
    assert (seen[0], seen[-1]) == (0, 400)
    assert max(np.diff(seen)) <= 3


def test_read_resizes_by_nearest(tmp_path):
    (mask,) = fill(tmp_path / "m", [0.3])
    folder = MaskFolder(tmp_path / "m", polarity="hole")
    small = folder.read(0, (32, 16))
    assert small.shape == (1, 32, 16)
    assert set(small.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(folder.read(0, (128, 128)), mask.repeat_interleave(2, 1).repeat_interleave(2, 2))
    assert torch.equal(folder.read(0, (64, 64)), mask)


def test_can_be_called_like_a_generator(tmp_path):
    masks = fill(tmp_path / "m", [0.1, 0.2, 0.3])
    folder, rng = MaskFolder(tmp_path / "m"), np.random.default_rng(0)
    drawn = {round(float(folder((64, 64), rng).mean()), 2) for _ in range(30)}
    assert drawn == {round(float(mask.mean()), 2) for mask in masks}


def test_grey_files_are_refused(tmp_path, chelsea):
    (tmp_path / "m").mkdir()
    chelsea.save(tmp_path / "m" / "photo.png")
    with pytest.raises(RangeError, match=r"photo.png is not binary: \d+% of its pixels are neither black nor white"):
        MaskFolder(tmp_path / "m")
    with pytest.raises(RangeError, match="not binary"):
        MaskFolder(tmp_path / "m", polarity="hole").read(0)


def test_soft_edges_are_thresholded(tmp_path):
    values = np.zeros((64, 64), np.uint8)
    values[:32] = 255
    values[32], values[31] = 100, 150
    Image.fromarray(values).save(tmp_path / "edge.png")
    mask = MaskFolder(tmp_path, polarity="hole").read(0)
    assert torch.equal(mask[0, :, 0].nonzero()[:, 0], torch.arange(32))


def test_errors(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        MaskFolder(tmp_path / "m")
    with pytest.raises(ConfigError, match="polarity is 'white'; expected one of 'auto', 'hole', 'known'"):
        MaskFolder(tmp_path, polarity="white")
    (tmp_path / "a.png").write_text("x")
    with pytest.raises(ImageFileError, match=r"a.png"):
        MaskFolder(tmp_path)
    with pytest.raises(IndexError):
        MaskFolder(tmp_path, polarity="hole").read(1)
