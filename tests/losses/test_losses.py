"""Adversarial, feature, smoothness and Gaussian losses against independent computations."""

from typing import ClassVar

import pytest
import torch
from harness import Contract, random_mask, seeded
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from kdinpaint.errors import ConfigError, ShapeError
from kdinpaint.losses import (
    discriminator_loss,
    feature_matching_loss,
    gaussian_kl,
    generator_loss,
    gram_matrix,
    style_loss,
    total_variation_loss,
)


def noise(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64).to(dtype)


class TestDiscriminatorLoss(Contract):
    per_sample = False
    errors: ClassVar = {"kind": (ConfigError, "kind is 'wgan'; expected one of", lambda t: t.call(kind="wgan"))}

    def call(self, kind):
        return discriminator_loss(*self.inputs(), kind=kind)

    def make(self, dtype=torch.float32):
        return lambda real, fake: torch.stack(
            [discriminator_loss(real, fake, kind=k) for k in ("hinge", "nonsaturating", "least_squares")]
        )

    def inputs(self, batch=2, height=6, width=8, dtype=torch.float32, seed=0):
        return tuple(3 * noise(batch, 1, height, width, dtype=dtype, seed=seed + n) for n in range(2))

    def sizes(self, batch, height, width):
        return [(3,)]

    def oracle(self, subject, real, fake):
        r, f = real.flatten().tolist(), fake.flatten().tolist()
        hinge = sum(max(0, 1 - x) for x in r) + sum(max(0, 1 + x) for x in f)
        p, q = torch.sigmoid(real), torch.sigmoid(fake)
        entropy = -(p.log().sum() + (1 - q).log().sum())
        squares = sum((x - 1) ** 2 for x in r) + sum(x**2 for x in f)
        return torch.tensor([hinge, float(entropy), squares], dtype=torch.float64) / (2 * real.numel())


class TestGeneratorLoss(Contract):
    per_sample = False
    errors: ClassVar = {"kind": (ConfigError, "kind is 'wgan'", lambda t: generator_loss(*t.inputs(), kind="wgan"))}

    def make(self, dtype=torch.float32):
        return lambda fake: torch.stack(
            [generator_loss(fake, kind=k) for k in ("hinge", "nonsaturating", "least_squares")]
        )

    def inputs(self, batch=2, height=6, width=8, dtype=torch.float32, seed=0):
        return (3 * noise(batch, 1, height, width, dtype=dtype, seed=seed),)

    def sizes(self, batch, height, width):
        return [(3,)]

    def oracle(self, subject, fake):
        return torch.stack([-fake.mean(), -torch.sigmoid(fake).log().mean(), ((fake - 1) ** 2).mean()])


class FeatureListsContract(Contract):
    per_sample = False

    def inputs(self, batch=2, height=6, width=8, dtype=torch.float32, seed=0):
        shapes = [(batch, 3, height, width), (batch, 5, 1, 2)]
        return tuple([noise(*s, dtype=dtype, seed=seed + n) for s in shapes] for n in range(2))

    def wanted(self, preds, target):
        return preds

    def sizes(self, batch, height, width):
        return [()]


class TestFeatureMatchingLoss(FeatureListsContract):
    errors: ClassVar = {
        "levels": (
            ShapeError,
            "preds has 2 levels and target 1",
            lambda t: feature_matching_loss(t.inputs()[0], t.inputs()[1][:1]),
        )
    }

    def make(self, dtype=torch.float32):
        return feature_matching_loss

    def oracle(self, subject, preds, target):
        return sum(torch.nn.functional.l1_loss(p, t) for p, t in zip(preds, target, strict=True))


class TestStyleLoss(FeatureListsContract):
    errors: ClassVar = {
        "levels": (ShapeError, "preds has 2 levels", lambda t: style_loss(t.inputs()[0], t.inputs()[1][:1])),
    }

    def make(self, dtype=torch.float32):
        return style_loss

    def oracle(self, subject, preds, target):
        def gram(x):
            return torch.einsum("bchw,bdhw->bcd", x, x) / x[0].numel()

        return sum((gram(p) - gram(t)).abs().mean() for p, t in zip(preds, target, strict=True))


