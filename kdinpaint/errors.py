"""Every error and warning that kdinpaint raises, to be caught by name; see `kdinpaint.errors.KDInpaintError`."""

from kdinpaint._core.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    ImageFileError,
    KDInpaintError,
    KDInpaintWarning,
    MissingDependencyError,
    OutputError,
    RangeError,
    ShapeError,
    WeightsError,
)

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
