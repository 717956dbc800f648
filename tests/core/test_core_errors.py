"""Every error can be caught as the builtin a caller would expect, and as kdinpaint's own."""

import pickle

import pytest

from kdinpaint._core import errors

BUILTIN = {
    "CheckpointError": RuntimeError,
    "ConfigError": ValueError,
    "DataError": ValueError,
    "ImageFileError": OSError,
    "KDInpaintError": Exception,
    "MissingDependencyError": ImportError,
    "OutputError": OSError,
    "RangeError": ValueError,
    "ShapeError": ValueError,
    "WeightsError": RuntimeError,
}


def test_every_error_is_listed_here():
    assert set(BUILTIN) | {"KDInpaintWarning"} == set(errors.__all__)


@pytest.mark.parametrize("name", BUILTIN)
def test_inherits_the_builtin_and_the_base(name):
    error = getattr(errors, name)
    assert issubclass(error, BUILTIN[name])
    assert issubclass(error, errors.KDInpaintError)
    # Data-loader workers send errors through pickle.
    assert str(pickle.loads(pickle.dumps(error("what came")))) == "what came"
    assert error.__doc__


def test_warning_is_a_user_warning():
    assert issubclass(errors.KDInpaintWarning, UserWarning)
