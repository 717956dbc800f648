"""What attention transfer needs to know of two networks."""

from torch import nn

from kdinpaint._core.errors import ConfigError
from kdinpaint.models import InpaintingNet

__all__ = ["attention_channels"]


def attention_channels(net: InpaintingNet, teacher: nn.Module) -> int:
    """Channels of the feature that the teacher's attention looks at.

    Raises:
        ConfigError: One of the two has no attention.
    """
    channels = 0
    for name, model in (("student", net), ("teacher", teacher)):
        block = getattr(getattr(model, "decoder", None), "attention", None)
        if block is None or block.query is None:
            raise ConfigError(
                f"attention_transfer needs attention in both decoders, and the {name} has none. Build it with "
                f"attention='fuse', as InpaintingNet and AutoEncoder take it, or set attention_transfer=0."
            )
        channels = block.channels
    return channels
