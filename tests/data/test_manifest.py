import base64
import dataclasses
import io
import json
import shutil
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from kdinpaint._core.errors import ConfigError, DataError, ImageFileError, KDInpaintWarning, OutputError
from kdinpaint.data import MaskFolder, MaskGenerator, PairManifest, read_image
from kdinpaint.data.windows import cut_window
from kdinpaint.ops import RATIO_BINS


def build(photos, **options):
    options = {"size": 64, "masks": MaskGenerator(), "seed": 0, **options}
    if "pairs" not in options:
        options.setdefault("per_bin", 2)
    return PairManifest.build(photos, **options)


@pytest.fixture
def mask_folder(tmp_path):
    """Mask files whose names say another bin than the one they are in."""
    folder = tmp_path / "masks"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number, ratio in enumerate([0.05, 0.15, 0.17, 0.35, 0.35, 0.35]):
        mask = MaskGenerator("strokes").draw((96, 96), rng, ratio)
        Image.fromarray(mask[0].numpy() > 0).save(folder / f"ratio_0.{9 - number}.png")
    return MaskFolder(folder)


def bin_counts(manifest, bins=RATIO_BINS):
    ratios = np.array([entry.ratio for entry in manifest.entries])
    return [int(((ratios > low) & (ratios <= high)).sum()) for low, high in pairwise(bins)]


