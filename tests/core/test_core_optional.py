"""The gate for optional packages."""

import math

import pytest

from kdinpaint._core.errors import MissingDependencyError
from kdinpaint._core.optional import require


def test_returns_the_module():
    assert require("math", extra="train") is math


def test_names_package_and_extra():
    with pytest.raises(MissingDependencyError, match=r"no_such_package is needed.*pip install 'kdinpaint\[train\]'"):
        require("no_such_package.part", extra="train")
    with pytest.raises(ImportError):
        require("no_such_package", extra="train")
