"""The phases of a comparator's recipe, one engine stage after the other."""

from typing import cast

from kdinpaint._core.checks import describe
from kdinpaint._core.errors import ConfigError
from kdinpaint.losses import VGGFeatures
from kdinpaint.models import create_model
from kdinpaint.models.comparators import Comparator, EdgeConnectNet, GatedConvNet, PartialConvNet, PluralisticNet
from kdinpaint.training.adversarial import AdversarialObjective
from kdinpaint.training.comparators import GatedConvObjective, PartialConvObjective, PluralisticObjective
from kdinpaint.training.edge_connect import EC_PERCEPTUAL, EC_STYLE, EdgeConnectObjective
from kdinpaint.training.objectives import Objective
from kdinpaint.training.recipes import Phase, Recipe
from kdinpaint.training.run import Run

__all__ = ["comparator_objective", "make_comparator", "train_comparator"]


def make_comparator(model: str, size: int, *, in_channels: int = 3) -> Comparator:
    """A fresh comparator, of as many levels as suit crops of a side (see `PartialConvNet.channels_for`).

    Args:
        model: pc, gc, ec or pic.
        size: Side of the training crops in pixels.
        in_channels: Channels of the images.
    """
    options = {"channels": PartialConvNet.channels_for(size)} if model == "pc" else {}
    return cast(Comparator, create_model(model, in_channels=in_channels, **options))


def comparator_objective(net: Comparator, recipe: Recipe, phase: Phase, *, vgg: str = "imagenet") -> Objective:
    """What a comparator minimises in a phase of its recipe.

    Args:
        net: Of the recipe.
        recipe: Loss weights, betas, learning rate of the discriminators.
        phase: One of the recipe's.
        vgg: `weights` of `VGGFeatures`, which PC and EC need.

    Raises:
        ConfigError: A network without a published objective here.
        WeightsError: VGG's weights cannot be had.
    """
    if isinstance(net, PartialConvNet):
        features = VGGFeatures(["pool1", "pool2", "pool3"], arch="vgg16", weights=vgg)
        return PartialConvObjective(net, recipe, phase, vgg=features)
    if isinstance(net, GatedConvNet):
        return GatedConvObjective(net, recipe, phase)
    if isinstance(net, EdgeConnectNet):
        features = VGGFeatures([*EC_PERCEPTUAL, *EC_STYLE], arch="vgg19", weights=vgg, normalise=False)
        return EdgeConnectObjective(net, recipe, phase, vgg=features)
    if isinstance(net, PluralisticNet):
        return PluralisticObjective(net, recipe, phase)
    raise ConfigError(f"net is {describe(net)}; expected one of the networks pc, gc, ec and pic.")


def train_comparator(run: Run, name: str, net: Comparator, recipe: Recipe, *, vgg: str = "imagenet") -> Comparator:
    """Train, or finish training, a comparator through all phases of its recipe.

    The last phase has the folder `name`; earlier ones are kept under `phases/`. Networks and discriminators go from
    phase to phase, optimisers start anew. Interrupted, the same call goes on where it stopped.

    Args:
        run: The run: its folder, data and device.
        name: Of the network in this run.
        net: The fresh network.
        recipe: How it is trained, see `RECIPES`.
        vgg: `weights` of `VGGFeatures`.

    Returns:
        The trained network, in eval mode.

    Raises:
        ConfigError: Crops whose side the network does not take in training.
        KDInpaintError: See the errors of `Stage`.
    """
    smallest = 2 * net.stride if isinstance(net, PluralisticNet) else net.stride
    if not isinstance(net, PartialConvNet) and (run.data.size % net.stride or run.data.size < smallest):
        raise ConfigError(
            f"size is {run.data.size}; {name} is trained on crops whose side is a multiple of {net.stride}, at least "
            f"{smallest}."
        )
    critics = None
    for number, phase in enumerate(recipe.phases, 1):
        objective = comparator_objective(net, recipe, phase, vgg=vgg)
        if isinstance(objective, AdversarialObjective) and critics is not None:
            objective.discriminators.load_state_dict(critics)
        folder = name if number == len(recipe.phases) else f"phases/{name}_{number}_{phase.name}"
        net = cast(Comparator, run.train(folder, objective, recipe.optim(phase)))
        if isinstance(objective, AdversarialObjective):
            critics = objective.discriminators.state_dict()
    return net.requires_grad_(True).eval()
