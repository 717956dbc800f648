"""Features of a VGG network, by which perceptual and style losses compare images."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from kdinpaint._core.checks import check_choice, check_feature
from kdinpaint._core.errors import ConfigError, ShapeError, WeightsError

__all__ = ["VGGFeatures", "VGGWeights"]

Arch = Literal["vgg16", "vgg19"]
VGGWeights = str | Path

# Convolutions in each of the five blocks.
_BLOCKS: Mapping[str, tuple[int, ...]] = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class VGGFeatures(nn.Module):
    """Features of VGG-16 or VGG-19 (Simonyan and Zisserman 2015) at named layers, frozen.

    The network lives outside the module tree, as in `FrozenTeacher`: it is in no state dict, no optimiser, and
    always in eval mode; gradients flow through it to the image. Weights come through torchvision, which downloads
    them once. Where they cannot be had this says so and stops; nothing takes their place unasked.

    Args:
        layers: Such as "relu2_2" (block and number of the activation) or "pool3", in any order.
        arch: "vgg16" or "vgg19".
        weights: "imagenet", torchvision's IMAGENET1K_V1; a path to the file that torchvision offers (a state dict);
            or "random", fixed random numbers for tests and dry runs, with which the losses mean little.
        normalise: Subtract ImageNet's mean and divide by its deviation first.

    Shape:
        (B, 3, H, W) or (B, 1, H, W) in [0, 1] -> one (B, C, h, w) a layer; sides of at least 2^pools pixels

    Raises:
        ConfigError: A layer that there is not, or no layers.
        WeightsError: Weights cannot be downloaded or read.
        ShapeError: Neither one nor three channels.

    Example:
        >>> import torch
        >>> from kdinpaint.losses import VGGFeatures
        >>> vgg = VGGFeatures(["pool1", "relu2_1"], weights="random")
        >>> [tuple(f.shape) for f in vgg(torch.rand(1, 3, 32, 32))]
        [(1, 64, 16, 16), (1, 128, 16, 16)]
    """

    def __init__(
        self,
        layers: Sequence[str],
        *,
        arch: Arch = "vgg16",
        weights: VGGWeights = "imagenet",
        normalise: bool = True,
    ) -> None:
        super().__init__()
        check_choice(arch, get_args(Arch), "arch")
        names = _layer_names(arch)
        unknown = sorted(set(layers) - set(names))
        if unknown or not layers:
            raise ConfigError(f"layers is {list(layers)}; expected some of {', '.join(n for n in names if n)}.")
        self.layers, self.arch, self.normalise = tuple(layers), arch, normalise
        self._places = {names.index(name): name for name in layers}
        network = _network(arch, weights)[: max(self._places) + 1]
        # Straight into __dict__, past nn.Module.__setattr__, which would register it as a child.
        self.__dict__["_network"] = network.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features of an image, in the order of `layers`."""
        check_feature(image, "image")
        if image.shape[1] not in (1, 3):
            raise ShapeError(f"image has {image.shape[1]} channels; VGG takes 3, or 1 which is repeated.")
        x = image.expand(-1, 3, -1, -1)
        if self.normalise:
            x = (x - x.new_tensor(_MEAN)[:, None, None]) / x.new_tensor(_STD)[:, None, None]
        found: dict[str, Tensor] = {}
        network: nn.Sequential = self.__dict__["_network"]
        for number, layer in enumerate(network):
            x = layer(x)
            if number in self._places:
                found[self._places[number]] = x
        return [found[name] for name in self.layers]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "VGGFeatures":
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.__dict__["_network"]._apply(fn, recurse)
        return self

    def extra_repr(self) -> str:
        """Architecture and layers."""
        return f"{self.arch}, {', '.join(self.layers)}"


def _layer_names(arch: str) -> list[str]:
    """Name of each layer of torchvision's `features`; convolutions have none."""
    names = []
    for block, count in enumerate(_BLOCKS[arch], 1):
        for number in range(1, count + 1):
            names += ["", f"relu{block}_{number}"]
        names.append(f"pool{block}")
    return names


def _network(arch: Arch, weights: VGGWeights) -> nn.Sequential:
    """The convolutional part, with its weights and without in-place activations."""
    from torchvision import models  # slow to import, and only needed here

    build = {"vgg16": models.vgg16, "vgg19": models.vgg19}[arch]
    if weights == "random":
        draw = torch.Generator().manual_seed(0)  # the same numbers every time
        with torch.device("meta"):
            features: nn.Sequential = build().features
        features = features.to_empty(device="cpu")
        for layer in features:
            if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=draw)
                nn.init.zeros_(layer.bias)
    else:
        state = _state(arch, weights)
        with torch.device("meta"):
            features = build().features
        wanted = {f"features.{name}": name for name in features.state_dict()}
        try:
            features.load_state_dict({short: state[long] for long, short in wanted.items()}, assign=True)
        except (KeyError, RuntimeError) as error:
            raise WeightsError(f"{weights} does not hold the weights of {arch} ({error}).") from error
    for layer in features:
        if isinstance(layer, nn.ReLU):
            layer.inplace = False  # a tapped activation must not be overwritten
    return features


def _state(arch: Arch, weights: VGGWeights) -> Mapping[str, Tensor]:
    from torchvision import models

    entry = {"vgg16": models.VGG16_Weights, "vgg19": models.VGG19_Weights}[arch].IMAGENET1K_V1
    try:
        if weights == "imagenet":
            downloaded: Mapping[str, Tensor] = entry.get_state_dict(progress=True, check_hash=True)
            return downloaded
        loaded: Mapping[str, Tensor] = torch.load(weights, map_location="cpu", weights_only=True)
        return loaded
    except Exception as error:  # downloads and archives fail in many ways
        raise WeightsError(
            f"the weights of {arch} cannot be had from {weights!r} ({type(error).__name__}: {error}). Download "
            f"{entry.url} where there is a network and pass its path as weights=, or put it into "
            f"{torch.hub.get_dir()}/checkpoints. For a dry run without meaning, weights='random'."
        ) from error
