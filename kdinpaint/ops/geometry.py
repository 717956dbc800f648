"""The geometry of a 2-D convolution: kernel size, stride, padding and dilation as pairs."""

from typing import NamedTuple

from kdinpaint._core.errors import ConfigError, ShapeError

__all__ = ["Geometry", "IntPair", "even"]

IntPair = int | tuple[int, int]
Pair = tuple[int, int]


class Geometry(NamedTuple):
    """Everything but the channels of a convolution, each as (vertical, horizontal).

    Attributes:
        kernel_size: K.
        stride: As in `torch.nn.functional.conv2d`.
        padding: As in `torch.nn.functional.conv2d`.
        dilation: As in `torch.nn.functional.conv2d`.
    """

    kernel_size: Pair
    stride: Pair
    padding: Pair
    dilation: Pair

    @classmethod
    def make(cls, kernel_size: IntPair, stride: IntPair = 1, padding: IntPair = 0, dilation: IntPair = 1) -> "Geometry":
        """From ints or pairs.

        Raises:
            ConfigError: A number is out of range.
        """
        geometry = cls(*(_pair(value) for value in (kernel_size, stride, padding, dilation)))
        if min(*geometry.kernel_size, *geometry.stride, *geometry.dilation) < 1 or min(geometry.padding) < 0:
            raise ConfigError(
                f"kernel {geometry.kernel_size}, stride {geometry.stride}, dilation {geometry.dilation}, padding "
                f"{geometry.padding}: kernel, stride and dilation must be at least 1, padding at least 0."
            )
        return geometry

    @property
    def taps(self) -> int:
        """Number of kernel positions, K^2."""
        return self.kernel_size[0] * self.kernel_size[1]

    def output_size(self, size: Pair) -> Pair:
        """Height and width of the output for an input of a height and width.

        Raises:
            ShapeError: There is no output position.
        """
        height, width = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in zip(size, *self, strict=True))
        if height < 1 or width < 1:
            raise ShapeError(
                f"an input of {tuple(size)} with kernel {self.kernel_size}, stride {self.stride}, padding "
                f"{self.padding}, dilation {self.dilation} has no output position. Use a larger input or more padding."
            )
        return height, width


def _pair(value: IntPair) -> Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def even(count: int, most: int) -> int:
    """The size of pieces of about the same size, none above `most`, that make up `count`."""
    return -(-count // -(-count // most))
