"""What helps where TensorRT for RTX does not run an engine. PURE.

Its reasons are those of its `EngineInvalidityDiagnostics`, and so is what helps, by NVIDIA's page
on the compatibility of engines.
"""

from __future__ import annotations

INSTEAD = (
    "install TensorRT in its place (the package tensorrt), which builds on this box, or run the "
    'model on the CPU with engine = "onnxruntime"'
)


def remedy_of(problem: str, *, cuda: str, free_mib: int, rebuild: str) -> str:
    """Return what to do about a problem that `Flavour.problem_of` names.

    Of several reasons, the one counts that stays whatever is done about the others.

    Args:
        cuda: The newest that the driver knows.
        free_mib: Of the GPU's memory.
        rebuild: What makes this engine anew.
    """
    newer = (
        f"or build the engine where nothing newer is, as here: {rebuild}; if that is refused, too, "
        "install tensorrt-rtx-cu12 in place of TensorRT for RTX"
    )
    remedies = {
        "UNSUPPORTED_CC": INSTEAD,
        "CUDA_ERROR": "install NVIDIA's driver anew; `nvidia-smi` has to find this GPU",
        "OLD_CUDA_DRIVER": f"update NVIDIA's driver, which knows CUDA {cuda}, {newer}",
        "OLD_CUDA_RUNTIME": f"update CUDA's runtime and NVIDIA's driver, {newer}",
        "INSUFFICIENT_GPU_MEMORY": (
            f"{free_mib} MiB of the GPU are free: let other programs leave it (`nvidia-smi` lists "
            'them), fewer models be served there, or set precision = "fp16" in the manifest'
        ),
    }
    return next((each for reason, each in remedies.items() if reason in problem), rebuild)
