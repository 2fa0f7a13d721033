"""Kernels compiled by the real NVRTC, which needs no GPU; and kept."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from appliance.engines.cuda import compiler
from appliance.engines.cuda.compiler import compiled
from appliance.engines.cuda.images import KERNEL, kernel_text
from appliance.errors import EngineError, ExtraMissing
from appliance.models.engine_cache import CACHE_VARIABLE


def is_installed() -> bool:
    try:
        return bool(version("nvidia-cuda-nvrtc") and version("cuda-bindings"))
    except PackageNotFoundError:
        return False


needs_nvrtc = pytest.mark.skipif(
    not is_installed(), reason="nvidia-cuda-nvrtc is not installed: make test-kernels"
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "engines"
    monkeypatch.setenv(CACHE_VARIABLE, str(directory))
    return directory


@needs_nvrtc
@pytest.mark.parametrize("capability", ["7.5", "8.6", "8.7", "8.9", "9.0", "11.0", "12.0"])
def test_the_kernel_compiles_for(capability: str, cache: Path) -> None:
    image = compiled(kernel_text(), capability)
    assert image.startswith(b"\x7fELF")
    assert KERNEL.encode() in image
    assert f"sm_{capability.replace('.', '')}".encode() in image
    assert len(list(cache.iterdir())) == 1


@needs_nvrtc
def test_products_are_rounded_before_they_are_added() -> None:
    text = 'extern "C" __global__ void f(float *x) { x[0] = x[1] * x[2] + x[3]; }'
    images = [
        compiler.compile_text(text, ("--gpu-architecture=sm_90", f"--fmad={fused}"))
        for fused in ("true", "false")
    ]
    assert images[0] != images[1]
    assert images[1] == compiler.compile_text(text, ("--gpu-architecture=sm_90", *compiler.OPTIONS))


@needs_nvrtc
@pytest.mark.parametrize(
    ("text", "capability", "told"),
    [
        ("int f( {", "9.0", "NVRTC_ERROR_COMPILATION: kernel.cu"),
        ("", "1.0", "NVRTC_ERROR_INVALID_OPTION: nvrtc: error: invalid value"),
    ],
)
def test_what_cannot_be_compiled(text: str, capability: str, told: str, cache: Path) -> None:
    with pytest.raises(EngineError, match=f"a kernel cannot be compiled: {told}"):
        compiled(text, capability)
    assert not cache.exists()


@pytest.mark.skipif(is_installed(), reason="NVRTC is installed")
def test_without_nvrtc_it_is_said_what_to_install(cache: Path) -> None:
    with pytest.raises(ExtraMissing, match="NVRTC cannot be loaded: pip install nvidia-cuda-nvrtc"):
        compiled(kernel_text(), "9.0")


# ---------------------------------------------------------------------------------- kept


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Every compilation's options; what it gives is the text, backwards."""
    seen: list[tuple[str, ...]] = []

    def compile_text(text: str, options: tuple[str, ...]) -> bytes:
        seen.append(options)
        return text[::-1].encode()

    monkeypatch.setattr(compiler, "compile_text", compile_text)
    return seen


def test_a_kernel_is_compiled_once_for_each_text_and_capability(
    cache: Path, compilations: list[tuple[str, ...]]
) -> None:
    for _ in range(2):
        assert compiled("one", "8.7") == b"eno"
        assert compiled("one", "12.0") == b"eno"
        assert compiled("two", "8.7") == b"owt"
    assert [options[0] for options in compilations] == [
        "--gpu-architecture=sm_87",
        "--gpu-architecture=sm_120",
        "--gpu-architecture=sm_87",
    ]
    assert [path.name[:7] for path in cache.iterdir()] == ["kernel-"] * 3


def test_a_damaged_one_is_compiled_again(cache: Path, compilations: list[tuple[str, ...]]) -> None:
    compiled("one", "8.7")
    [path] = cache.iterdir()
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:10], b"", whole + b"x"):
        path.write_bytes(damaged)
        assert compiled("one", "8.7") == b"eno"
        assert path.read_bytes() == whole
    assert len(compilations) == 5


def test_where_none_can_be_kept_it_is_compiled_each_time(
    cache: Path, compilations: list[tuple[str, ...]]
) -> None:
    cache.write_text("no directory")
    assert compiled("one", "8.7") == compiled("one", "8.7") == b"eno"
    assert len(compilations) == 2
