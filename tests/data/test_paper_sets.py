"""The loaders of the paper's data sets, on stand-ins with the exact layouts."""

import shutil

import numpy as np
import pytest
import stand_ins
import torch
from PIL import Image

from kdinpaint._core.errors import ConfigError, DataError
from kdinpaint.data import CelebA, ParisStreetView, Places2


def names(photos):
    return [photos.name(index) for index in range(len(photos))]


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    root = tmp_path_factory.mktemp("celeba")
    stand_ins.celeba(root)
    return root


def test_celeba_follows_the_partition(faces):
    assert names(CelebA(faces)) == [f"{n:06d}.jpg" for n in range(1, 6)]
    assert names(CelebA(faces, "val")) == ["000006.jpg", "000007.jpg"]
    assert names(CelebA(faces, "test")) == ["000008.jpg", "000009.jpg", "000010.jpg"]
    assert sum(CelebA.COUNTS.values()) == 202_599


def test_celeba_is_the_middle_178_brought_to_256(faces):
    with Image.open(faces / "img_align_celeba" / "000008.jpg") as image:
        middle = image.crop((0, 20, 178, 198))
    assert np.array_equal(CelebA(faces, "test", size=178)[0].permute(1, 2, 0).numpy(), np.asarray(middle))
    large = CelebA(faces, "test")[0]
    assert large.shape == (3, 256, 256)
    expected = np.asarray(middle.resize((256, 256), Image.Resampling.BILINEAR)).astype(float)
    assert np.abs(large.permute(1, 2, 0).numpy() - expected).max() <= 1
    assert CelebA(faces, "test", size=64, channels=1)[0].shape == (1, 64, 64)


@pytest.mark.parametrize("layout", ["original", "kaggle", "torchvision", "shards", "memory"])
def test_celeba_in_every_layout(faces, layout, tmp_path):
    keep = "memory" if layout == "memory" else "disk"
    lines = (faces / "list_eval_partition.txt").read_text()
    if layout == "original":
        shutil.copytree(faces / "img_align_celeba", tmp_path / "Img" / "img_align_celeba")
        (tmp_path / "Eval").mkdir()
        (tmp_path / "Eval" / "list_eval_partition.txt").write_text(lines)
    elif layout == "kaggle":
        shutil.copytree(faces / "img_align_celeba", tmp_path / "img_align_celeba" / "img_align_celeba")
        comma = "image_id,partition\n" + lines.replace(" ", ",")
        (tmp_path / "list_eval_partition.csv").write_text(comma)
    elif layout == "shards":
        (tmp_path / "list_eval_partition.txt").write_text(lines)
        stand_ins.pack(tmp_path / "0.tar", sorted(faces.glob("*/*.jpg"))[:4], root=faces)
        stand_ins.pack(tmp_path / "1.tar", sorted(faces.glob("*/*.jpg"))[4:], root=faces)
    else:
        shutil.copytree(faces, tmp_path / "celeba")
    there = CelebA(tmp_path, "test", keep=keep)
    assert torch.equal(there[2], CelebA(faces, "test")[2])
    assert len(CelebA(tmp_path, "train")) == 5


def test_celeba_that_is_something_else(faces, tmp_path):
    with pytest.raises(DataError, match="holds nothing; expected CelebA's img_align_celeba at one of"):
        CelebA(tmp_path)
    shutil.copytree(faces / "img_align_celeba", tmp_path / "img_align_celeba")
    with pytest.raises(DataError, match=r"expected CelebA's partition at one of: list_eval_partition\.txt"):
        CelebA(tmp_path)
    (tmp_path / "list_eval_partition.txt").write_text("0.jpg 0\n")
    with pytest.raises(DataError, match="none of the 1 images that the partition has for 'train'"):
        CelebA(tmp_path)
    (tmp_path / "list_eval_partition.txt").write_text("<html>\n")
    with pytest.raises(DataError, match="holds no partition"):
        CelebA(tmp_path)
    with pytest.raises(ConfigError, match="split is 'all'"):
        CelebA(faces, "all")


def test_places2_walks_the_classes(tmp_path):
    stand_ins.places2(tmp_path)
    train, val = Places2(tmp_path), Places2(tmp_path, "val")
    assert names(train)[::3] == ["a/airfield/00000001.jpg", "z/zen_garden/00000001.jpg"]
    assert names(val)[0] == "Places365_val_00000001.jpg"
    assert (len(train), len(val)) == (6, 3)
    assert train[0].shape == val[0].shape == (3, 256, 256)


