"""Every error and warning the library raises; each inherits the builtin a caller would catch."""

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "ImageFileError",
    "KDInpaintError",
    "KDInpaintWarning",
    "MissingDependencyError",
    "OutputError",
    "RangeError",
    "ShapeError",
    "WeightsError",
]


class KDInpaintError(Exception):
    """Base of every error that kdinpaint raises on purpose."""


class ShapeError(KDInpaintError, ValueError):
    """A tensor, image or mask has another number of dimensions, channels or pixels than expected."""


class RangeError(KDInpaintError, ValueError):
    """Values are outside the documented range, not finite, or not binary where they must be."""


class ConfigError(KDInpaintError, ValueError):
    """An option, or a combination of options, that cannot work."""


class DataError(KDInpaintError, ValueError):
    """A folder, mask set or manifest does not hold what it should."""


class ImageFileError(KDInpaintError, OSError):
    """An image file cannot be read, or is too large to be read safely."""


class CheckpointError(KDInpaintError, RuntimeError):
    """A training checkpoint is damaged, foreign, or belongs to another configuration."""


class WeightsError(KDInpaintError, RuntimeError):
    """A weights file is truncated, foreign, or does not fit the model."""


class OutputError(KDInpaintError, OSError):
    """A result cannot be written: no permission, no space, or the place is taken."""


class MissingDependencyError(KDInpaintError, ImportError):
    """An optional package is needed and not installed."""


class KDInpaintWarning(UserWarning):
    """Something works but is probably not what was meant."""
