"""The two forms of adaptive convolution on a CPU, as parameters: in C++, where there is a compiler, and in PyTorch."""

import pytest

from kdinpaint.ops import cpp, tiled
from kdinpaint.ops.cpp import build

needs_compiler = pytest.mark.skipif(build.missing() is not None, reason=f"no compiled loops: {build.missing()}")
CPU_BACKENDS = [pytest.param("cpp", marks=needs_compiler), "torch"]
FORMS = [pytest.param(cpp, id="cpp", marks=needs_compiler), pytest.param(tiled, id="torch")]
