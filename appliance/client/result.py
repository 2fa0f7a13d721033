"""What goes in as encoded media and what comes back as an answer."""

from __future__ import annotations

from typing import Any

from attrs import field, frozen

from appliance.errors import Outcome
from appliance.wire import arrays
from appliance.wire.types import Encoding, Observation, Response, Timing


def _as_encoding(value: Encoding | str) -> Encoding:
    try:
        encoding = Encoding[value.upper()] if isinstance(value, str) else Encoding(value)
    except (KeyError, ValueError):
        encoding = Encoding.RAW
    if encoding is Encoding.RAW:
        allowed = ", ".join(each.name.lower() for each in Encoding if each is not Encoding.RAW)
        raise ValueError(f"encoding {value!r} is not one of {allowed}")
    return encoding


def _as_bytes(data: bytes | bytearray | memoryview) -> bytes:
    return data if isinstance(data, bytes) else bytes(data)


@frozen
class Encoded(arrays.Encoded):
    """Media that is compressed already: `Encoded(jpeg_bytes, "jpeg")`.

    Attributes:
        data: The file's bytes; `bytes` are not copied, anything else is.
        encoding: JPEG, PNG, WAV or FLAC, or its name in any case.
        shape: A hint to the reader, e.g. (height, width, channels); may stay empty.
        age_us: Time since the capture of this one, microseconds.

    Raises:
        ValueError: The encoding is raw or unknown.
    """

    data: bytes = field(converter=_as_bytes)
    encoding: Encoding = field(converter=_as_encoding)
    shape: tuple[int, ...] = field(default=(), converter=tuple[int, ...])
    age_us: int = 0


def refused(observation: Observation, outcome: Outcome, message: str) -> Response:
    """Return what an appliance would say that refuses an observation; for what is refused here."""
    return Response(
        client_id=observation.client_id,
        client_type=observation.client_type,
        model_id=observation.model_id,
        sequence=observation.sequence,
        episode=observation.episode,
        outcome=outcome,
        message=message,
    )


class Result(dict[str, Any]):
    """The answer to one observation.

    As a dict it is what `inferential` gives: `response_id`, `model_id`, `inference_latency_ms`, the
    tensors by key as read-only arrays, and the metadata, which never overwrites another key.
    A refusal has no tensors.

    Attributes:
        response: Everything that was said besides the tensors.
        elapsed_ns: From the asking to the reading of the answer, nanoseconds.
    """

    __slots__ = ("elapsed_ns", "response")

    def __init__(self, tensors: dict[str, Any], response: Response, *, elapsed_ns: int) -> None:
        super().__init__(
            response_id=response.response_id,
            model_id=response.model_id,
            inference_latency_ms=response.inference_latency_ms,
        )
        for key, value in (*tensors.items(), *response.metadata.items()):
            self.setdefault(key, value)
        self.response = response
        self.elapsed_ns = elapsed_ns

    def __repr__(self) -> str:
        return f"<Result {self.status.name} sequence={self.sequence} {super().__repr__()}>"

    @property
    def ok(self) -> bool:
        """Whether it carries an answer, not a refusal."""
        return self.response.outcome is Outcome.OK

    @property
    def status(self) -> Outcome:
        """How the observation ended."""
        return self.response.outcome

    @property
    def message(self) -> str:
        """Why it was refused; empty for an answer."""
        return self.response.message

    @property
    def timing(self) -> Timing:
        """Where the time went inside the appliance."""
        return self.response.timing

    @property
    def late(self) -> bool:
        """Whether it was answered after its deadline."""
        return self.response.late

    @property
    def sequence(self) -> int:
        """The number that `observe` returned."""
        return self.response.sequence

    @property
    def episode(self) -> int:
        """The episode of the observation."""
        return self.response.episode

    @property
    def model_version(self) -> str:
        """The version that answered."""
        return self.response.model_version

    @property
    def retry_after_s(self) -> float | None:
        """Seconds after which asking again is worthwhile; None if the appliance does not say."""
        microseconds = self.response.retry_after_us
        return None if microseconds is None else microseconds / 1e6

    @property
    def redirect(self) -> tuple[str, ...]:
        """Other endpoints to go to."""
        return self.response.redirect

    @property
    def first_step(self) -> int:
        """Of an action chunk: which step its first row is for, counted from the observation."""
        return self.response.first_step

    @property
    def step_period_s(self) -> float:
        """Of an action chunk: seconds between its rows; 0 if unknown."""
        return self.response.step_period_us / 1e6

    @property
    def horizon(self) -> int:
        """Of an action chunk: its number of rows; 0 if the answer is no chunk."""
        return self.response.horizon
