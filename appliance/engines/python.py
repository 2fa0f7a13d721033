"""Models that are Python code: `module:callable` on a batch of arrays.

The callable gets `dict[str, ndarray]`, each array with the batch as its leading dimension, and
returns the same for its outputs. A class is instantiated once, with the version's directory as
its argument if it takes one; its instances are called. If it has a `close()`, that is called at
the end.

The arrays are the callable's own. With an attribute `keeps_inputs = False` it promises to change
none and to use none after it has returned; a row that is alone in its batch is then not copied.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from appliance.engines.base import Arrays
from appliance.errors import EngineError
from appliance.models.plans import Signature


class PythonEngine:
    """A callable found in a version's directory, or in an installed module."""

    def __init__(self, directory: Path, target: str) -> None:
        """Import the module and find or make the callable.

        Args:
            target: `module:callable`; either may be dotted.

        Raises:
            EngineError: There is no such module or callable.
            Exception: Whatever the model's own code raises.
        """
        self.signature = Signature()
        module_name, _, name = target.partition(":")
        module = _import(directory, module_name)
        found: Any = module
        for part in name.split("."):
            if not hasattr(found, part):
                raise EngineError(f"{target}: {module.__file__} has no {name!r}")
            found = getattr(found, part)
        if inspect.isclass(found):
            make = cast("Callable[..., object]", found)
            found = make(directory) if _takes_argument(make) else make()
        if not callable(found):
            raise EngineError(
                f"{target}: expected a function, or a class whose instances can be called; "
                f"came {type(found).__name__}"
            )
        self.keeps_inputs: bool = getattr(found, "keeps_inputs", True)
        self._call = found

    def run(self, inputs: dict[str, NDArray[Any]]) -> Arrays:
        """Call the model once.

        Raises:
            EngineError: It returned something else than arrays by name.
        """
        returned = self._call(inputs)
        if not isinstance(returned, Mapping):
            raise EngineError(
                f"expected a dict of arrays by output name; came {type(returned).__name__}"
            )
        arrays = cast("Mapping[object, object]", returned)
        for name, array in arrays.items():
            if not isinstance(name, str) or not isinstance(array, np.ndarray):
                raise EngineError(
                    f"output {name!r}: expected a numpy array; came {type(array).__name__}"
                )
        return cast("Arrays", arrays)

    def close(self) -> None:
        """Call the model's own `close()`, if it has one."""
        close = getattr(self._call, "close", None)
        if callable(close):
            close()


def _import(directory: Path, name: str) -> ModuleType:
    """Import from the version's directory if the module is there, else an installed one.

    The directory becomes a package of its own, so that two models may both have a `policy.py`,
    and `from . import helpers` finds what lies beside it.
    """
    package_name = "appliance_model_" + re.sub(r"\W", "_", str(directory))
    package = ModuleType(package_name)
    package.__path__ = [str(directory)]
    sys.modules[package_name] = package
    local = f"{package_name}.{name}"
    try:
        if importlib.util.find_spec(local) is not None:
            return importlib.import_module(local)
    except ModuleNotFoundError as error:
        if not f"{local}.".startswith(f"{error.name}."):
            raise  # the model's own import of something that is not there
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        raise EngineError(f"no module {name!r}, neither in {directory} nor installed")
    return importlib.import_module(name)


def _takes_argument(cls: Callable[..., object]) -> bool:
    """Whether a class can be instantiated with one positional argument."""
    try:
        inspect.signature(cls).bind(Path())
    except TypeError:
        return False
    except ValueError:  # a class written in C that does not say
        return False
    return True
