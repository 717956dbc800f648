import re

import pytest
import stand_ins
from PIL import Image

from kdinpaint._core.errors import DataError
from kdinpaint.data import IrregularMasks, MaskFolder, StoredPhotos, open_store
from kdinpaint.data.checkup import check_masks, check_photos, guess_dataset


def levels(findings):
    return [finding.level for finding in findings]


@pytest.fixture
def photos(tmp_path):
    for number in range(6):
        stand_ins.save(tmp_path, f"{number}.png", stand_ins.picture(number, (64, 48)))
    return tmp_path


def test_complete_and_sound(photos):
    check = check_photos(StoredPhotos(open_store(photos)), "train", expected=6, min_side=48, look_at=None)
    assert levels(check.findings) == ["ok", "ok"]
    assert check.findings[0].text == "train: 6 photos, as published"
    assert "all 6 decoded, none damaged" in check.findings[1].text
    assert 0 < check.milliseconds < 1000


def test_counts_damage_and_size_are_told_apart(photos):
    (photos / "1.png").write_bytes(b"no image")
    stand_ins.save(photos, "2.png", stand_ins.picture(0, (64, 20)))
    check = check_photos(StoredPhotos(open_store(photos)), "train", expected=7, min_side=48, look_at=None)
    assert levels(check.findings) == ["warning"] * 3
    assert "6 photos, 7 published" in check.findings[0].text
    assert f"1 of all 6 are damaged: {photos / '1.png'}. Fetch" in check.findings[1].text
    assert f"1 of all 6 have a side below 48 pixels: {photos / '2.png'}" in check.findings[2].text
    some = check_photos(StoredPhotos(open_store(photos)), "train", expected=None, min_side=1, look_at=3)
    assert "3 of 6 decoded" in some.findings[1].text, "0, 2 and 4"


def test_nothing_usable_is_an_error(photos):
    for path in photos.iterdir():
        path.write_bytes(b"")
    check = check_photos(StoredPhotos(open_store(photos)), "train", expected=6, min_side=1, look_at=None)
    assert levels(check.findings) == ["ok", "error"]
    assert check.milliseconds != check.milliseconds
    stand_ins.save(photos, "0.png", stand_ins.picture(0, (64, 48)))
    check = check_photos(StoredPhotos(open_store(photos)), "train", expected=6, min_side=100, look_at=None)
    assert levels(check.findings) == ["ok", "warning", "error"]


def masks_of(root, polarity="auto", look_at=None, **options):
    def opened(polarity):
        return MaskFolder(root, polarity=polarity)

    return check_masks(root, "masks", polarity=polarity, open_masks=opened, look_at=look_at, **options)


def test_masks_are_measured(tmp_path):
    stand_ins.irregular_test_masks(tmp_path)
    findings = masks_of(tmp_path)
    assert levels(findings) == ["ok"] * 3
    assert findings[1].text == "masks: white means hole, found in the files"
    lines = findings[2].text.splitlines()[1:]
    assert [line.split()[-2] for line in lines[1:-1]] == ["2"] * 6
    assert lines[1].endswith("#" * 40)
    assert [line.split()[-1] for line in (lines[0], lines[-1])] == ["0", "0"]


def test_masks_that_stop_a_run(tmp_path):
    stand_ins.irregular_test_masks(tmp_path)
    folder = tmp_path / "mask" / "testing_mask_dataset"
    stand_ins.picture(0, (512, 512)).save(folder / "00003.png")
    (folder / "00004.png").write_bytes(b"")
    findings = masks_of(tmp_path, polarity="hole")
    assert levels(findings) == ["ok", "ok", "error", "ok"]
    assert "2 of 12 are damaged or not black and white" in findings[2].text
    voted = masks_of(tmp_path)
    assert levels(voted) == ["ok", "ok", "error", "ok"], "they cannot vote, and the others do"
    assert voted[1].text == "masks: white means hole, found in the files"
    assert voted[2].text == findings[2].text
    assert str(folder / "00003.png") in voted[2].text
    assert voted[3].text == findings[3].text
    few = masks_of(tmp_path, look_at=2)
    assert "2 of 4 are damaged" in few[2].text, "those that the vote met count, too"
    for name in ("00003.png", "00004.png"):
        (folder / name).unlink()
    assert levels(masks_of(tmp_path, polarity="hole")) == ["ok", "ok", "ok"]
    for name in ("00001.png", "00002.png"):
        (folder / name).unlink()
    Image.new("L", (8, 8), 255).save(folder / "00000.png")
    findings = masks_of(tmp_path, polarity="hole")
    assert findings[-1].level == "warning"
    assert "no mask of 1-10 %, 10-20 %: these bins stay empty" in findings[-1].text


def test_a_truncated_archive_is_noticed(tmp_path, monkeypatch):
    stand_ins.irregular_test_masks(tmp_path)
    findings = masks_of(tmp_path, archive="test")
    assert levels(findings) == ["warning", "ok", "ok"]
    assert findings[0].text.startswith("masks: 12 NVIDIA test masks, 12,000 published.")
    assert masks_of(tmp_path)[0].text == "masks: 12 files"
    assert IrregularMasks.COUNTS == {"test": 12_000, "train": 55_116}
    monkeypatch.setitem(IrregularMasks.COUNTS, "test", 12)
    findings = masks_of(tmp_path, archive="test")
    assert findings[0].text == "masks: 12 NVIDIA test masks, as published"
    assert (findings[-1].level, findings[-1].text) == ("ok", "masks: 2 of each bin, as published")
    folder = next(tmp_path.rglob("00000.png")).parent
    (folder / "00002.png").write_bytes((folder / "00000.png").read_bytes())
    last = masks_of(tmp_path, archive="test")[-1]
    assert last.level == "warning"
    assert re.search(r"masks: [13] of .* %, [13] of .* %, 2 of each bin published\. Fetch", last.text)
    assert "published" not in masks_of(tmp_path, archive="test", look_at=6)[-1].text, "a sample tells nothing"


def test_masks_of_the_wrong_polarity_everywhere(tmp_path):
    stand_ins.irregular_training_masks(tmp_path)
    findings = masks_of(tmp_path, polarity="hole")
    assert findings[-1].level == "error"
    assert "no mask from 1 to 60 %: check the polarity" in findings[-1].text


def test_layouts_are_recognised(tmp_path):
    stand_ins.celeba(tmp_path / "a", counts=(1, 1, 1))
    stand_ins.paris(tmp_path / "b", train=1, test=1)
    stand_ins.places2(tmp_path / "c", each=1, val=1)
    stand_ins.places2(tmp_path / "d", each=1, val=1, resolution="large", variant="_challenge")
    stand_ins.save(tmp_path / "e", "0.png", stand_ins.picture(0, (8, 8)))
    (tmp_path / "f").mkdir()
    stand_ins.pack(tmp_path / "f" / "0.tar", [tmp_path / "e" / "0.png"], root=tmp_path)
    found = [guess_dataset(tmp_path / name) for name in "abcdef"]
    assert found == ["celeba", "paris", "places2", "places2-challenge-large", None, "shards"]
    with pytest.raises(DataError, match="does not exist or is no folder"):
        guess_dataset(tmp_path / "g")
