from __future__ import annotations

import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import ConfigError
from appliance.models.engine_cache import (
    ABANDONED_AFTER_S,
    ABOUT,
    ENGINE,
    PARTIAL,
    EngineCache,
    EngineRecipe,
    version_sha256,
)

RECIPE = EngineRecipe(
    model_sha256="a" * 64,
    builder="tensorrt_rtx 1.7.1",
    target="8.6",
    precision="fp32",
    profile={"x": ((1, 4), (8, 4), (8, 4))},
)
ABOUT_IT = {"model": "policy", "version": "2"}
ROBOTS, OTHERS = "/models/robots", "/models/others"


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


def test_what_was_compiled_of_an_engine_goes_with_it(cache: EngineCache) -> None:
    cache.add(RECIPE, b"engine", b"", ABOUT_IT, ROBOTS)
    for key in (RECIPE.key, "0" * 32):
        cache.add_compiled(key, "a GPU", b"kernels")
    assert cache.compiled(RECIPE.key, "a GPU") == b"kernels"
    assert cache.compiled(RECIPE.key, "another GPU") is None
    assert cache.collect([RECIPE.key], ROBOTS) == []
    assert cache.compiled(RECIPE.key, "a GPU") == b"kernels"
    assert cache.compiled("0" * 32, "a GPU") is None
    (path,) = cache.directory.glob("compiled-*")
    path.write_bytes(path.read_bytes()[:-1])
    assert cache.compiled(RECIPE.key, "a GPU") is None


def test_what_was_added_is_found_and_nothing_else(cache: EngineCache) -> None:
    assert cache.find(RECIPE) is None
    made = cache.add(RECIPE, b"engine", b"timings", ABOUT_IT, ROBOTS)
    assert cache.find(RECIPE) == made
    assert made.path.read_bytes() == b"engine"
    assert (made.about["model"], made.bytes) == ("policy", 6)
    assert cache.timings(RECIPE) == b"timings"
    assert {path.name for path in cache.directory.iterdir()} == {RECIPE.key, RECIPE.timings_key}


@pytest.mark.parametrize(
    "other",
    [
        {"model_sha256": "b" * 64},
        {"builder": "tensorrt_rtx 1.7.2"},
        {"target": "8.9"},
        {"precision": "fp16"},
        {"precision": "tf32"},
        {"profile": {"x": ((1, 4), (4, 4), (4, 4))}},
        {"revision": 1},
    ],
)
def test_all_that_an_engine_depends_on_is_in_its_key(
    cache: EngineCache, other: dict[str, object]
) -> None:
    cache.add(RECIPE, b"engine", b"", ABOUT_IT, ROBOTS)
    assert cache.find(attrs.evolve(RECIPE, **other)) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [ENGINE, ABOUT])
@pytest.mark.parametrize("how", ["cut", "flipped", "gone"])
def test_a_damaged_engine_is_none_and_is_built_again(
    cache: EngineCache, name: str, how: str
) -> None:
    path = cache.add(RECIPE, b"engine" * 100, b"", ABOUT_IT, ROBOTS).path.parent / name
    whole = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(whole[:-7] if how == "cut" else whole[:9] + b"?" + whole[10:])
    if (name, how) != (ABOUT, "flipped"):  # a letter of the text for people may be any
        assert cache.find(RECIPE) is None
        assert cache.entries() == []
    assert cache.add(RECIPE, b"another", b"", ABOUT_IT, ROBOTS) == cache.find(RECIPE)


@pytest.mark.parametrize("before", ["nothing", "a damaged one"])
def test_builds_that_end_at_once_all_have_an_engine(cache: EngineCache, before: str) -> None:
    builds = 4
    start = threading.Barrier(builds)

    def put(number: int) -> Path:
        start.wait(10)
        return cache.add(RECIPE, b"engine %d" % number, b"timings", ABOUT_IT, ROBOTS).path

    with ThreadPoolExecutor(builds) as pool:
        for _ in range(25):
            if before != "nothing":
                cache.add(RECIPE, b"engine", b"", ABOUT_IT, ROBOTS)
                (cache.directory / RECIPE.key / ENGINE).write_bytes(b"engin")
            paths = list(pool.map(put, range(builds)))
            found = cache.find(RECIPE)
            assert found is not None
            assert paths == [found.path] * builds
            names = {path.name for path in cache.directory.iterdir()}
            assert names == {RECIPE.key, RECIPE.timings_key}
            if before == "nothing":
                cache.collect((), ROBOTS)


def test_an_engine_that_is_whole_stays(cache: EngineCache) -> None:
    first = cache.add(RECIPE, b"engine", b"", ABOUT_IT, ROBOTS)
    assert cache.add(RECIPE, b"another", b"", ABOUT_IT, ROBOTS) == first
    assert first.path.read_bytes() == b"engine"
    assert [path.name for path in cache.directory.iterdir()] == [RECIPE.key]


def test_where_an_entry_cannot_be_put_that_is_said(cache: EngineCache) -> None:
    cache.directory.mkdir()
    (cache.directory / RECIPE.key).write_bytes(b"not ours")
    with pytest.raises(ConfigError, match="cannot be written: Not a directory"):
        cache.add(RECIPE, b"engine", b"", ABOUT_IT, ROBOTS)
    assert [path.name for path in cache.directory.iterdir()] == [RECIPE.key]


