"""Pictures show what they claim."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_run import write_photos

from kdinpaint import AutoEncoder, InpaintingNet
from kdinpaint.data import ManifestPairs, MaskGenerator, PairManifest
from kdinpaint.training.figures import (
    spread_over_ratios,
    write_contact_sheet,
    write_feature_figure,
)


@pytest.fixture
def pairs(tmp_path: Path) -> ManifestPairs:
    photos = write_photos(tmp_path / "photos")
    return PairManifest.build(photos, size=32, masks=MaskGenerator(), per_bin=2, seed=0).pairs(photos)


def test_contact_sheet_keeps_known_pixels_and_shows_the_truth(pairs: ManifestPairs, tmp_path: Path) -> None:
    write_contact_sheet(tmp_path / "sheet.png", {"net": InpaintingNet(3, (4, 6))}, pairs, rows=3)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    cell, gap, header = 128, 4, 22
    assert sheet.shape == (3 * (cell + gap) + header + gap, 3 * (cell + gap) + gap, 3)
    number = spread_over_ratios(pairs, 3)[0]
    pair = pairs[number]
    tiles = [sheet[header : header + cell, gap + x * (cell + gap) :][:, :cell][::4, ::4] for x in range(3)]
    truth = (pair["image"] * 255).round().byte().permute(1, 2, 0).numpy()
    known = pair["mask"][0].numpy() == 0
    assert (tiles[2] == truth).all()
    assert (tiles[1][known] == truth[known]).all()
    assert (tiles[0][~known] == 255).all()


def test_spread_over_ratios_covers_small_and_large_holes(pairs: ManifestPairs) -> None:
    ratios = [pairs.manifest.entries[i].ratio for i in spread_over_ratios(pairs, 5)]
    assert ratios == sorted(ratios)
    assert ratios[0] > 0.1
    assert ratios[-1] > 0.5


def test_feature_figure_is_drawn_and_returns_a_gap_per_level(pairs: ManifestPairs, tmp_path: Path) -> None:
    teacher = AutoEncoder(3, (4, 6))
    students = {"plain": InpaintingNet(3, (4, 6), filler="none"), "distilled": InpaintingNet(3, (4, 6))}
    gaps = write_feature_figure(tmp_path / "features.png", teacher.encode, students, pairs, rows=2)
    assert {name: len(values) for name, values in gaps.items()} == {"plain": 2, "distilled": 2}
    assert all(np.isfinite(v) for values in gaps.values() for v in values)
    with Image.open(tmp_path / "features.png") as figure:
        assert figure.width > figure.height > 200
