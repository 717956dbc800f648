"""Losses that comparators and hooks share: adversarial, perceptual, style, smoothness, divergence of Gaussians."""

from kdinpaint.losses.adversarial import discriminator_loss, generator_loss
from kdinpaint.losses.features import feature_matching_loss, gram_matrix, style_loss
from kdinpaint.losses.gaussian import gaussian_kl
from kdinpaint.losses.smoothness import total_variation_loss
from kdinpaint.losses.vgg import VGGFeatures

__all__ = [
    "VGGFeatures",
    "discriminator_loss",
    "feature_matching_loss",
    "gaussian_kl",
    "generator_loss",
    "gram_matrix",
    "style_loss",
    "total_variation_loss",
]