class TestGramMatrix(Contract):
    errors: ClassVar = {
        "shape": (ShapeError, "expected a floating-point tensor", lambda t: gram_matrix(torch.rand(2, 3, 4)))
    }

    def make(self, dtype=torch.float32):
        return gram_matrix

    def inputs(self, batch=2, height=6, width=8, dtype=torch.float32, seed=0):
        return (noise(batch, 3, height, width, dtype=dtype, seed=seed),)

    def sizes(self, batch, height, width):
        return [(batch, 3, 3)]

    def oracle(self, subject, x):
        return torch.stack([(x * x[:, c : c + 1]).mean((2, 3)) / 3 for c in range(3)], 1)

    def test_half_precision_does_not_overflow(self):
        assert gram_matrix(torch.full((1, 2, 300, 300), 10.0, dtype=torch.float16)).isfinite().all()


class TestTotalVariationLoss(Contract):
    per_sample = False
    smallest = 2
    errors: ClassVar = {
        "thin": (ShapeError, "at least two pixels", lambda t: total_variation_loss(torch.rand(1, 3, 1, 5))),
        "mask": (ShapeError, "mask is", lambda t: total_variation_loss(t.inputs()[0], torch.ones(2, 3, 6, 8))),
    }

    def make(self, dtype=torch.float32):
        return total_variation_loss

    def inputs(self, batch=2, height=6, width=8, dtype=torch.float32, seed=0):
        return noise(batch, 3, height, width, dtype=dtype, seed=seed), random_mask(batch, height, width, share=0.1)

    def sizes(self, batch, height, width):
        return [()]

    def oracle(self, subject, image, mask):
        batch, channels, height, width = image.shape
        near = torch.zeros_like(mask)
        for b, _, y, x in mask.nonzero().tolist():
            near[b, 0, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2] = True
        total = torch.zeros((), dtype=image.dtype)
        for dy, dx in ((1, 0), (0, 1)):
            count = batch * channels * (height - dy) * (width - dx)
            for y in range(height - dy):
                for x in range(width - dx):
                    both = (near[:, 0, y, x] & near[:, 0, y + dy, x + dx])[:, None]
                    total += ((image[:, :, y, x] - image[:, :, y + dy, x + dx]).abs() * both).sum() / count
        return total

    def test_without_mask_all_pairs_count(self):
        image, _ = self.inputs()
        full = total_variation_loss(image, torch.ones(2, 1, 6, 8))
        torch.testing.assert_close(total_variation_loss(image), full)


class TestGaussianKl(Contract):
    errors: ClassVar = {
        "shapes": (
            ShapeError,
            "expected shapes that broadcast",
            lambda t: gaussian_kl(*t.inputs()[:3], torch.rand(5, 7)),
        )
    }

    def make(self, dtype=torch.float32):
        return gaussian_kl

    def inputs(self, batch=2, height=6, width=8, dtype=torch.float32, seed=0):
        a, b, c, d = (noise(batch, 2, height, width, dtype=dtype, seed=seed + n) for n in range(4))
        return a, b.exp(), c, d.exp()

    def sizes(self, batch, height, width):
        return [(batch, 2, height, width)]

    def oracle(self, subject, a, b, c, d):
        return kl_divergence(Normal(a, b), Normal(c, d))

    def test_is_not_negative_and_zero_at_equality(self):
        a, b, c, d = self.inputs(dtype=torch.float64)
        assert (gaussian_kl(a, b, c, d) >= 0).all()
        torch.testing.assert_close(gaussian_kl(a, b, a, b), torch.zeros_like(a))


@pytest.mark.parametrize("loss", [feature_matching_loss, style_loss])
def test_no_gradient_reaches_the_target(loss):
    preds, target = ([torch.rand(1, 2, 3, 3, requires_grad=True)] for _ in range(2))
    loss(preds, target).backward()
    assert preds[0].grad is not None
    assert target[0].grad is None
