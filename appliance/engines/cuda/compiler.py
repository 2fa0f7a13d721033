"""From CUDA C to what a GPU runs, by NVRTC, or as it was compiled before.

NVRTC is a library: the box needs neither nvcc nor a host compiler. What comes is for one compute
capability, so an older driver takes it, too, which knows nothing of a newer NVRTC's PTX.
"""

from __future__ import annotations

import contextlib
from importlib import import_module
from typing import Any

from appliance.errors import ConfigError, EngineError, ExtraMissing
from appliance.models.engine_cache import EngineCache, caches, default_cache

NVRTC = "cuda.bindings.nvrtc"
INSTALL = "pip install nvidia-cuda-nvrtc, or install CUDA's own"
OPTIONS = ("--fmad=false",)
"""Products are rounded before they are added, as numpy does."""
_MOST_TOLD = 1000


def compiled(text: str, capability: str) -> bytes:
    """Return a text compiled for GPUs of a compute capability, and keep it if that can be.

    Args:
        capability: Such as "9.0".

    Raises:
        ExtraMissing: NVRTC is not installed.
        EngineError: It does not compile that, or does not know such GPUs.
    """
    options = (f"--gpu-architecture=sm_{capability.replace('.', '')}", *OPTIONS)
    recipe = "\n".join((*options, text))
    for cache in caches():
        kept = cache.kernel(recipe)
        if kept is not None:
            return kept
    image = compile_text(text, options)
    with contextlib.suppress(ConfigError):  # then it is compiled again next time
        EngineCache(default_cache()).add_kernel(recipe, image)
    return image


def compile_text(text: str, options: tuple[str, ...]) -> bytes:
    """Return a text compiled.

    Raises:
        ExtraMissing, EngineError: As `compiled`.
    """
    try:
        nvrtc: Any = import_module(NVRTC)
        code, _, _ = nvrtc.nvrtcVersion()
    except (ImportError, OSError, RuntimeError) as error:  # bindings without the library
        raise ExtraMissing(f"NVRTC cannot be loaded: {INSTALL}") from error
    if code:
        raise EngineError(f"NVRTC cannot be used: {code.name}")
    program = _given(nvrtc.nvrtcCreateProgram(text.encode(), b"kernel.cu", 0, [], []))
    try:
        [code] = nvrtc.nvrtcCompileProgram(
            program, len(options), [option.encode() for option in options]
        )
        if code:
            raise EngineError(f"a kernel cannot be compiled: {code.name}: {_log(nvrtc, program)}")
        image = bytearray(_given(nvrtc.nvrtcGetCUBINSize(program)))
        _given(nvrtc.nvrtcGetCUBIN(program, image))
        return bytes(image)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _log(nvrtc: Any, program: Any) -> str:
    log = bytearray(_given(nvrtc.nvrtcGetProgramLogSize(program)))
    _given(nvrtc.nvrtcGetProgramLog(program, log))
    return log.rstrip(b"\0").decode(errors="replace").strip()[:_MOST_TOLD]


def _given(result: tuple[Any, ...]) -> Any:
    """Return what a call of NVRTC gave.

    Raises:
        EngineError: It failed.
    """
    if result[0]:
        raise EngineError(f"NVRTC failed: {result[0].name}")
    return result[1] if len(result) > 1 else None
