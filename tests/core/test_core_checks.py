"""Argument checks: what they refuse, what their messages say, and that a compiler does not see them."""

import pytest
import torch

from kdinpaint._core.checks import (
    check_binary_mask,
    check_choice,
    check_feature,
    check_image,
    check_level_lists,
    check_mask,
    describe,
)
from kdinpaint._core.errors import ConfigError, RangeError, ShapeError

IMAGE = torch.full((2, 3, 4, 5), 0.5)
MASK = torch.ones(2, 1, 4, 5)


def test_describe():
    assert describe(torch.ones(2, 3, dtype=torch.uint8)) == "a uint8 tensor of shape (2, 3)"
    assert describe("a" * 500) == "str 'aaaaaaaaaa" + "a" * 105
    assert describe(None) == "NoneType None"


def test_what_is_right_passes():
    check_choice("a", ("a", "b"), "x")
    check_feature(IMAGE, "x", channels=3)
    check_mask(MASK, IMAGE)
    check_mask(torch.ones(2, 1, 9, 9, dtype=torch.bool), IMAGE, same_size=False)
    check_level_lists([IMAGE], [IMAGE], ("student", "teacher"))
    check_image(IMAGE)
    check_image(torch.tensor([-1e-4, 1 + 1e-4]).view(1, 1, 1, 2))
    check_image(torch.ones(0, 3, 4, 5))
    check_binary_mask(torch.tensor([0.0, 1.0, 1.0]))
    check_binary_mask(torch.tensor([True, False]))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: check_choice("c", ("a", "b"), "x"), ConfigError, "x is 'c'; expected one of 'a', 'b'"),
        (lambda: check_feature(IMAGE[0], "x"), ShapeError, r"x is a float32 tensor of shape \(3, 4, 5\); expected a"),
        (lambda: check_feature(IMAGE.long(), "x"), ShapeError, "x is a int64 tensor.*floating-point"),
        (lambda: check_feature([1], "x"), ShapeError, r"x is list \[1\]"),
        (lambda: check_feature(IMAGE, "x", channels=4), ShapeError, "x has 3 channels.*expected 4"),
        (lambda: check_mask(IMAGE), ShapeError, r"mask is .*expected \(B, 1, H, W\) with 1 = hole"),
        (lambda: check_mask(MASK[0]), ShapeError, r"mask\[None, None\]"),
        (lambda: check_mask(None, name="hole"), ShapeError, "hole is NoneType None"),
        (lambda: check_mask(MASK[:1], IMAGE), ShapeError, r"mask holds 1 masks and the batch 2 images.*expand\(2"),
        (lambda: check_mask(MASK[:1], IMAGE, same_size=False), ShapeError, "mask holds 1 masks"),
        (lambda: check_mask(MASK[..., 1:], IMAGE), ShapeError, r"mask is \(4, 4\) and the image \(4, 5\).*nearest"),
        (lambda: check_level_lists([IMAGE], [], ("a", "b")), ShapeError, "a has 1 levels and b 0"),
        (
            lambda: check_level_lists([IMAGE], [MASK], ("a", "b")),
            ShapeError,
            "level 0: a is .* and b .*same resolution",
        ),
        (lambda: check_image(IMAGE * torch.nan), RangeError, "120 values that are NaN or infinite"),
        (lambda: check_image(IMAGE * 400), RangeError, "from 200 to 200.*Divide by 255"),
        (lambda: check_image(IMAGE * 3), RangeError, r"from 1.5 to 1.5.*\(x \+ 1\) / 2"),
        (lambda: check_image(IMAGE - 1), RangeError, r"from -0.5 to -0.5.*\(x \+ 1\) / 2"),
        (lambda: check_binary_mask(MASK * 0.5), RangeError, "40 of 40 values are neither 0 nor 1.*0.5.*mask > 0.5"),
    ],
)
def test_what_is_wrong_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_nothing_is_checked_while_compiling():
    @torch.compile(fullgraph=True, backend="eager")
    def run(x):
        check_image(x)
        check_feature(x, "x", channels=99)
        check_mask(x)
        check_binary_mask(x)
        check_level_lists([x], [x[:1]], ("a", "b"))
        return x + 1

    torch.compiler.reset()
    assert torch.equal(run(IMAGE), IMAGE + 1)