def test_what_is_not_kept_is_removed_and_what_builds_left_behind(cache: EngineCache) -> None:
    cache.add(RECIPE, b"engine", b"", ABOUT_IT, ROBOTS)
    other = attrs.evolve(RECIPE, target="8.9")
    cache.add(other, b"engine", b"", ABOUT_IT, ROBOTS)
    for name, age_s in (("killed", ABANDONED_AFTER_S + 60), ("at work", ABANDONED_AFTER_S - 60)):
        (cache.directory / f"{PARTIAL}{name}").mkdir()
        changed_s = time.time() - age_s
        os.utime(cache.directory / f"{PARTIAL}{name}", (changed_s, changed_s))
    (cache.directory / "notes").mkdir()  # not ours
    assert cache.collect({RECIPE.key}, ROBOTS) == [other.key]
    assert cache.find(RECIPE) is not None
    assert {path.name for path in cache.directory.iterdir() if path.is_dir()} == {
        RECIPE.key,
        f"{PARTIAL}at work",
        "notes",
    }
    assert EngineCache(cache.directory / "nowhere").collect((), ROBOTS) == []


def test_an_engine_stays_as_long_as_a_repository_wants_it(cache: EngineCache) -> None:
    cache.add(RECIPE, b"engine", b"", ABOUT_IT, ROBOTS)
    cache.add_compiled(RECIPE.key, "a GPU", b"kernels")
    assert cache.collect((), OTHERS) == []
    cache.want(RECIPE.key, OTHERS)
    cache.want(RECIPE.key, OTHERS)
    for _ in range(2):
        assert cache.collect((), ROBOTS) == []
    assert cache.find(RECIPE) is not None
    assert cache.compiled(RECIPE.key, "a GPU") == b"kernels"
    assert cache.collect((), OTHERS) == [RECIPE.key]
    assert list(cache.directory.iterdir()) == []
    with pytest.raises(ConfigError, match="cannot be written"):
        cache.want(RECIPE.key, OTHERS)
    assert list(cache.directory.iterdir()) == []


def test_a_damaged_engine_is_removed_whoever_wants_it(cache: EngineCache) -> None:
    path = cache.add(RECIPE, b"engine", b"", ABOUT_IT, ROBOTS).path
    path.write_bytes(b"engin")
    assert cache.collect((), OTHERS) == [RECIPE.key]


def test_what_is_being_written_is_not_removed(
    cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def while_it_writes(file: int) -> None:
        assert cache.collect((), ROBOTS) == []
        fsync(file)

    monkeypatch.setattr("os.fsync", while_it_writes)
    made = cache.add(RECIPE, b"engine", b"", ABOUT_IT, ROBOTS)
    assert cache.find(RECIPE) == made


def test_timings_are_kept_without_an_engine(cache: EngineCache) -> None:
    cache.keep_timings(RECIPE, b"")
    assert not cache.directory.exists()
    cache.keep_timings(RECIPE, b"first")
    cache.keep_timings(RECIPE, b"second")
    assert cache.timings(RECIPE) == b"second"
    assert [path.name for path in cache.directory.iterdir()] == [RECIPE.timings_key]


def test_a_full_disk_leaves_nothing_behind(
    cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ConfigError, match="cannot be written: No space left on device"):
        cache.add(RECIPE, b"engine", b"", ABOUT_IT, ROBOTS)
    assert list(cache.directory.iterdir()) == []


def test_each_file_of_a_version_counts(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"model")
    seen = {version_sha256(tmp_path)}
    (tmp_path / "weights.bin").write_bytes(b"weights")
    seen.add(version_sha256(tmp_path))
    (tmp_path / "weights.bin").write_bytes(b"Weights")
    seen.add(version_sha256(tmp_path))
    (tmp_path / "weights.bin").rename(tmp_path / "other.bin")
    seen.add(version_sha256(tmp_path))
    assert len(seen) == 4
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "policy.pyc").write_bytes(b"")
    assert version_sha256(tmp_path) in seen


@given(st.binary(max_size=200))
def test_whatever_about_says_it_is_an_engine_or_none(
    tmp_path_factory: pytest.TempPathFactory, said: bytes
) -> None:
    cache = EngineCache(tmp_path_factory.mktemp("engines"))
    path = cache.add(RECIPE, b"engine", b"", ABOUT_IT, ROBOTS).path.parent
    (path / ABOUT).write_bytes(said)
    assert cache.find(RECIPE) is None
    (path / ABOUT).write_text(json.dumps([said.hex()]))
    assert cache.find(RECIPE) is None


def test_a_kernel_is_kept_by_all_that_it_was_made_of(cache: EngineCache) -> None:
    assert cache.kernel("text") is None
    cache.add(RECIPE, b"engine", b"", ABOUT_IT, ROBOTS)
    cache.add_kernel("text", b"image")
    cache.add_kernel("text", b"image again")
    assert (cache.kernel("text"), cache.kernel("texts")) == (b"image again", None)
    assert [entry.key for entry in cache.entries()] == [RECIPE.key]
    assert cache.collect((), ROBOTS) == [RECIPE.key]
    assert cache.kernel("text") == b"image again"  # small, and made of no model
    [path] = cache.directory.iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    assert cache.kernel("text") is None


def test_a_kernel_that_cannot_be_kept(cache: EngineCache) -> None:
    cache.directory.write_bytes(b"")
    with pytest.raises(ConfigError, match=r"kernel-.*: cannot be written: "):
        cache.add_kernel("text", b"image")
    assert cache.kernel("text") is None
