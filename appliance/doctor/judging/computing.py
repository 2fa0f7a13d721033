"""GPU, engines, models, workers, memory."""

from __future__ import annotations

from appliance.doctor.facts import Facts
from appliance.doctor.judging.box import MIB
from appliance.doctor.judging.findings import Remark
from appliance.health.concerns import concerns


def gpu(facts: Facts) -> list[Remark]:
    """The driver, where workers need it."""
    wanted = ", ".join(facts.wants_gpu)
    if facts.driver_error is None:
        return [Remark("skipped", "the driver did not answer in time")]
    if not facts.driver_error:
        return [Remark("ok", "the driver finds a GPU")]
    if not wanted:
        return [Remark("ok", f"none, and none is configured ({facts.driver_error})")]
    return [
        Remark(
            "error",
            f"{facts.driver_error}, and workers need one: {wanted}",
            "install the driver, see `nvidia-smi` and the drop-in for this kind of box, or "
            'configure device = "cpu"',
        )
    ]


def gpu_health(facts: Facts) -> list[Remark]:
    """Whether GPUs are throttled, hot, broken or full."""
    if facts.driver_error:
        return [Remark("skipped", "there is no GPU to look at")]
    if facts.devices is None:
        return [Remark("skipped", "the GPUs did not tell in time how they are")]
    if not facts.devices:
        return [Remark("skipped", "no worker is to compute on a GPU")]
    remarks: list[Remark] = []
    for device in facts.devices:
        found = concerns(device)
        name = f"{device.device} {device.name}".strip()
        remarks += [
            Remark("error" if each.is_error else "warning", f"{name}: {each.found}", each.advice)
            for each in found
        ]
        if not found:
            heat = "" if device.temperature_c is None else f", {device.temperature_c:.0f} °C"
            remarks.append(Remark("ok", f"{name} is well{heat}"))
    return remarks


def tensorrt(facts: Facts) -> list[Remark]:
    """TensorRT, where workers need it."""
    if facts.tensorrt:
        return [Remark("ok", ", ".join(facts.tensorrt))]
    if facts.wants_gpu:
        return [
            Remark(
                "error",
                f"not installed, and workers need it: {', '.join(facts.wants_gpu)}",
                "pip install 'appliance[gpu]'; on a Jetson: apt install python3-libnvinfer, and a "
                "virtual environment with --system-site-packages",
            )
        ]
    return [Remark("ok", "not installed, and no GPU is configured")]


def workers(facts: Facts) -> list[Remark]:
    """What every worker imports."""
    error = facts.onnxruntime_error
    if error is None:
        return [Remark("skipped", "the import of onnxruntime took too long to wait for")]
    if error:
        return [
            Remark(
                "error",
                f"a worker cannot import onnxruntime: {error}",
                "pip install 'appliance[server]' into the environment of the appliance",
            )
        ]
    return [Remark("ok", "onnxruntime can be imported")]


def locked_memory(facts: Facts) -> list[Remark]:
    """Whether the arena can be locked in memory."""
    limit, arena = facts.memlock_bytes, facts.arena_bytes
    if limit is None:
        return [Remark("skipped", "the limit cannot be seen")]
    shown = "no limit" if limit < 0 else f"{limit // MIB} MiB"
    found = f"{shown} for locked memory, the arena has {arena // MIB} MiB"
    if 0 <= limit < arena and facts.wants_gpu:
        return [
            Remark("error", found, "LimitMEMLOCK=infinity in the unit: GPUs read the arena by DMA")
        ]
    return [Remark("ok", found)]


def models(facts: Facts) -> list[Remark]:
    """The repository."""
    if facts.repository_error:
        return [Remark("error", facts.repository_error, "correct the repository or what names it")]
    remarks = [
        Remark("error", each.error, f"correct model {each.name}, or move it out of the repository")
        for each in facts.models
        if each.error
    ]
    if remarks:
        return remarks
    if not facts.models:
        return [Remark("warning", f"{facts.repository} holds none", "add one: docs/models.md")]
    names = ", ".join(f"{each.name} {each.version}" for each in facts.models)
    return [Remark("ok", names)]


def engines(facts: Facts) -> list[Remark]:
    """Engines in the cache that cannot be used."""
    if not facts.engines:
        return [Remark("skipped", "none were built")]
    versions = {(each.name, each.version) for each in facts.models}
    names = {each.name for each in facts.models}
    remarks: list[Remark] = []
    for engine in facts.engines:
        what = f"{engine.model} {engine.version}"
        if not engine.builder:
            found = f"{engine.key} is damaged"
            remarks.append(Remark("warning", found, "`appliance models gc`, and build it again"))
        elif engine.builder not in facts.tensorrt:
            found = f"{what} was built by {engine.builder}, which is not installed"
            advice = f"`appliance models build {engine.model} {engine.version}`"
            remarks.append(Remark("warning", found, advice))
        elif engine.model not in names or (engine.model, engine.version) not in versions:
            remarks.append(Remark("ok", f"{what} is not served now"))
        else:
            remarks.append(Remark("ok", what))
    return remarks
