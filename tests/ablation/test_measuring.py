"""What is measured of features, with known answers."""

import pytest
import torch

from kdinpaint.ablation.measuring import EvaluationPairs, hole_depth, mechanism
from kdinpaint.models import AutoEncoder, InpaintingNet
from kdinpaint.models.padding import pad_to_multiple
from kdinpaint.training import DistillConfig, LossConfig, StudentObjective


def boxes(*sides: int, size: int = 32) -> torch.Tensor:
    """A square hole of each side, away from the border."""
    mask = torch.zeros(len(sides), 1, size, size)
    for one, side in zip(mask, sides, strict=True):
        one[:, 2 : 2 + side, 3 : 3 + side] = 1
    return mask


def test_the_depth_of_a_hole() -> None:
    assert hole_depth(boxes(0, 1, 2, 3, 5, 12)).tolist() == [0, 1, 1, 2, 3, 6]
    stroke = torch.zeros(1, 1, 16, 16)
    stroke[..., 7:10, :] = 1
    assert hole_depth(stroke).tolist() == [2], "the border of the image is not known"
    assert hole_depth(torch.ones(1, 1, 8, 16)).tolist() == [16]
    cell = torch.rand(1, 1, 16, 16) < 0.7
    known = (~cell).nonzero()[:, 2:].float()
    slow = max(
        float((known - torch.tensor([float(y), float(x)])).abs().amax(1).min()) for y, x in cell.nonzero()[:, 2:]
    )
    assert hole_depth(cell.float()).item() == slow


@pytest.fixture(scope="module")
def found() -> dict:
    torch.manual_seed(0)
    net, teacher = InpaintingNet(3, (4, 6), head_channels=4).eval(), AutoEncoder(3, (4, 6), head_channels=4).eval()
    stage = StudentObjective(net, teacher, loss=LossConfig(), distill=DistillConfig()).eval()
    with torch.no_grad():
        for predictor in stage.cross.predictors:
            predictor.linear.weight.normal_(0, 3)
    mask = boxes(4, 6, 6, 14, 15, 16)  # 2 to 8 deep; three are in the first bin of the ratio
    mask[:, :, 0, 0] = 1
    pairs = EvaluationPairs(torch.rand(6, 3, 32, 32), mask, tuple(mask.mean((1, 2, 3)).tolist()))
    return {**mechanism(net, teacher, stage, pairs), "slices": pairs, "net": net, "teacher": teacher, "stage": stage}


def test_hole_gaps_by_depth_are_those_of_these_pairs(found: dict) -> None:
    assert found["depth"] == {"edges": [2, 4], "pairs": [1, 2, 3]}
    for place, chosen in enumerate(([0], [1, 2], [3, 4, 5])):
        alone = mechanism(found["net"], found["teacher"], None, found["slices"].take(chosen))
        for level, part in zip(found["hole_gap"], alone["hole_gap"], strict=True):
            assert level["depth"][place] == pytest.approx(part["all"], rel=1e-4)


def test_importance_by_ratio_is_that_of_these_pairs(found: dict) -> None:
    alone = mechanism(found["net"], found["teacher"], found["stage"], found["slices"].take([0, 1, 2]))
    for kind in ("cross", "self"):
        for level, part in zip(found["importance"][kind], alone["importance"][kind], strict=True):
            for key in ("effective_channels", "correlation"):
                assert level[key]["bins"][0] == pytest.approx(part[key]["all"], abs=1e-4)
    cross = found["importance"]["cross"][0]["correlation"]
    assert cross["bins"][0] != pytest.approx(cross["all"], abs=1e-4), "bins differ from the whole"


def test_images_that_the_network_pads_are_measured_on_the_cells_that_it_fills(found: dict) -> None:
    small = found["slices"].take([1, 3, 5])
    image, mask = small.image[..., :30, :30], small.mask[..., :30, :30]
    padded = [pad_to_multiple(x, 4) for x in (image, mask)]
    both = [
        mechanism(found["net"], found["teacher"], found["stage"], EvaluationPairs(*images, small.ratio))
        for images in ((image, mask), padded)
    ]
    for level, same in zip(both[0]["hole_gap"], both[1]["hole_gap"], strict=True):
        assert level["all"] == pytest.approx(same["all"], rel=1e-4)
    for level, same in zip(both[0]["importance"]["cross"], both[1]["importance"]["cross"], strict=True):
        assert level["distance"] == pytest.approx(same["distance"], rel=1e-4)
