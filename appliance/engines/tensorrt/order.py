"""From a version of a model to its engine in the cache: of what it is built, and for which GPUs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import frozen

from appliance.engines.cuda.driver import find_device
from appliance.engines.registry import MODEL_FILE
from appliance.engines.tensorrt.building import BuildCancelled, Network, Profile, profile_of
from appliance.engines.tensorrt.flavour import CURRENT, DEFAULT_TARGET, Flavour
from appliance.errors import ConfigError, EngineError
from appliance.models.engine_cache import Cached, EngineCache, EngineRecipe, version_sha256
from appliance.models.manifest import Manifest
from appliance.models.repository import ModelEntry, name_of
from appliance.models.resolve import resolve


@frozen
class EngineOrder:
    """An engine that is to be built.

    Attributes:
        recipe: What it is found by.
        repository: That it is for.
    """

    name: str
    version: str
    recipe: EngineRecipe
    repository: str
    _flavour: Flavour
    _network: Network
    _profile: Profile
    _capabilities: tuple[str, ...]

    def build(
        self,
        cache: EngineCache,
        on_progress: Callable[[str, float], None],
        is_wanted: Callable[[], bool],
    ) -> Cached:
        """Build it into a cache.

        Args:
            on_progress: Told what is done, and how far it is, 0 to 1.
            is_wanted: Asked at each step; once it says no, the build ends.

        Raises:
            BuildCancelled: It was wanted no more; what was learnt is kept.
            EngineError: It cannot be built: why, and what to do.
            ConfigError: The cache cannot be written.
        """
        timings = cache.timings(self.recipe)
        try:
            built = self._network.build(
                self._profile, self._capabilities, timings, on_progress, is_wanted
            )
        except BuildCancelled as cancelled:
            cache.keep_timings(self.recipe, cancelled.timings)
            raise
        except EngineError as error:
            if self._capabilities == (CURRENT,) and self._flavour.builds_for_others:
                raise self._flavour.refused(self.recipe.target, str(error)) from error
            raise
        about = {"model": self.name, "version": self.version}
        return cache.add(self.recipe, built.engine, built.timings, about, self.repository)


def order_engine(
    flavour: Flavour,
    entry: ModelEntry,
    version: str,
    manifest: Manifest,
    capabilities: Sequence[str] = (),
) -> EngineOrder:
    """Return what is to be built of a version.

    Args:
        capabilities: Compute capabilities to build for; `CURRENT`: that of the GPU that is here;
            none: what TensorRT takes by default.

    Raises:
        ConfigError: The manifest does not say enough, or there is no `MODEL_FILE`.
        DeviceMissing: It is to be built for the GPU that is here, and there is none.
        EngineError: The model cannot be read or converted.
        ExtraMissing: What converts it is not installed.
    """
    directory = entry.manifest_path.parent / version
    model = directory / MODEL_FILE
    if not model.is_file():
        raise ConfigError(f"{model}: is missing; an engine is built of it")
    target, wanted = _for_which(flavour, tuple(sorted(set(capabilities))))
    network = Network(flavour, model, manifest.precision)
    where = str(entry.manifest_path)
    resolved = resolve(manifest, network.signature, entry.name, version, where=where)
    try:
        profile = profile_of(resolved, network.signature, manifest.warmup)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    recipe = EngineRecipe(
        model_sha256=version_sha256(directory),
        builder=flavour.builder,
        target=target,
        precision=manifest.precision,
        profile=profile,
    )
    repository = name_of(entry.manifest_path.parent.parent)
    return EngineOrder(entry.name, version, recipe, repository, flavour, network, profile, wanted)


def _for_which(flavour: Flavour, wanted: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """Return what the recipe calls the target, and the capabilities that TensorRT is told.

    Raises:
        DeviceMissing: The GPU that is here is meant, and there is none.
    """
    if flavour.builds_for_others and wanted != (CURRENT,):
        return ",".join(wanted) or DEFAULT_TARGET, wanted
    there = find_device()
    # An engine for a capability that has a name is the same wherever it is built.
    if wanted == (CURRENT,) and flavour.is_named(there.capability):
        wanted = (there.capability,)
    return flavour.targets_of(there.name, there.capability)[0], wanted
