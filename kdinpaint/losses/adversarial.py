"""What a discriminator and a generator minimise, in the three forms that the field uses."""

from typing import Literal, get_args

from torch import Tensor
from torch.nn import functional as F

from kdinpaint._core.checks import check_choice

__all__ = ["GanKind", "discriminator_loss", "generator_loss"]

GanKind = Literal["hinge", "nonsaturating", "least_squares"]


def discriminator_loss(real: Tensor, fake: Tensor, *, kind: GanKind) -> Tensor:
    """What a discriminator minimises, half of it for each kind of image.

    With r and f the scores of real and generated images: "hinge", max(0, 1 - r) and max(0, 1 + f); "nonsaturating",
    -log sigmoid(r) and -log(1 - sigmoid(f)) (Goodfellow et al. 2014); "least_squares", (r - 1)^2 and f^2 (Mao et
    al. 2017). Each is averaged over all scores, and the two are averaged.

    Args:
        real: Scores of real images, any shape; logits, without a sigmoid.
        fake: Scores of generated images, any shape. Detach the images, so that the generator gets no gradient.
        kind: "hinge", "nonsaturating" or "least_squares".

    Returns:
        A scalar.

    Raises:
        ConfigError: Unknown kind.

    Example:
        >>> import torch
        >>> from kdinpaint.losses import discriminator_loss
        >>> discriminator_loss(torch.tensor([1.0]), torch.tensor([0.0]), kind="hinge")
        tensor(0.5000)
    """
    check_choice(kind, get_args(GanKind), "kind")
    if kind == "hinge":
        return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
    if kind == "nonsaturating":
        return 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())
    return 0.5 * ((real - 1).square().mean() + fake.square().mean())


def generator_loss(fake: Tensor, *, kind: GanKind) -> Tensor:
    """What a generator minimises against the discriminator of the same kind.

    "hinge": -f; "nonsaturating": -log sigmoid(f); "least_squares": (f - 1)^2; averaged over all scores f.

    Args:
        fake: Scores of generated images, any shape; logits, without a sigmoid.
        kind: As in `discriminator_loss`.

    Returns:
        A scalar.

    Raises:
        ConfigError: Unknown kind.

    Example:
        >>> import torch
        >>> from kdinpaint.losses import generator_loss
        >>> generator_loss(torch.tensor([0.5, 1.5]), kind="hinge")
        tensor(-1.)
    """
    check_choice(kind, get_args(GanKind), "kind")
    if kind == "hinge":
        return -fake.mean()
    if kind == "nonsaturating":
        return F.softplus(-fake).mean()
    return (fake - 1).square().mean()
