"""The packages of the extra `litert`."""

from __future__ import annotations

import importlib
from typing import Any


def package(module: str, called: str) -> Any:
    """Imports a module of the extra.

    Args:
        module: string. Its dotted name.
        called: string. What to call it where it is absent.

    Raises:
        ImportError: if it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{called} is not installed: pip install 'keras-gpt[litert]'."
        ) from error
