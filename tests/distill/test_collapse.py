"""Why predictors are trained by a MetaLearner: trained jointly they collapse onto what is matched already."""

import pytest
import torch
from harness import seeded
from torch import nn
from torch.nn import functional as F

from kdinpaint import CrossDistillLoss, MetaLearner
from kdinpaint.distill import effective_channels

CHANNELS = 8
IMAGES = 8
STEPS = 400


def teacher_features(images):
    """Eight channels of a fixed convolution; one is dead and three are noise that no student can know."""
    weight = torch.randn(CHANNELS, 1, 3, 3, generator=seeded(3)) / 3
    feature = F.conv2d(images, weight, padding=1)
    feature[:, 0] = 0
    feature[:, 1:4] = torch.randn(feature[:, 1:4].shape, generator=seeded(4))
    return feature


def train(method):
    """A small encoder and decoder, Adam, hole in the middle; returns the effective number of channels at the end."""
    torch.manual_seed(0)
    coarse = torch.rand(IMAGES, 1, 4, 4, generator=seeded(1))
    images = F.interpolate(coarse, size=(12, 12), mode="bilinear")
    mask = torch.zeros(IMAGES, 1, 12, 12)
    mask[..., 4:8, 4:8] = 1
    seen = torch.cat([images * (1 - mask), mask], 1)
    teacher = [teacher_features(images)]
    encoder = nn.Sequential(nn.Conv2d(2, 12, 5, padding=2), nn.LeakyReLU(0.2), nn.Conv2d(12, CHANNELS, 5, padding=2))
    decoder = nn.Conv2d(CHANNELS, 1, 3, padding=1)
    cross = CrossDistillLoss([CHANNELS], joint=method == "joint")
    trained = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.Adam(trained, lr=3e-3)
    joint = torch.optim.Adam(cross.predictors.parameters(), lr=6e-2)
    meta = MetaLearner(cross.predictors.parameters(), every=5, lr=1e-2)
    parameters = list(encoder.parameters())
    for step in range(STEPS):
        feature = encoder(seen)
        task = (decoder(feature) - images).abs().mean()
        total = task + cross([feature], teacher, mask)
        direction = torch.autograd.grad(task, parameters, retain_graph=True)
        optimizer.zero_grad()
        joint.zero_grad()
        total.backward()
        if method == "align" and meta.due(step):
            meta.step(
                parameters=parameters,
                direction=direction,
                distances=lambda: cross.distances([encoder(seen)], teacher, mask),
                importance=cross.importance(teacher, mask),
            )
        optimizer.step()
        if method == "joint":
            joint.step()
    weights = cross.importance(teacher, mask)[0].detach()
    return effective_channels(weights).item(), weights.mean(0)


def test_joint_training_collapses():
    count, weights = train("joint")
    assert count < 2
    assert weights.argmax().item() == 0, "the dead channel is matched perfectly and teaches nothing"


def test_meta_learning_keeps_channels_in_play():
    count, weights = train("align")
    assert count > CHANNELS / 2
    assert weights.max().item() > 1.2 / CHANNELS, "it has learned something"
    assert weights[0].item() < 0.8 / CHANNELS, "the dead channel has lost weight"
    assert weights[4:].mean().item() > weights[:4].mean().item(), "real channels weigh more than the others"


@pytest.mark.parametrize("method", ["uniform"])
def test_untrained_importance_stays_uniform(method):
    count, _ = train(method)
    assert count == pytest.approx(CHANNELS)
