"""Real models, out of the packages that carry them: the demo's three, and one that finds text."""

from __future__ import annotations

import shutil
from pathlib import Path

from appliance.cli.demo.models import Wheel, build_repository

REAL_MODELS = ("text_direction", "voice", "policy", "text_finder")
TEXT_FINDER = Wheel("rapidocr", "rapidocr==3.10.0", "models/PP-OCRv6_det_small.onnx")


def add_real_models(root: Path) -> None:
    """Lay out `REAL_MODELS` below a directory."""
    build_repository(root)
    version = root / "text_finder" / "1"
    version.mkdir(parents=True)
    (version.parent / "model.toml").write_text(
        "max_batch = 2\noutput_bytes = 409600\n"
        '[[inputs]]\nname = "x"\nresize = [320, 320]\nlayout = "CHW"\n'
    )
    shutil.copyfile(TEXT_FINDER.locate(), version / "model.onnx")
