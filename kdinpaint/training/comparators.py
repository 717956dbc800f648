"""What PC, GC and PIC minimise, in their published form; EC has a file of its own."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from kdinpaint.losses import (
    VGGFeatures,
    discriminator_loss,
    feature_matching_loss,
    gaussian_kl,
    generator_loss,
    style_loss,
    total_variation_loss,
)
from kdinpaint.models.comparators import (
    GatedConvNet,
    Gaussian,
    PartialConvNet,
    PluralisticNet,
    ResidualDiscriminator,
    SNPatchDiscriminator,
)
from kdinpaint.ops import composite, hole_ratio, resize_mask
from kdinpaint.training.adversarial import AdversarialObjective
from kdinpaint.training.objectives import Losses, Objective
from kdinpaint.training.recipes import Phase, Recipe

__all__ = ["GatedConvObjective", "PartialConvObjective", "PluralisticObjective", "weighted"]


def weighted(weights: Mapping[str, float], parts: Mapping[str, Tensor]) -> Tensor:
    """Sum of the parts times their weights."""
    return torch.stack([weights[name] * value for name, value in parts.items()]).sum()


def _logged(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in parts.items()}


class PartialConvObjective(Objective):
    """PC: L1 of known and of hole pixels, perceptual and style loss of output and composite, smoothness.

    Liu et al. 2018, Eq. 3 to 7. L1 terms are averaged over the whole image; features are those of VGG-16 after its
    first three poolings; total variation is that of the composite within the hole grown by a pixel.

    Args:
        net: The network.
        recipe: Its recipe.
        phase: "main", or "frozen_norm" in which the encoder's batch normalisation stands still.
        vgg: See `VGGFeatures`.
    """

    def __init__(self, net: PartialConvNet, recipe: Recipe, phase: Phase, *, vgg: VGGFeatures) -> None:
        super().__init__()
        self.net: PartialConvNet = net
        self.betas, self.weights, self.vgg = recipe.betas, dict(recipe.weights), vgg
        if phase.name == "frozen_norm":
            net.freeze_encoder_norm()

    def trainable(self) -> list[torch.nn.Parameter]:
        """All parameters but those that are frozen."""
        return [p for p in self.net.parameters() if p.requires_grad]

    def forward(self, batch: Mapping[str, Tensor], progress: float) -> Losses:
        """See `Objective`."""
        image, mask = batch["image"], batch["mask"]
        out = self.net(image, mask)
        pasted = composite(out, image, mask)
        error = (out - image).abs()
        target = [f.detach() for f in self.vgg(image)]
        features = [self.vgg(x) for x in (out, pasted)]
        parts = {
            "valid": (error * (1 - mask)).mean(),
            "hole": (error * mask).mean(),
            "perceptual": torch.stack([feature_matching_loss(f, target) for f in features]).sum(),
            "style": torch.stack([style_loss(f, target) for f in features]).sum(),
            "tv": total_variation_loss(pasted, mask),
        }
        return Losses(weighted(self.weights, parts), _logged(parts))


@dataclass
class _Filled:
    """What GC keeps: images in [-1, 1]."""

    real: Tensor
    fake: Tensor
    mask: Tensor


class GatedConvObjective(AdversarialObjective):
    """GC: L1 of both stages over the whole image in [-1, 1], and the hinge loss of SN-PatchGAN on the composite.

    Yu et al. 2019, section 3.2 and 3.3.

    Args:
        net: The network.
        recipe: Its recipe.
        phase: Its only phase.
        width: Of the discriminator's first layer.
    """

    calls_net = False

    def __init__(self, net: GatedConvNet, recipe: Recipe, phase: Phase, *, width: int = 64) -> None:
        critic = SNPatchDiscriminator(net.in_channels + 1, width)
        lr = phase.lr * recipe.discriminator_lr
        super().__init__(net, {"image": critic}, lr=lr, betas=recipe.betas, schedule=phase.schedule)
        self.weights = dict(recipe.weights)

    def forward(self, batch: Mapping[str, Tensor], progress: float) -> Losses:
        """See `Objective`."""
        image, mask = batch["image"], batch["mask"]
        assert isinstance(self.net, GatedConvNet)
        coarse, refined = self.net.stages(image * (1 - mask), mask)
        # Twice, for the published loss is that of images in [-1, 1].
        parts = {"coarse": 2 * (coarse - image).abs().mean(), "refined": 2 * (refined - image).abs().mean()}
        pasted = composite(refined.float(), image, mask)
        kept = _Filled(2 * image - 1, 2 * pasted - 1, mask)
        return Losses(weighted(self.weights, parts), _logged(parts), kept, progress)

    def _scores(self, image: Tensor, mask: Tensor) -> Tensor:
        scores: Tensor = self.discriminators["image"](torch.cat([image, mask], 1))[-1]
        return scores

    def discriminate(self, kept: _Filled) -> Tensor:
        """See `AdversarialObjective`."""
        real, fake = self._scores(kept.real, kept.mask), self._scores(kept.fake.detach(), kept.mask)
        return discriminator_loss(real, fake, kind="hinge")

    def deceive(self, kept: _Filled) -> tuple[Tensor, dict[str, Tensor]]:
        """See `AdversarialObjective`."""
        value = generator_loss(self._scores(kept.fake, kept.mask), kind="hinge")
        return self.weights["adversarial"] * value, {"adversarial": value.detach()}


@dataclass
class _TwoPaths:
    """What PIC keeps: images in [-1, 1]."""

    real: Tensor
    reconstructed: Tensor
    generated: Tensor


class PluralisticObjective(AdversarialObjective):
    """PIC: divergences of prior and posterior, L1 at all scales of both paths, least-squares and matching losses.

    Zheng et al. 2019, section 3.2 and 3.4. With p the posterior from what was in the hole, q the prior from what is
    visible, and n the share of known pixels: KL(N(0, s(n)^2) || p) + KL(p || q), with s(n) = 1 / (1 + exp(8 (n -
    0.8))) and p held fixed in the second, both times the number of scales. The reconstructive path answers for the
    whole image, the generative one for the visible pixels alone. The generated image is to deceive one discriminator,
    the reconstructed one to have the scores of the true one under another.

    Args:
        net: The network.
        recipe: Its recipe.
        phase: Its only phase.
        channels: Of the discriminators.
    """

    calls_net = False

    def __init__(
        self,
        net: PluralisticNet,
        recipe: Recipe,
        phase: Phase,
        *,
        channels: tuple[int, ...] = (32, 64, 128, 128, 128),
    ) -> None:
        critics = {name: ResidualDiscriminator(net.in_channels, channels) for name in ("generated", "reconstructed")}
        lr = phase.lr * recipe.discriminator_lr
        super().__init__(net, critics, lr=lr, betas=recipe.betas, schedule=phase.schedule)
        self.weights = dict(recipe.weights)

    def forward(self, batch: Mapping[str, Tensor], progress: float) -> Losses:
        """See `Objective`."""
        image, mask = batch["image"], batch["mask"]
        net = self.net
        assert isinstance(net, PluralisticNet)
        real = 2 * image - 1
        both = net.encode(torch.cat([real * (1 - mask), real * mask]))
        seen, hidden = (list(level) for level in zip(*(f.chunk(2) for f in both), strict=True))
        posterior, prior = net.infer(hidden[-1], posterior=True), net.infer(seen[-1])
        latent = torch.cat([posterior.sample(), prior.sample()])
        images = net.decode([f.repeat(2, 1, 1, 1) for f in seen], latent, mask.repeat(2, 1, 1, 1))
        whole, visible = [], []
        for scaled in images:
            size = (scaled.shape[-2], scaled.shape[-1])
            truth, known = F.adaptive_avg_pool2d(real, size), 1 - resize_mask(mask, size)
            reconstructed, generated = scaled.chunk(2)
            whole.append((reconstructed - truth).abs().mean())
            visible.append(((generated - truth) * known).abs().mean())
        divergence = pluralistic_kl(posterior, prior, 1 - hole_ratio(mask))
        parts = {"kl": len(images) * divergence, "l1": torch.stack([*whole, *visible]).sum()}
        reconstructed, generated = images[-1].float().chunk(2)
        kept = _TwoPaths(real, reconstructed, generated)
        return Losses(weighted(self.weights, parts), _logged(parts), kept, progress)

    def discriminate(self, kept: _TwoPaths) -> Tensor:
        """See `AdversarialObjective`."""
        losses = []
        for name, fake in (("generated", kept.generated), ("reconstructed", kept.reconstructed)):
            critic = self.discriminators[name]
            losses.append(discriminator_loss(critic(kept.real)[-1], critic(fake.detach())[-1], kind="least_squares"))
        return torch.stack(losses).sum()

    def deceive(self, kept: _TwoPaths) -> tuple[Tensor, dict[str, Tensor]]:
        """See `AdversarialObjective`."""
        critic = self.discriminators["reconstructed"]
        with torch.no_grad():
            target = critic(kept.real)[-1]
        parts = {
            "adversarial": generator_loss(self.discriminators["generated"](kept.generated)[-1], kind="least_squares"),
            "feature_matching": (critic(kept.reconstructed)[-1] - target).square().mean(),
        }
        return weighted(self.weights, parts), _logged(parts)


def pluralistic_kl(posterior: Gaussian, prior: Gaussian, known: Tensor) -> Tensor:
    """Both divergences of `PluralisticObjective`, averaged over elements; `known` (B,) is the share of known pixels."""
    spread = (1 / (1 + (8 * (known - 0.8)).exp())).view(-1, 1, 1, 1)
    first = gaussian_kl(torch.zeros_like(spread), spread, posterior.mean, posterior.std)
    second = gaussian_kl(posterior.mean.detach(), posterior.std.detach(), prior.mean, prior.std)
    return first.mean() + second.mean()