class TestBuild:
    def test_as_many_pairs_in_every_bin(self, photo_folder):
        manifest = build(photo_folder, per_bin=3, description="small")
        assert bin_counts(manifest) == [3] * 6
        assert manifest.description == "small"
        assert build(photo_folder, pairs=18).entries == build(photo_folder, per_bin=3).entries
        assert bin_counts(build(photo_folder, bins=(0.2, 0.25, 0.3)), (0.2, 0.25, 0.3)) == [2, 2]

    def test_photographs_take_turns(self, photo_folder):
        names = [entry.image for entry in build(photo_folder, per_bin=2).entries]
        assert {name: names.count(name) for name in names} == {"astronaut.png": 4, "coffee.png": 4, "rocket.jpg": 4}

    def test_same_seed_same_list(self, photo_folder):
        assert build(photo_folder) == build(photo_folder)
        assert build(photo_folder).hash != build(photo_folder, seed=1).hash

    def test_the_first_window_is_the_centre_and_further_ones_differ(self, photo_folder):
        centres = {"astronaut.png": (0, 0, 80), "coffee.png": (0, 15, 90), "rocket.jpg": (20, 0, 90)}
        assert all(entry.window == centres[entry.image] for entry in build(photo_folder).entries)
        many = build(photo_folder, per_bin=2, windows_per_photo=4)
        assert len({(entry.image, entry.window) for entry in many.entries}) == 12
        assert {(e.image, e.window) for e in many.entries} >= set(centres.items())
        assert all(entry.window[2] >= 64 for entry in many.entries)

    def test_paths_of_a_list_are_relative_to_the_common_folder(self, photo_folder):
        (photo_folder / "sub").mkdir()
        (photo_folder / "coffee.png").rename(photo_folder / "sub" / "coffee.png")
        files = [photo_folder / "sub" / "coffee.png", photo_folder / "rocket.jpg"]
        manifest = build(files, per_bin=1)
        assert {entry.image for entry in manifest.entries} == {"sub/coffee.png", "rocket.jpg"}
        assert len(manifest.pairs(photo_folder)) == 6

    def test_mask_files_are_measured_not_named(self, photo_folder, mask_folder):
        with pytest.warns(
            KDInpaintWarning, match=r"hole ratio in \(0.2, 0.3\], \(0.4, 0.5\], \(0.5, 0.6\]: these bins"
        ):
            manifest = build(photo_folder, masks=mask_folder, per_bin=2)
        assert bin_counts(manifest) == [2, 2, 0, 2, 0, 0]
        assert len({entry.mask_sha256 for entry in manifest.entries}) == 5, "the single file of a bin comes twice"
        with pytest.warns(KDInpaintWarning, match="left out"):
            assert len(build(photo_folder, masks=mask_folder, pairs=3).entries) == 3
        allowed = [mask_folder.read(index, (64, 64)) for index in range(6)]
        pairs = manifest.pairs(photo_folder)
        assert all(
            any(torch.equal(pair["mask"], mask) for mask in allowed) for pair in map(pairs.__getitem__, range(6))
        )

    def test_photographs_too_small_are_left_out(self, photo_folder):
        with pytest.warns(KDInpaintWarning, match=r"1 of 3 photographs .*astronaut.png"):
            assert {e.image for e in build(photo_folder, size=84).entries} == {"coffee.png", "rocket.jpg"}
        with pytest.raises(DataError, match="None of the 3 photographs can be used"):
            build(photo_folder, size=200)

    def test_errors(self, photo_folder, mask_folder):
        for options in ({"per_bin": None}, {"per_bin": 1, "pairs": 6}):
            with pytest.raises(ConfigError, match="expected one of them"):
                build(photo_folder, **options)
        for options in ({"per_bin": 0}, {"pairs": 0}, {"size": 0}, {"windows_per_photo": 0}):
            with pytest.raises(ConfigError, match=f"{next(iter(options))} is 0; expected at least 1"):
                build(photo_folder, **options)
        with pytest.raises(ConfigError, match="seed is -1"):
            build(photo_folder, seed=-1)
        with pytest.raises(ConfigError, match="pairs is 7 for 6 bins; expected a multiple of 6"):
            build(photo_folder, pairs=7)
        for bins in ((0.1,), (0.2, 0.1), (0.1, 1.1), (-0.1, 0.5), (0.1, 0.1)):
            with pytest.raises(ConfigError, match=r"bins are .*expected at least two edges in \[0, 1\], rising"):
                build(photo_folder, bins=bins)
        with pytest.raises(DataError, match=r"None of the 6 masks has a hole ratio in \(0.8, 0.9\] at 64 pixels"):
            build(photo_folder, masks=mask_folder, bins=(0.8, 0.9))
        with pytest.raises(DataError, match="after 100 tries; expected bins that are wider"):
            build(photo_folder, bins=(0.3, 0.300001))
        data = (photo_folder / "rocket.jpg").read_bytes()
        (photo_folder / "rocket.jpg").write_bytes(data[: len(data) // 2])
        with pytest.raises(ImageFileError, match=r"rocket.jpg"):
            build(photo_folder)


class TestFile:
    def test_round_trip(self, photo_folder, tmp_path):
        manifest = build(photo_folder, description="Größe 64")
        manifest.save(tmp_path / "new" / "list.json")
        loaded = PairManifest.load(tmp_path / "new" / "list.json")
        assert loaded == manifest
        assert loaded.hash == manifest.hash
        content = json.loads((tmp_path / "new" / "list.json").read_text())
        assert content["version"] == 1
        assert content["hash"] == manifest.hash

    def test_hash_is_of_what_is_evaluated(self, photo_folder):
        manifest = build(photo_folder)
        assert dataclasses.replace(manifest, description="other words").hash == manifest.hash
        png = io.BytesIO()
        with Image.open(io.BytesIO(base64.b64decode(manifest.entries[0].mask))) as image:
            image.convert("L").save(png, format="PNG", compress_level=0)
        recoded = dataclasses.replace(manifest.entries[0], mask=base64.b64encode(png.getvalue()).decode())
        same = dataclasses.replace(manifest, entries=(recoded, *manifest.entries[1:]))
        assert same.hash == manifest.hash
        assert torch.equal(same.pairs(photo_folder)[0]["mask"], manifest.pairs(photo_folder)[0]["mask"])
        assert dataclasses.replace(manifest, entries=manifest.entries[1:]).hash != manifest.hash
        assert dataclasses.replace(manifest, size=65).hash != manifest.hash

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda c: c["entries"][0].update(ratio=0.5), "was changed after it was saved: its content has hash"),
            (lambda c: c["entries"].pop(), "was changed after"),
            (lambda c: c.update(version=2), "is a manifest of version 2; expected 1. Update kdinpaint"),
            (lambda c: c.pop("version"), "is not a manifest .KeyError: 'version'"),
            (lambda c: c.pop("entries"), "is damaged .KeyError: 'entries'"),
            (lambda c: c["entries"][0].pop("mask"), "is damaged .*an entry has the fields image"),
            (lambda c: c["entries"][0].update(window=[0, 0]), "is damaged .ValueError"),
            (lambda c: c["entries"][0].update(image="../secret.png"), "'../secret.png' leaves the root"),
            (lambda c: c["entries"][0].update(image="/etc/secret.png"), "leaves the root"),
            (lambda c: c["entries"].append(3), "is damaged .TypeError"),
        ],
    )
    def test_damage_is_noticed(self, photo_folder, tmp_path, change, message):
        path = tmp_path / "list.json"
        build(photo_folder, per_bin=1).save(path)
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
        with pytest.raises(DataError, match=f"list.json {message}|{message}"):
            PairManifest.load(path)

    def test_other_files(self, tmp_path):
        (tmp_path / "a.json").write_text('{"version": 1, "size"')
        (tmp_path / "b.json").write_text("[1, 2]")
        (tmp_path / "c.json").write_bytes(b"\xff\xfe\x00")
        for name in ("a.json", "b.json", "c.json", "missing.json"):
            with pytest.raises(DataError, match=f"{name} is not a manifest .*expected the JSON file"):
                PairManifest.load(tmp_path / name)

    def test_cannot_be_saved(self, photo_folder, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(OutputError, match="file"):
            build(photo_folder, per_bin=1).save(tmp_path / "file" / "list.json")


class TestPairs:
    def test_what_a_pair_holds(self, photo_folder):
        manifest = build(photo_folder)
        pairs = manifest.pairs(photo_folder)
        assert len(pairs) == 12
        for index, entry in enumerate(manifest.entries):
            pair = pairs[index]
            expected = cut_window(read_image(photo_folder / entry.image), entry.window, 64)
            assert torch.equal(pair["image"], expected)
            assert pair["mask"].shape == (1, 64, 64)
            assert float(pair["mask"].double().mean()) == pair["ratio"] == entry.ratio
        assert len({pair["name"] for pair in map(pairs.__getitem__, range(12))}) == 12
        assert manifest.pairs(photo_folder, channels=1)[0]["image"].shape == (1, 64, 64)
        with pytest.raises(IndexError, match="pair 12 of 12"):
            pairs[12]

    def test_batches(self, photo_folder):
        batch = next(iter(DataLoader(build(photo_folder).pairs(photo_folder), batch_size=4)))
        assert batch["image"].shape == (4, 3, 64, 64)
        assert batch["ratio"].shape == (4,)
        assert len(batch["name"]) == 4

    def test_another_image_is_refused(self, photo_folder):
        manifest = build(photo_folder)
        shutil.copy(photo_folder / "astronaut.png", photo_folder / "coffee.png")
        with pytest.raises(DataError, match=r"coffee.png is not the file that was frozen .*would not be the same"):
            manifest.pairs(photo_folder)
        (photo_folder / "coffee.png").unlink()
        with pytest.raises(DataError, match=r"coffee.png is in the manifest and not on disk. Pass the root"):
            manifest.pairs(photo_folder)
        (photo_folder / "coffee.png").mkdir()
        with pytest.raises(ImageFileError, match=r"coffee.png cannot be read"):
            manifest.pairs(photo_folder)

    def test_another_mask_is_refused(self, photo_folder):
        manifest = build(photo_folder)
        first, second = manifest.entries[:2]
        for mask, message in (
            (second.mask, r"mask of .* is not the one that was frozen"),
            (first.mask[:40], "mask of .* is damaged"),
            ("no base64!", "mask of .* is damaged"),
            (3, "mask of .* is damaged"),
        ):
            entries = (dataclasses.replace(first, mask=mask), *manifest.entries[1:])
            with pytest.raises(DataError, match=message):
                dataclasses.replace(manifest, entries=entries).pairs(photo_folder)
        with pytest.raises(DataError, match="frozen"):
            dataclasses.replace(manifest, size=32).pairs(photo_folder)
