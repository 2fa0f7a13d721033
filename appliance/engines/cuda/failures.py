"""Which CUDA errors cost a call, and which the process. PURE.

After a sticky error every call on the context fails, and nothing in the process can change that:
what is on the device may be anything. Such a process has to end; the pool starts another one.
"""

from __future__ import annotations

from typing import NoReturn

from appliance.errors import DeviceLost, EngineError

STICKY = frozenset(
    {
        "CUDA_ERROR_CONTEXT_IS_DESTROYED",
        "CUDA_ERROR_ECC_UNCORRECTABLE",
        "CUDA_ERROR_NVLINK_UNCORRECTABLE",
        "CUDA_ERROR_ILLEGAL_ADDRESS",
        "CUDA_ERROR_LAUNCH_TIMEOUT",
        "CUDA_ERROR_ASSERT",
        "CUDA_ERROR_HARDWARE_STACK_ERROR",
        "CUDA_ERROR_ILLEGAL_INSTRUCTION",
        "CUDA_ERROR_MISALIGNED_ADDRESS",
        "CUDA_ERROR_INVALID_ADDRESS_SPACE",
        "CUDA_ERROR_INVALID_PC",
        "CUDA_ERROR_LAUNCH_FAILED",
        "CUDA_ERROR_TENSOR_MEMORY_LEAK",
        "CUDA_ERROR_CONTAINED",
        "CUDA_ERROR_EXTERNAL_DEVICE",
        "CUDA_ERROR_DEVICE_UNAVAILABLE",
        "CUDA_ERROR_DEINITIALIZED",
        "CUDA_ERROR_UNKNOWN",
    }
)
"""By name: numbers are the driver's own business. UNKNOWN is among them, for nobody can tell."""

OUT_OF_MEMORY = "CUDA_ERROR_OUT_OF_MEMORY"


def fail(name: str, number: int, doing: str) -> NoReturn:
    """Raise what a CUDA error comes to.

    Args:
        name: As CUDA has it, such as "CUDA_ERROR_OUT_OF_MEMORY".
        doing: What was being done, in words.

    Raises:
        DeviceLost: The process has to end.
        EngineError: This call has failed.
    """
    told = f"{name} ({number}) while {doing}"
    if name in STICKY:
        raise DeviceLost(f"the GPU's context is lost: {told}")
    if name == OUT_OF_MEMORY:
        raise EngineError(f"the GPU has no memory left: {told}")
    raise EngineError(told)
