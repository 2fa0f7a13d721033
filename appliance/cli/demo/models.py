"""The demo's model repository: two models out of installed wheels, and a policy built here."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

from attrs import frozen

from appliance.cli.demo.policy import HORIZON, build_policy
from appliance.errors import ConfigError

STEP_MS = 20.0

DIRECTION_MANIFEST = """\
description = "Is the text in this camera frame upright, or upside down?"
max_batch = 8

[[inputs]]
name = "x"
from = "camera"
decode = ["jpeg", "png"]
resize = [48, 192]
layout = "CHW"
color = "BGR"
scale = 0.00392156862745098
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
"""

VOICE_MANIFEST = """\
description = "Does somebody speak? 64 samples of context and 512 new ones at 16 kHz."
max_batch = 1

[[inputs]]
name = "input"
from = "audio"
decode = ["wav", "flac"]
sample_rate = 16000

[[state]]
input = "state"
output = "stateN"
batch_axis = 1
"""

POLICY_MANIFEST = f"""\
description = "Joint states in, a chunk of actions out."
max_batch = 8

[chunk]
horizon = {HORIZON}
step_period_ms = {STEP_MS}
"""


@frozen
class Wheel:
    """A model file inside an installed package.

    Attributes:
        package: To import, were it imported; it is not, since its own needs are not installed.
        distribution: Its name and version for pip.
        pattern: Of the file, below the package's directory.
    """

    package: str
    distribution: str
    pattern: str

    def locate(self) -> Path:
        """Return the model file.

        Raises:
            ConfigError: The package or the file is not there; how to get it.
        """
        advice = f"run `make demo`, or: pip install --no-deps {self.distribution}"
        found = find_spec(self.package)
        if found is None or not found.submodule_search_locations:
            raise ConfigError(f"demo: the package {self.package} is not installed; {advice}")
        directory = Path(next(iter(found.submodule_search_locations)))
        files = sorted(directory.glob(self.pattern))
        if not files:
            raise ConfigError(f"demo: there is no {self.pattern} in {directory}; {advice}")
        return files[0]


DIRECTION_WHEEL = Wheel("rapidocr", "rapidocr==3.10.0", "models/ch_ppocr_mobile_v2.0_cls*.onnx")
VOICE_WHEEL = Wheel("silero_vad", "silero-vad==6.2.3", "data/silero_vad_openvino_16k.onnx")


def build_repository(directory: Path) -> None:
    """Lay out `text_direction`, `voice` and `policy` below `directory`.

    Raises:
        ConfigError: A package that carries a model is not installed.
    """
    direction, voice = DIRECTION_WHEEL.locate(), VOICE_WHEEL.locate()
    shutil.copyfile(direction, _lay_out(directory, "text_direction", DIRECTION_MANIFEST))
    shutil.copyfile(voice, _lay_out(directory, "voice", VOICE_MANIFEST))
    build_policy(_lay_out(directory, "policy", POLICY_MANIFEST))


def _lay_out(directory: Path, name: str, manifest: str) -> Path:
    """Write a model's manifest; return where the file of its version 1 belongs."""
    version = directory / name / "1"
    version.mkdir(parents=True)
    (directory / name / "model.toml").write_text(manifest)
    return version / "model.onnx"
