"""Models that lie in wheels: where, and in which. Standard library only: `tools.stage` reads it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True)
class ShippedModel:
    """An ONNX file in a wheel.

    Attributes:
        package: To import; it is not imported, since what it needs is not installed.
        requirement: As pip wants it.
        path: Of the file, below the package's directory.
        is_whole: The wheel is needed for itself, and staged as it is.
    """

    package: str
    requirement: str
    path: str
    is_whole: bool = False

    def locate(self) -> Path:
        """Return the file.

        Raises:
            FileNotFoundError: It is not there; how to get it.
        """
        found = find_spec(self.package)
        for place in (found and found.submodule_search_locations) or ():
            path = Path(place) / self.path
            if path.is_file():
                return path
        raise FileNotFoundError(
            f"{self.package}/{self.path} is not installed: pip install --no-deps {self.requirement}"
        )


SHIPPED = {
    "voice": ShippedModel("silero_vad", "silero-vad==6.2.3", "data/silero_vad_openvino_16k.onnx"),
    "text_direction": ShippedModel(
        "rapidocr", "rapidocr==3.10.0", "models/ch_ppocr_mobile_v2.0_cls_mobile.onnx"
    ),
    "text_finder": ShippedModel(
        "rapidocr_onnxruntime",
        "rapidocr-onnxruntime==1.4.4",
        "models/ch_PP-OCRv4_det_infer.onnx",
    ),
    "file_type": ShippedModel("magika", "magika==1.0.3", "models/standard_v3_3/model.onnx"),
    "resnet_light": ShippedModel(
        "onnx", "onnx", "backend/test/data/light/light_resnet50.onnx", is_whole=True
    ),
}
"""By the name that they have in the repository."""
