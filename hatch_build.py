"""Build hook: generates `appliance/wire/pb/` from `proto/`, for wheels and editable installs.

The generated code is never committed. protoc is pinned (see `[build-system]`) to the 5.x line:
its output loads under the protobuf runtimes 5, 6 and 7.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = Path("appliance/wire/pb")


class ProtobufBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Runs protoc over every file in `proto/`."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        generate(Path(self.root))
        build_data["artifacts"].append(f"/{PACKAGE}/*")


def generate(root: Path) -> None:
    """Write `*_pb2.py` and `*_pb2.pyi` for every `proto/*.proto` below `root`."""
    from grpc_tools import protoc

    sources = sorted((root / "proto").glob("*.proto"))
    if not sources:  # an sdist that already holds the generated code
        return
    target = root / PACKAGE
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        # protoc derives Python import paths from proto paths, so lay them out as the package.
        tree = Path(scratch) / PACKAGE
        tree.mkdir(parents=True)
        names = [str(PACKAGE / Path(shutil.copy(source, tree)).name) for source in sources]
        out = f"{scratch}/out"
        Path(out).mkdir()
        arguments = ["protoc", f"-I{scratch}", f"--python_out={out}", f"--pyi_out={out}", *names]
        if protoc.main(arguments) != 0:
            raise RuntimeError(f"protoc failed: {' '.join(arguments)}")
        for generated in (Path(out) / PACKAGE).iterdir():
            shutil.copy(generated, target / generated.name)
    (target / "__init__.py").write_text('"""Generated from proto/ by the build."""\n')


if __name__ == "__main__":
    generate(Path(__file__).parent)
