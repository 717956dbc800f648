"""A student told by its teacher."""

import pytest
import torch

from kdinpaint import AutoEncoder, InpaintingNet
from kdinpaint._core.errors import ConfigError
from kdinpaint.ablation import OracleNet


@pytest.fixture
def student() -> InpaintingNet:
    torch.manual_seed(0)
    return InpaintingNet(channels=(4, 8), head_channels=4).eval()


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    mask = torch.zeros(2, 1, 19, 16)
    mask[..., 4:12, 5:13] = 1
    return torch.rand(2, 3, 19, 16), mask


def test_a_teacher_that_knows_what_the_student_does_changes_nothing(student, batch) -> None:
    image, mask = batch
    teacher = AutoEncoder(channels=(4, 8), head_channels=4)
    teacher.encode = lambda image: student.encode(image, mask)  # type: ignore[method-assign]
    torch.testing.assert_close(OracleNet(student, teacher)(image, mask), student(image, mask))
    assert torch.equal(OracleNet(student, AutoEncoder(channels=(4, 8)), [])(image, mask), student(image, mask))


def test_the_features_of_the_teacher_reach_the_decoder_in_the_hole_alone(student, batch) -> None:
    image, mask = batch
    teacher, seen = AutoEncoder(channels=(4, 8), head_channels=4), []
    student.decoder.register_forward_pre_hook(lambda _, given: seen.append([f.clone() for f in given[0]]))
    OracleNet(student, teacher, [1])(image, mask)
    ((shallow, deep),) = seen
    own, theirs = student.encode(image, mask), teacher.encode(image)
    torch.testing.assert_close(shallow, own[0])
    inside = torch.zeros(2, 1, 5, 4, dtype=torch.bool)
    inside[..., 1:3, 1:4] = True  # cells of 4 x 4 pixels that hold some of the hole
    torch.testing.assert_close(deep, torch.where(inside, theirs[1], own[1]))


@pytest.mark.parametrize(("channels", "levels"), [((4, 8), [2]), ((4, 8), [-1]), ((4, 6), None)])
def test_levels_that_do_not_fit(student, channels, levels) -> None:
    with pytest.raises(ConfigError, match="cannot be replaced"):
        OracleNet(student, AutoEncoder(channels=channels), levels)
