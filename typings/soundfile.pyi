"""What is used of soundfile, for the type checker: the package carries no types."""

from types import TracebackType
from typing import IO, Any

from numpy.typing import NDArray

class SoundFile:
    def __init__(self, file: IO[bytes]) -> None: ...
    def __enter__(self) -> SoundFile: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
    def read(self, frames: int, dtype: str, always_2d: bool) -> NDArray[Any]: ...

def write(
    file: IO[bytes], data: NDArray[Any], samplerate: int, *, format: str, subtype: str
) -> None: ...
