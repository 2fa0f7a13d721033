"""Which TensorRT there is, and in what they differ.

| | package | engines are built |
|---|---|---|
| TensorRT for RTX | `tensorrt_rtx` | without a GPU, for compute capabilities that are named |
| TensorRT | `tensorrt` | on the GPU that is to run them, for it |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from attrs import frozen

from appliance.engines.tensorrt.remedies import INSTEAD
from appliance.errors import EngineError, ExtraMissing
from appliance.models.manifest import Precision

RTX, TENSORRT = "tensorrt_rtx", "tensorrt"
OLDEST = {RTX: (1, 4), TENSORRT: (8, 5)}
"""TensorRT 10.3 is what JetPack 6 has, 8.5 the last that one wheel holds. Engines were built so far
by TensorRT for RTX 1.7; none was run on a GPU yet."""
DEFAULT_TARGET = "8.6 and 8.9 and from 12.0 on"
"""The compute capabilities that TensorRT for RTX builds for if none are named. NVIDIA's pages
differ on whether 8.0 is one of them."""
CURRENT = "current"
"""In place of a compute capability: that of the GPU that is here, whether it has a name or not."""
UNEXPLAINED = "invalid, for no reason that it tells"
DOUBTFUL = ("UNSUPPORTED_CC", UNEXPLAINED)
"""Problems that, if there is no other, loading decides on: it was reported of TensorRT for RTX that
on a GPU without a name it says the first of engines which it builds there, loads and runs."""
_BY_DEFAULT, _BY_DEFAULT_FROM = ((8, 6), (8, 9)), (12, 0)
INSTALL = (
    "pip install 'appliance[gpu]' brings TensorRT for RTX; a Jetson has TensorRT by apt "
    "(python3-libnvinfer)"
)


@frozen
class Flavour:
    """One TensorRT.

    Attributes:
        package: Its name.
        version: As it says.
        api: Its module.
    """

    package: str
    version: str
    api: Any

    @property
    def builds_for_others(self) -> bool:
        """Whether it builds for GPUs that are not there."""
        return self.package == RTX

    @property
    def keeps_timings(self) -> bool:
        """Whether it measures parts of an engine, and can be told what it measured earlier."""
        return self.package == TENSORRT

    @property
    def builder(self) -> str:
        """Package and version: an engine runs with the TensorRT that built it."""
        return f"{self.package} {self.version}"

    @property
    def shares_profiles(self) -> bool:
        """Whether contexts of an engine may have the same profile: of before 8.6 only one has."""
        return self._is_strongly_typed or self._profile_sharing is not None

    @property
    def _is_strongly_typed(self) -> bool:
        """Whether the types of the file are those of the engine: from 10 on."""
        return hasattr(self.api.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")

    @property
    def _profile_sharing(self) -> Any:
        """What an engine of 8.6 is built with, so that its contexts may; None: not known."""
        return getattr(getattr(self.api, "PreviewFeature", None), "PROFILE_SHARING_0806", None)

    @property
    def reports_progress(self) -> bool:
        """Whether a build says how far it is, and can be ended."""
        return hasattr(self.api, "IProgressMonitor")

    def targets_of(self, name: str, capability: str) -> tuple[str, ...]:
        """Return what engines for a GPU are built for, the preferred one first.

        Args:
            name: Of the GPU.
            capability: Its compute capability.
        """
        if self.builds_for_others:
            return (capability, DEFAULT_TARGET) if is_default(capability) else (capability,)
        return (f"{name} ({capability})",)

    def build_options(self, capability: str) -> str:
        """Return what `appliance models build` has to be told, to build for a GPU; mostly nothing.

        Args:
            capability: The GPU's compute capability.
        """
        if not self.builds_for_others or is_default(capability):
            return ""
        return f" --capability {capability if self.is_named(capability) else CURRENT}"

    def is_named(self, capability: str) -> bool:
        """Return whether an engine for such GPUs can be built anywhere."""
        return self.builds_for_others and capability in self.capabilities()

    def refused(self, capability: str, words: str) -> EngineError:
        """Return what to say where TensorRT for RTX was asked to take a GPU that it does not name.

        Args:
            words: Its own.
        """
        return EngineError(
            f"{self.builder} names {', '.join(self.capabilities())} as the compute capabilities "
            f"that it takes; here is {capability}, and it says: {words}; {INSTEAD}"
        )

    def network_flags(self) -> int:
        """Return the flags of a network whose types are those of the file."""
        flags = self.api.NetworkDefinitionCreationFlag
        # Before 10, types are the builder's choice; float32 unless it is told otherwise.
        flag = getattr(flags, "STRONGLY_TYPED", None) or flags.EXPLICIT_BATCH
        return 1 << int(flag)

    def problem_of(self, runtime: Any, plan: bytes) -> str:
        """Return why an engine cannot run here, as far as that can be known beforehand.

        Returns:
            Nothing, if it can, or if this TensorRT cannot tell: then loading it will.
        """
        if self.package != RTX:
            return ""
        validity, reasons = runtime.get_engine_validity(plan)
        if validity != self.api.EngineValidity.INVALID:
            return ""
        known = self.api.EngineInvalidityDiagnostics.__members__
        named = [name for name, member in known.items() if int(member) & int(reasons)]
        return ", ".join(named) or UNEXPLAINED

    def new_compilation_cache(self, config: Any, kept: bytes) -> Any:
        """Return where contexts of an engine find kernels compiled; None: this flavour has none.

        Args:
            config: Of `new_runtime_config`; it should live as long as the cache.
            kept: What one had by the end; TensorRT leaves it if it is of another GPU or version.
        """
        if config is None:
            return None
        cache = config.create_runtime_cache()
        if kept:
            cache.deserialize(kept)
        return cache

    def new_runtime_config(self, engine: Any, cache: Any) -> Any:
        """Return what a context of an engine is made with; None: nothing, in this flavour.

        Args:
            cache: Of `new_compilation_cache`; None: none yet.
        """
        if self.package != RTX:
            return None
        config = engine.create_runtime_config()
        if cache is not None:
            config.set_runtime_cache(cache)
        config.set_execution_context_allocation_strategy(
            self.api.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        # Kernels for a batch size are compiled before it is captured, not some time later; and the
        # graphs are ours.
        kernels = self.api.DynamicShapesKernelSpecializationStrategy
        config.dynamic_shapes_kernel_specialization_strategy = kernels.EAGER
        config.cuda_graph_strategy = self.api.CudaGraphStrategy.DISABLED
        return config

    def new_context(self, engine: Any, config: Any) -> Any:
        """Return an execution context without memory; None: TensorRT has said why not.

        Args:
            config: Of `new_runtime_config`; it has to live as long as the context.
        """
        if config is not None:
            return engine.create_execution_context(runtime_config=config)
        strategies = getattr(self.api, "ExecutionContextAllocationStrategy", None)
        if strategies is None:  # of before 10
            return engine.create_execution_context_without_device_memory()
        return engine.create_execution_context(strategies.USER_MANAGED)

    def context_bytes(self, engine: Any) -> int:
        """Return how much memory an execution context has to be given."""
        if hasattr(engine, "device_memory_size_v2"):
            return int(engine.device_memory_size_v2)
        return int(engine.device_memory_size)

    def give_memory(self, context: Any, address: int, size: int) -> None:
        """Give an execution context its memory; one that others have, if only one of them runs."""
        if hasattr(context, "set_device_memory"):
            context.set_device_memory(address, size)
        else:
            context.device_memory = address

    def is_capturable(self, context: Any, stream: int) -> bool:
        """Return whether executions on a stream can be captured, as far as TensorRT can tell."""
        if self.package != RTX:
            return True
        return bool(context.is_stream_capturable(stream))

    def prepare(self, config: Any, capabilities: Sequence[str], precision: Precision) -> None:
        """Set up what is this flavour's own.

        Args:
            config: TensorRT's builder configuration.
            capabilities: Compute capabilities to build for, such as "8.6", or `CURRENT`; none: what
                the flavour takes by default, or the GPU that is there.
            precision: What float32 in the model's file was made, or may be multiplied in.

        Raises:
            EngineError: It cannot build for one, or not in that precision.
        """
        if precision == "fp32":  # it is set from the start
            config.clear_flag(self.api.BuilderFlag.TF32)
        if self.package != RTX:
            if tuple(capabilities) not in ((), (CURRENT,)):
                raise EngineError(
                    f"{self.package} builds for the GPU that is there; leave capabilities out"
                )
            if not self._is_strongly_typed:
                config.set_tactic_sources(0)  # cuBLAS and cuDNN need not be there
                self._allow(config, precision)
                if self._profile_sharing is not None:
                    config.set_preview_feature(self._profile_sharing, True)  # noqa: FBT003
            return
        # Without this, executions cannot be captured in a CUDA graph.
        config.set_flag(self.api.BuilderFlag.REQUIRE_USER_ALLOCATION)
        known = {**self.capabilities(), CURRENT: self.api.ComputeCapability.CURRENT}
        if capabilities:
            config.num_compute_capabilities = len(capabilities)
        for index, capability in enumerate(capabilities):
            if capability not in known or (capability == CURRENT and len(capabilities) > 1):
                raise EngineError(
                    f"compute capability {capability!r}: {self.builder} builds for "
                    f"{', '.join(self.capabilities())}, or for {CURRENT!r} alone"
                )
            if not config.set_compute_capability(known[capability], index):
                raise EngineError(f"{self.builder} refuses compute capability {capability!r}")

    def _allow(self, config: Any, precision: Precision) -> None:
        """Let kernels of a precision be chosen: before 10, the types of the file do not say it."""
        if not self.builds_in(precision):
            raise EngineError(f"{self.package} {self.version} does not build in {precision}")
        if precision != "fp32":
            config.set_flag(getattr(self.api.BuilderFlag, precision.upper()))

    def builds_in(self, precision: Precision) -> bool:
        """Return whether it builds engines of a precision."""
        is_plain = precision == "fp32" or self._is_strongly_typed
        return is_plain or hasattr(self.api.BuilderFlag, precision.upper())

    def capabilities(self) -> dict[str, Any]:
        """Return the compute capabilities that can be named, and TensorRT's own names for them."""
        members = self.api.ComputeCapability.__members__
        return {
            f"{name[2:-1]}.{name[-1]}": member
            for name, member in members.items()
            if name.startswith("SM")
        }


def is_default(capability: str) -> bool:
    """Return whether a compute capability is in `DEFAULT_TARGET`."""
    major, _, minor = capability.partition(".")
    numbers = (int(major), int(minor))
    return numbers in _BY_DEFAULT or numbers >= _BY_DEFAULT_FROM


def find_flavour(load: Callable[[str], Any] = import_module) -> Flavour:
    """Return the TensorRT that is installed; TensorRT for RTX, if both are.

    Raises:
        ExtraMissing: There is none.
        EngineError: It is too old, or cannot be imported.
    """
    for package in (RTX, TENSORRT):
        try:
            api = load(package)
        except ModuleNotFoundError:
            continue
        except (ImportError, OSError, RuntimeError) as error:
            raise EngineError(f"{package} is installed, and cannot be used: {error}") from error
        version: str = api.__version__
        oldest = OLDEST[package]
        if tuple(int(part) for part in version.split(".")[:2]) < oldest:
            shown = ".".join(map(str, oldest))
            raise EngineError(f"{package} {version} is too old: {shown} or newer is needed")
        return Flavour(package, version, api)
    raise ExtraMissing(f"TensorRT is not installed: {INSTALL}")
