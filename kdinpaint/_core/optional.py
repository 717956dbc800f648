"""The one gate through which optional packages are imported."""

import importlib
from types import ModuleType

from kdinpaint._core.errors import MissingDependencyError

__all__ = ["require"]


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional module, or say which extra installs it.

    Args:
        module: Dotted module name.
        extra: The extra of kdinpaint that brings the package.

    Raises:
        MissingDependencyError: The package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingDependencyError(
            f"{package} is needed here and cannot be imported ({error}). "
            f"Install it with: pip install 'kdinpaint[{extra}]'"
        ) from error