@pytest.mark.parametrize("variant", ["standard", "challenge"])
def test_places2_file_lists(tmp_path, variant):
    stand_ins.places2(tmp_path, variant=f"_{variant}")
    lines = "/z/zen_garden/00000002.jpg 364\n/a/airfield/00000003.jpg 0\n"
    (tmp_path / f"places365_train_{variant}.txt").write_text(lines)
    (tmp_path / "mine.txt").write_text("Places365_val_00000002.jpg\n")
    assert names(Places2(tmp_path, variant=variant)) == ["z/zen_garden/00000002.jpg", "a/airfield/00000003.jpg"]
    assert names(Places2(tmp_path, "val", files=tmp_path / "mine.txt")) == ["Places365_val_00000002.jpg"]
    other = "challenge" if variant == "standard" else "standard"
    with pytest.raises(DataError, match=f"expected Places2's train images .*data_256_{other}"):
        Places2(tmp_path, variant=other)


def test_places2_large_is_decoded_no_larger_than_needed(tmp_path):
    stand_ins.places2(tmp_path, resolution="large")
    assert Places2(tmp_path, resolution="large")[0].shape == (3, 512, 700)
    assert Places2(tmp_path, resolution="large", enough=256)[0].shape == (3, 256, 350)
    assert Places2(tmp_path, "val", resolution="large", enough=None)[0].shape == (3, 512, 700)


def test_places2_in_its_tar_files(tmp_path):
    stand_ins.places2(tmp_path / "disk")
    tars = tmp_path / "tars"
    tars.mkdir()
    root = tmp_path / "disk"
    stand_ins.pack(tars / "train_256_places365standard.tar", sorted(root.glob("data_256/*/*/*.jpg")), root=root)
    stand_ins.pack(tars / "val_256.tar", sorted(root.glob("val_256/*.jpg")), root=root)
    assert names(Places2(tars)) == [f"data_256/{name}" for name in names(Places2(root))]
    assert torch.equal(Places2(tars)[4], Places2(root)[4])
    assert torch.equal(Places2(tars, "val", keep="memory")[1], Places2(root, "val")[1])
    (tars / "places365_train_standard.txt").write_text("/z/zen_garden/00000002.jpg 364\n")
    assert torch.equal(Places2(tars)[0], Places2(root)[4])
    (tars / "places365_train_standard.txt").write_text("/z/zoo/00000002.jpg 364\n")
    with pytest.raises(DataError, match=r"lacks 1 of the 1 images of the file list, such as z/zoo"):
        Places2(tars)


def test_places2_errors(tmp_path):
    stand_ins.places2(tmp_path)
    with pytest.raises(ConfigError, match="resolution is '512'"):
        Places2(tmp_path, resolution="512")
    with pytest.raises(DataError, match="the file list"):
        Places2(tmp_path, files=tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(DataError, match="is empty; expected one path a line"):
        Places2(tmp_path, files=tmp_path / "empty.txt")
    assert (Places2.COUNTS["standard"], Places2.COUNTS["challenge"], Places2.COUNTS["val"]) == (
        1_803_460,
        8_026_628,
        36_500,
    )


@pytest.mark.parametrize("layout", ["sent", "folders"])
def test_paris(tmp_path, layout):
    stand_ins.paris(tmp_path)
    if layout == "folders":
        (tmp_path / "paris_street_view").mkdir()
        (tmp_path / "paris_train_original").rename(tmp_path / "paris_street_view" / "train")
        (tmp_path / "paris_eval_gt").rename(tmp_path / "paris_street_view" / "val")
    train, test = ParisStreetView(tmp_path), ParisStreetView(tmp_path, "test")
    assert (len(train), len(test)) == (4, 2)
    assert train[0].shape == (3, 537, 936)
    assert names(test) == ["001_im.png", "002_im.png"]
    small = ParisStreetView(tmp_path, "test", square=256)[0]
    with Image.open(test.files()[0]) as image:
        middle = image.crop((199, 0, 736, 537)).resize((256, 256), Image.Resampling.BILINEAR)
    assert np.abs(small.permute(1, 2, 0).numpy() - np.asarray(middle).astype(float)).max() <= 2
    assert ParisStreetView.COUNTS == {"train": 14_900, "test": 100}


def test_paris_errors(tmp_path):
    with pytest.raises(DataError, match="holds nothing; expected Paris StreetView's train images at one of"):
        ParisStreetView(tmp_path)
    with pytest.raises(DataError, match="does not exist or is no folder"):
        ParisStreetView(tmp_path / "none")
