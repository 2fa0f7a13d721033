"""The always-on ring and the directory its incidents are written to: so much, and no more."""

from __future__ import annotations

import os
import time
from pathlib import Path

from attrs import define, field

from appliance.config import Recording as RecordingConfig
from appliance.errors import ConfigError
from appliance.recording.buffers import Ring
from appliance.recording.incidents import DIRECTORY_MODE, PREFIX, SUFFIX, IncidentPolicy

SECOND_NS = 1_000_000_000


@define(eq=False)
class FlightRecorder:
    """See the module's docstring.

    Attributes:
        ring: The last seconds.
        policy: What is an incident.
    """

    config: RecordingConfig
    ring: Ring = field(init=False)
    policy: IncidentPolicy = field(init=False)

    def __attrs_post_init__(self) -> None:
        config = self.config
        span_ns = round(config.seconds * SECOND_NS)
        self.ring = Ring(span_ns, config.bytes, images=config.images)
        self.policy = IncidentPolicy(config.misses, round(config.pause_s * SECOND_NS))

    def prepare(self) -> None:
        """Make the directory if it is not there.

        Raises:
            ConfigError: It cannot be made or written.
        """
        directory = Path(self.config.directory)
        try:
            directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"recording.directory: {directory} cannot be made: {error.strerror}"
            ) from error
        if not os.access(directory, os.W_OK | os.X_OK):
            raise ConfigError(f"recording.directory: {directory} cannot be written")

    def path(self, why: str) -> Path:
        """Return where an incident is written, by the wall clock."""
        when = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        return Path(self.config.directory) / f"{PREFIX}{when}-{why}{SUFFIX}"
