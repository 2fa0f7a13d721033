"""Engines that were built, by what they were built of and for. Files only.

```
DIRECTORY/
  <key>/engine.plan      the engine
  <key>/about.json       what it is of and for, and the checksum of the engine
  <key>/wanted-<key>     a repository that it was built for
  timings-<key>          how long parts take, by TensorRT version and target
  kernel-<key>           a compiled kernel, behind its checksum
  compiled-<key>-<key>   what TensorRT compiled of an engine for one kind of GPU, likewise
```

An entry appears whole or not at all; one that is damaged is none. Several processes may write at
once: of two that build the same engine, the first one's stays. Several repositories may share a
cache: an engine is kept as long as one of those that it was built for has the version.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Collection, Generator, Mapping
from pathlib import Path
from typing import Any, cast

import attrs
from attrs import define, frozen

from appliance.errors import ConfigError
from appliance.models.manifest import Precision

ENGINE, ABOUT = "engine.plan", "about.json"
WANTED, PARTIAL, TIMINGS = "wanted-", ".partial-", "timings-"
KERNEL, COMPILED = "kernel-", "compiled-"
ABANDONED_AFTER_S = 24 * 3600.0
"""Writing takes seconds."""
MOST_TRIES = 10
"""To put an entry where others put theirs."""
KEY_DIGITS = 32
CHECKSUM_BYTES = 32
CACHE_VARIABLE = "APPLIANCE_ENGINE_CACHE"
SYSTEM_CACHE = Path("/var/cache/appliance/engines")
REVISION = 2
"""Of how engines are built: the flags, the conversion, the network. Raise it with every change
by which the same recipe gives another engine, or else the engines of before go on being used.
2: float32 is not multiplied as TF32 unless that is asked for, and what float16 cannot hold stays
float32."""
FIRST_REVISION = 1
"""Of engines that do not say it."""


@frozen(kw_only=True)
class EngineRecipe:
    """All that an engine depends on.

    Attributes:
        model_sha256: Of the version's files.
        builder: Package and version.
        target: The GPU or compute capabilities.
        precision: What float32 in the model's file was made, or may be multiplied in.
        profile: Input name to least, usual and largest shape.
        revision: Of how it is built.
    """

    model_sha256: str
    builder: str
    target: str
    precision: Precision
    profile: Mapping[str, tuple[tuple[int, ...], ...]]
    revision: int = REVISION

    @property
    def key(self) -> str:
        """Its name in the cache."""
        return _digest(json.dumps(attrs.asdict(self), sort_keys=True).encode())[:KEY_DIGITS]

    @property
    def timings_key(self) -> str:
        """The name of its builder's timings."""
        return TIMINGS + _digest(f"{self.builder} {self.target}".encode())[:KEY_DIGITS]


@frozen
class Cached:
    """An engine in the cache.

    Attributes:
        about: What `about.json` says.
        bytes: Of the engine.
    """

    key: str
    path: Path
    about: Mapping[str, Any]
    bytes: int


