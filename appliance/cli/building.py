"""`appliance models build | gc`: engines for a GPU, made ahead of the time that they are needed."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from appliance.cli import INTERRUPTED, OK
from appliance.cli.text import plain, size
from appliance.cli.versions import entry_of, repository_of, version_of
from appliance.engines.tensorrt.building import BuildCancelled
from appliance.engines.tensorrt.flavour import find_flavour
from appliance.engines.tensorrt.order import order_engine
from appliance.errors import ConfigError
from appliance.models.engine_cache import Cached, EngineCache, default_cache, version_sha256
from appliance.models.manifest import parse_manifest
from appliance.models.repository import name_of

BAR = 30


def build(arguments: argparse.Namespace) -> int:
    """Build the engine of a version, unless it is there.

    Raises:
        ConfigError, DeviceMissing, EngineError, ExtraMissing: It cannot be built.
    """
    entry = entry_of(repository_of(arguments), arguments.model)
    version = version_of(entry, arguments.version)
    manifest = parse_manifest(entry.manifest, str(entry.manifest_path))
    order = order_engine(find_flavour(), entry, version, manifest, arguments.capability or ())
    cache = _cache(arguments)
    found, how = cache.find(order.recipe), "is there already"
    if found is None:
        started = time.monotonic()
        with _interruptible() as is_wanted, _bar(f"{entry.name} {version}") as on_progress:
            try:
                found = order.build(cache, on_progress, is_wanted)
            except BuildCancelled:
                return INTERRUPTED
        how = f"built in {time.monotonic() - started:.1f} s"
    try:
        cache.want(found.key, order.repository)
    except ConfigError as error:  # another user built it
        print(plain(f"{error}; `models gc` of another repository may remove it"), file=sys.stderr)
    return _told(found, how, as_json=arguments.json)


def collect(arguments: argparse.Namespace) -> int:
    """Remove the engines of versions that are not in the repository any more, and no other's."""
    cache, repository = _cache(arguments), repository_of(arguments)
    there = {
        version_sha256(entry.manifest_path.parent / version)
        for entry in repository.scan()
        for version in entry.versions
    }
    entries = cache.entries()
    keep = {each.key for each in entries if each.about["recipe"]["model_sha256"] in there}
    removed = cache.collect(keep, name_of(repository.directory))
    for key in removed:
        print(f"removed: {cache.directory / key}")
    freed = sum(each.bytes for each in entries if each.key in removed)
    others = len({each.key for each in entries} - keep - {*removed})
    print(f"{len(keep)} engines kept, {size(freed)} freed, {others} of other repositories left")
    return OK


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {"build": build, "gc": collect}


def _cache(arguments: argparse.Namespace) -> EngineCache:
    return EngineCache(Path(arguments.cache) if arguments.cache else default_cache())


def _told(found: Cached, how: str, *, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"path": str(found.path), "bytes": found.bytes, **found.about}, indent=2))
    else:
        about = found.about
        print(plain(f"{about['model']}: engine of version {about['version']} {how}"))
        recipe = about["recipe"]
        print(f"  in {recipe['precision']} for {recipe['target']}, by {recipe['builder']}")
        print(f"  {found.path} ({size(found.bytes)})")
    return OK


@contextmanager
def _interruptible() -> Generator[Callable[[], bool], None, None]:
    """Let Ctrl-C end the build at its next step: an exception would get lost inside the builder."""
    is_wanted = True

    def on_signal(_: int, __: FrameType | None) -> None:
        nonlocal is_wanted
        is_wanted = False

    before = {each: signal.signal(each, on_signal) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: is_wanted
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextmanager
def _bar(title: str) -> Generator[Callable[[str, float], None], None, None]:
    """Show how far it is: a bar at a terminal, else a line for each tenth."""
    shows = sys.stderr.isatty()
    tenths = -1

    def on_progress(step: str, fraction: float) -> None:
        nonlocal tenths
        if shows:
            done = int(fraction * BAR)
            bar = "#" * done + "-" * (BAR - done)
            print(
                f"\r\x1b[K{title} [{bar}] {fraction:4.0%} {plain(step)[:30]}",
                end="",
                file=sys.stderr,
                flush=True,
            )
        elif int(fraction * 10) > tenths:
            tenths = int(fraction * 10)
            print(f"{title}: {tenths * 10} %  {plain(step)}", file=sys.stderr, flush=True)

    try:
        yield on_progress
    finally:
        if shows:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
