from typing import Any

from numpy.typing import NDArray

def encode_jpeg(
    image: NDArray[Any],
    quality: int = ...,
    colorspace: str = ...,
    colorsubsampling: str = ...,
    fastdct: bool = ...,
) -> bytes: ...
