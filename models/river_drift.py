"""River's drift detectors, without the part of SciPy that `river.drift` imports for one of them (KSWIN, not used here): 1.1 s of a worker's start, and 40 MB."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

_HEAVY = "scipy.stats"


class _Later(ModuleType):
    """Stands in for a module, and imports it when something of it is first asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__name__), name)


def river_drift() -> Any:
    """Return the module `river.drift`, all of which works: who uses KSWIN pays for SciPy then."""
    if "river.drift" not in sys.modules and _HEAVY not in sys.modules:
        sys.modules[_HEAVY] = _Later(_HEAVY)
        try:
            importlib.import_module("river.drift")
        finally:
            del sys.modules[_HEAVY]
    return importlib.import_module("river.drift")
