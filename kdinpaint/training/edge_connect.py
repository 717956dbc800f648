"""What EC minimises in its four phases."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from kdinpaint._core.checks import check_choice
from kdinpaint._core.processes import mean
from kdinpaint.losses import (
    VGGFeatures,
    discriminator_loss,
    feature_matching_loss,
    generator_loss,
    style_loss,
)
from kdinpaint.models.comparators import EdgeConnectNet, PatchDiscriminator
from kdinpaint.models.comparators.canny import to_grey
from kdinpaint.training.adversarial import AdversarialObjective
from kdinpaint.training.comparators import weighted
from kdinpaint.training.objectives import Losses
from kdinpaint.training.recipes import Phase, Recipe

__all__ = ["EC_PERCEPTUAL", "EC_STYLE", "EdgeConnectObjective"]

EC_PERCEPTUAL = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
EC_STYLE = ("relu2_2", "relu3_4", "relu4_4", "relu5_2")


@dataclass
class _Painted:
    """What EC keeps: for each discriminator, what it sees of the truth and of the network."""

    pairs: dict[str, tuple[Tensor, Tensor]]


class EdgeConnectObjective(AdversarialObjective):
    """EC, one phase after the other: edges; completion from true edges; from predicted ones; both together.

    Nazeri et al. 2019, section 3. Edges: non-saturating loss, and feature matching over all activations of a
    discriminator that sees grey image and edges. Completion: L1 of the raw output divided by the hole ratio of the
    batch (of all processes; under `accumulate`, of each part), perceptual loss (VGG-19, relu1_1 to relu5_1), style loss
    of the hole (relu2_2, 3_4, 4_4, 5_2), images given to VGG as they are, and the non-saturating loss of a
    discriminator that sees the image. In the last phase the edge generator is trained through the completion's loss
    alone.

    Args:
        net: The network.
        recipe: Its recipe.
        phase: "edge", "completion", "predicted_edges" or "joint".
        vgg: VGG-19 with layers `EC_PERCEPTUAL` followed by `EC_STYLE`.
        width: Of the discriminators' first layers.

    Raises:
        ConfigError: Unknown phase.
    """

    calls_net = False

    def __init__(self, net: EdgeConnectNet, recipe: Recipe, phase: Phase, *, vgg: VGGFeatures, width: int = 64) -> None:
        check_choice(phase.name, ("edge", "completion", "predicted_edges", "joint"), "phase")
        critics: dict[str, nn.Module] = {
            "edges": PatchDiscriminator(2, width),
            "image": PatchDiscriminator(net.in_channels, width),
        }
        lr = phase.lr * recipe.discriminator_lr
        super().__init__(net, critics, lr=lr, betas=recipe.betas, schedule=phase.schedule)
        self.phase, self.weights, self.vgg = phase.name, dict(recipe.weights), vgg
        net.edges.requires_grad_(phase.name in ("edge", "joint"))
        net.completion.requires_grad_(phase.name != "edge")

    def forward(self, batch: Mapping[str, Tensor], progress: float) -> Losses:
        """See `Objective`."""
        image, mask = batch["image"], batch["mask"]
        net = cast(EdgeConnectNet, self.net)
        true_edges = net.known_edges(image)
        if self.phase == "edge":
            grey, found = to_grey(image), torch.sigmoid(net.edge_logits(image, mask, true_edges)).float()
            pair = torch.cat([grey, true_edges], 1), torch.cat([grey, found], 1)
            # Nothing is left of the loss without the discriminator; a zero keeps its form.
            return Losses(0 * found.sum(), {}, _Painted({"edges": pair}), progress)
        edges = true_edges
        if self.phase != "completion":
            with torch.set_grad_enabled(self.phase == "joint" and torch.is_grad_enabled()):
                found = torch.sigmoid(net.edge_logits(image, mask, true_edges))
            edges = torch.where(mask != 0, found.to(true_edges.dtype), true_edges)
        out = net.complete(image, mask, edges)
        parts = self._completion(out, image, mask)
        total = weighted(self.weights, parts)
        kept = _Painted({"image": (image, out.float())})
        return Losses(total, {name: value.detach() for name, value in parts.items()}, kept, progress)

    def _completion(self, out: Tensor, image: Tensor, mask: Tensor) -> dict[str, Tensor]:
        levels = len(EC_PERCEPTUAL)
        ratio = mean(mask.mean())  # of the whole batch, whose shares have holes of other sizes
        return {
            "l1": (out - image).abs().mean() / ratio.clamp_min(1e-3),
            "perceptual": feature_matching_loss(self.vgg(out)[:levels], self.vgg(image)[:levels]),
            "style": style_loss(self.vgg(out * mask)[levels:], self.vgg(image * mask)[levels:]),
        }

    def discriminate(self, kept: _Painted) -> Tensor:
        """See `AdversarialObjective`."""
        losses = [
            discriminator_loss(
                self.discriminators[name](real)[-1], self.discriminators[name](fake.detach())[-1], kind="nonsaturating"
            )
            for name, (real, fake) in kept.pairs.items()
        ]
        return torch.stack(losses).sum()

    def deceive(self, kept: _Painted) -> tuple[Tensor, dict[str, Tensor]]:
        """See `AdversarialObjective`."""
        parts: dict[str, Tensor] = {}
        if "edges" in kept.pairs:
            critic, (real, fake) = self.discriminators["edges"], kept.pairs["edges"]
            with torch.no_grad():
                target = critic(real)
            features = critic(fake)
            parts["edge_adversarial"] = generator_loss(features[-1], kind="nonsaturating")
            parts["feature_matching"] = feature_matching_loss(features, target)
        else:
            scores = self.discriminators["image"](kept.pairs["image"][1])[-1]
            parts["adversarial"] = generator_loss(scores, kind="nonsaturating")
        return weighted(self.weights, parts), {name: value.detach() for name, value in parts.items()}