@define
class EngineCache:
    """See the module's docstring."""

    directory: Path

    def find(self, recipe: EngineRecipe) -> Cached | None:
        """Return the engine of a recipe; None: there is none, or it is damaged."""
        return self._entry(self.directory / recipe.key)

    def entries(self) -> list[Cached]:
        """Return every engine that is whole."""
        found = [self._entry(path) for path in self._paths()]
        return [entry for entry in found if entry is not None]

    def labels(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Return the key of every entry with what `about.json` says; nothing: it is damaged.

        Engines are not read: this is quick, and takes for whole one whose checksum is wrong.
        """
        return [
            (path.name, (_about(path) or {}) if (path / ENGINE).is_file() else {})
            for path in self._paths()
        ]

    def read(self, key: str) -> bytes | None:
        """Return an engine; None: there is none, or it is damaged."""
        about = _about(self.directory / key)
        if about is None:
            return None
        try:
            engine = (self.directory / key / ENGINE).read_bytes()
        except OSError:
            return None
        return engine if about.get("engine_sha256") == _digest(engine) else None

    def timings(self, recipe: EngineRecipe) -> bytes:
        """Return what earlier builds have learnt; nothing, if there were none."""
        try:
            return (self.directory / recipe.timings_key).read_bytes()
        except OSError:
            return b""

    def keep_timings(self, recipe: EngineRecipe, timings: bytes) -> None:
        """Keep what a build has learnt, if anything, for the next one.

        Raises:
            ConfigError: It cannot be written; then nothing is left of it.
        """
        if not timings:
            return
        place = self.directory / recipe.timings_key
        with self._partial(place) as partial:
            _write(partial / TIMINGS, timings)
            (partial / TIMINGS).replace(place)

    def add(
        self,
        recipe: EngineRecipe,
        engine: bytes,
        timings: bytes,
        about: Mapping[str, str],
        repository: str,
    ) -> Cached:
        """Keep an engine, in place of a damaged one; return it, or one that is there already.

        Args:
            about: For people, beside the recipe: model and version.
            repository: That it is built for.

        Raises:
            ConfigError: It cannot be written; then nothing is left of it.
        """
        told = {**about, "engine_sha256": _digest(engine), "recipe": attrs.asdict(recipe)}
        text = json.dumps(told, indent=2) + "\n"
        self.keep_timings(recipe, timings)
        place = self.directory / recipe.key
        with self._partial(place) as partial:
            _write(partial / ENGINE, engine)
            _write(partial / ABOUT, text.encode())
            _write(partial / _wanted(repository), repository.encode())
            partial.chmod(0o755)  # workers of another user read it
            found = self._put(partial, place)
        return found or Cached(recipe.key, place / ENGINE, json.loads(text), len(engine))

    def want(self, key: str, repository: str) -> None:
        """Keep an engine that is there for this repository, too.

        Raises:
            ConfigError: That cannot be written.
        """
        place = self.directory / key / _wanted(repository)
        if place.exists():
            return
        with self._partial(place) as partial:
            _write(partial / place.name, repository.encode())
            (partial / place.name).replace(place)

    def _put(self, partial: Path, place: Path) -> Cached | None:
        """Give an entry its place, unless another build has just put a whole one there.

        There is no lock, which whoever may read the directory could hold for ever.

        Returns:
            What is there instead.

        Raises:
            OSError: It cannot be put there.
        """
        tries_left = MOST_TRIES
        while True:
            try:
                partial.rename(place)
            except OSError as error:
                tries_left -= 1
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY) or not tries_left:
                    raise
            else:
                return None
            if found := self._entry(place):
                return found
            # Out of the way at once, for whoever reads it, and then removed.
            with self._partial(place) as damaged, contextlib.suppress(FileNotFoundError):
                place.rename(damaged)

    def kernel(self, recipe: str) -> bytes | None:
        """Return a kernel that was compiled of this; None: there is none, or it is damaged."""
        return _read_checked(self._kernel_path(recipe))

    def add_kernel(self, recipe: str, image: bytes) -> None:
        """Keep a kernel.

        Args:
            recipe: All that it was compiled of and for.

        Raises:
            ConfigError: It cannot be written; then nothing is left of it.
        """
        self._write_checked(self._kernel_path(recipe), image)

    def compiled(self, key: str, device: str) -> bytes | None:
        """Return what TensorRT compiled of an engine; None: there is nothing, or it is damaged."""
        return _read_checked(self._compiled_path(key, device))

    def add_compiled(self, key: str, device: str, compiled: bytes) -> None:
        """Keep what TensorRT compiled of an engine, as long as the engine is kept.

        Args:
            key: The engine's; it may be in another cache.
            device: The GPU and its driver.

        Raises:
            ConfigError: It cannot be written; then nothing is left of it.
        """
        self._write_checked(self._compiled_path(key, device), compiled)

    def _kernel_path(self, recipe: str) -> Path:
        return self.directory / (KERNEL + _digest(recipe.encode())[:KEY_DIGITS])

    def _compiled_path(self, key: str, device: str) -> Path:
        return self.directory / f"{COMPILED}{key}-{_digest(device.encode())[:KEY_DIGITS]}"

    def _write_checked(self, place: Path, content: bytes) -> None:
        with self._partial(place) as partial:
            _write(partial / place.name, hashlib.sha256(content).digest() + content)
            (partial / place.name).replace(place)

    @contextlib.contextmanager
    def _partial(self, place: Path) -> Generator[Path, None, None]:
        """Give a directory beside the entries, and remove it, if it is still there."""
        partial: Path | None = None
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=self.directory))
            yield partial
        except OSError as error:
            raise ConfigError(f"{place}: cannot be written: {error.strerror}") from error
        finally:
            if partial is not None:
                shutil.rmtree(partial, ignore_errors=True)

    def collect(self, keep: Collection[str], repository: str) -> list[str]:
        """Remove a repository's engines but those of these keys, and what builds left behind.

        Those that are damaged are removed whoever wants them, those that another repository wants,
        too, are not. What is being written now stays: only what is older than `ABANDONED_AFTER_S`
        is left behind.

        Raises:
            ConfigError: One cannot be removed.
        """
        removed = [path for path in self._paths() if path.name not in keep]
        removed = [path for path in removed if self._is_unwanted(path, repository)]
        for path in [*removed, *self._abandoned()]:
            _remove(path)
        there = {*keep, *(path.name for path in self._paths())}
        for path in self.directory.glob(f"{COMPILED}*"):
            if path.name.split("-")[1] not in there:
                path.unlink(missing_ok=True)
        return [path.name for path in removed]

    def _is_unwanted(self, path: Path, repository: str) -> bool:
        """Return whether nobody wants an entry, now that a repository does not."""
        if self._entry(path) is None:
            return True
        own = path / _wanted(repository)
        if not own.exists():
            return False
        if any(each.name != own.name for each in path.glob(f"{WANTED}*")):
            own.unlink(missing_ok=True)
            return False
        return True

    def _abandoned(self) -> list[Path]:
        found: list[Path] = []
        for path in self.directory.glob(f"{PARTIAL}*"):
            with contextlib.suppress(FileNotFoundError):  # its writer has just ended
                if time.time() - path.stat().st_mtime > ABANDONED_AFTER_S:
                    found.append(path)
        return found

    def _paths(self) -> list[Path]:
        with contextlib.suppress(OSError):
            return [
                path
                for path in sorted(self.directory.iterdir())
                if len(path.name) == KEY_DIGITS and path.is_dir()
            ]
        return []

    def _entry(self, path: Path) -> Cached | None:
        about, engine = _about(path), self.read(path.name)
        if about is None or engine is None:
            return None
        return Cached(path.name, path / ENGINE, about, len(engine))


def default_cache() -> Path:
    """Return where engines are built to: the first of `caches` that can be written."""
    named, system, own = _places()
    if named is not None:
        return named
    return system if os.access(system.parent, os.W_OK | os.X_OK) else own


def caches() -> list[EngineCache]:
    """Return where engines are looked for: who runs them may not be who built them."""
    named, system, own = _places()
    return [EngineCache(each) for each in ([named] if named is not None else [system, own])]


def _places() -> tuple[Path | None, Path, Path]:
    """Return the cache that the environment names, the box's, and the user's own."""
    named = os.environ.get(CACHE_VARIABLE)
    own = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named) if named else None, SYSTEM_CACHE, Path(own) / "appliance" / "engines"


def _wanted(repository: str) -> str:
    return WANTED + _digest(repository.encode())[:KEY_DIGITS]


def _about(path: Path) -> dict[str, Any] | None:
    try:
        about = json.loads((path / ABOUT).read_bytes())
    except (OSError, ValueError):
        return None
    return cast("dict[str, Any]", about) if isinstance(about, dict) else None


def version_sha256(directory: Path) -> str:
    """Return a checksum of all files of a version: weights may lie beside the model.

    Raises:
        ConfigError: One cannot be read.
    """
    digest = hashlib.sha256()
    try:
        for path in sorted(directory.rglob("*")):
            if not path.is_file() or "__pycache__" in path.parts:
                continue
            digest.update(f"{path.relative_to(directory)}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    except OSError as error:
        raise ConfigError(f"{directory}: cannot be read: {error}") from error
    return digest.hexdigest()


def _read_checked(path: Path) -> bytes | None:
    try:
        kept = path.read_bytes()
    except OSError:
        return None
    checksum, content = kept[:CHECKSUM_BYTES], kept[CHECKSUM_BYTES:]
    return content if checksum == hashlib.sha256(content).digest() else None


def _remove(path: Path) -> None:
    try:
        shutil.rmtree(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be removed: {error.strerror}") from error


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
