"""What the faces of a model share: all that never waits."""

from __future__ import annotations

import time
from collections.abc import Mapping

from attrs import frozen

from appliance.client.cadence import Cadence, period_ns_of
from appliance.client.chunks import Merge
from appliance.client.codec import Value, pack_inputs
from appliance.client.episode import Dry, Episode
from appliance.client.images import Images, Job, check_images, take_frames
from appliance.client.link import Link
from appliance.client.result import Result
from appliance.errors import LocalProtocolError, Outcome
from appliance.wire.types import PROTOCOL_VERSION, Keep, Lateness, Observation

DEFAULT_STEP_US = 20_000
"""How long an action lasts if neither the model nor its user says."""


def lateness_of(name: str | None) -> Lateness:
    """Read the `lateness` option.

    Raises:
        ValueError: It is none of firm, soft and None.
    """
    choices = {None: Lateness.DEFAULT, "firm": Lateness.FIRM, "soft": Lateness.SOFT}
    if name not in choices:
        raise ValueError(f"lateness {name!r} is not 'firm', 'soft' or None")
    return choices[name]


def keep_of(name: str | None) -> Keep:
    """Read the `keep` option.

    Raises:
        ValueError: It is none of latest, all and None.
    """
    choices = {None: Keep.DEFAULT, "latest": Keep.LATEST, "all": Keep.ALL}
    if name not in choices:
        raise ValueError(f"keep {name!r} is not 'latest', 'all' or None")
    return choices[name]


def microseconds(milliseconds: float | None) -> int | None:
    """Return whole microseconds; None stays None."""
    return None if milliseconds is None else round(milliseconds * 1000)


@frozen(kw_only=True)
class Options:
    """What `.model(...)` was told, in the wire's units."""

    latency_budget_us: int
    priority: int
    lateness: Lateness
    observation_period_us: int | None
    step_period_us: int | None
    model_version: str


class ModelHandle:
    """One model of one connection, and what can be done with it at once."""

    def __init__(
        self,
        link: Link,
        model_id: str,
        *,
        latency_budget_ms: float,
        priority: int,
        lateness: str | None,
        keep: str | None,
        window: int,
        observation_period_ms: float | None,
        step_period_ms: float | None,
        model_version: str,
        images: Images | None,
    ) -> None:
        check_images(images)
        if window < 1:
            raise ValueError(f"window {window} is not at least 1")
        self._link = link
        self._core = link.core
        self._options = Options(
            latency_budget_us=round(latency_budget_ms * 1000),
            priority=priority,
            lateness=lateness_of(lateness),
            observation_period_us=microseconds(observation_period_ms),
            step_period_us=microseconds(step_period_ms),
            model_version=model_version,
        )
        self._channel = self._core.channel(model_id, keep=keep_of(keep), window=window)
        self._images = images
        if images is not None:
            link.use_encoder()
            self._core.specs.learn(self._channel, model_version)
            link.pump()

    def observe_at(
        self,
        tensors: Mapping[str, Value],
        *,
        urgency: float = 0.0,
        steps_remaining: int | None = None,
        priority: int | None = None,
        age_us: int = 0,
        episode: int | None = None,
        committed_steps: int | None = None,
        inference_delay_steps: int | None = None,
        trace_id: str = "",
    ) -> int:
        """Ask for an action, with everything that can be said about the asking.

        Returns at once, whatever the appliance does. The arrays' bytes are copied once, here:
        they may be overwritten as soon as this returns. What `images` names is compressed after
        that, meanwhile; its age grows.

        Args:
            tensors: By key: numpy arrays, `Encoded` media and the bytes of a JPEG or PNG file are
                sent as tensors, strings as metadata; None is left out.
            urgency: 0 to 1, as the robot sees it.
            steps_remaining: Actions it still had at capture; 0 is run dry.
            priority: Instead of the model handle's; lower is more important.
            age_us: Since the capture, microseconds.
            episode: This one and the following belong to this episode.
            committed_steps: Actions that will be executed whatever the answer.
            inference_delay_steps: Actions expected to be executed until the answer.
            trace_id: Comes back in the appliance's own records.

        Returns:
            The observation's number.

        Raises:
            WindowFull: Under `keep="all"`, when too many are unanswered or uncollected.
            TypeError: A value is none of the above, or an array's dtype cannot be sent.
        """
        core, channel, options = self._core, self._channel, self._options
        sequence = core.next_sequence(channel)
        timestamp_ns = time.time_ns()
        frames = ()
        if self._images is not None:
            frames = take_frames(tensors, self._images, channel.known.inputs)
            taken = {frame.key for frame in frames}
            tensors = {key: value for key, value in tensors.items() if key not in taken}
        headers, metadata, payload = pack_inputs(tensors, timestamp_ns)
        job = None
        cadence = channel.cadence
        period_us = options.observation_period_us
        if period_us is None and cadence is not None:
            period_us = cadence.period_ns // 1000
        if frames:
            job = Job(channel.model_id, sequence, frames, headers, payload, timestamp_ns)
        if episode is not None:
            channel.episode = episode
        observation = Observation(
            client_id=core.client_id,
            client_type=core.client_type,
            model_id=channel.model_id,
            tensors=headers,
            metadata=metadata,
            timestamp_ns=timestamp_ns,
            urgency=urgency,
            priority=options.priority if priority is None else priority,
            steps_remaining=steps_remaining,
            protocol_version=PROTOCOL_VERSION,
            session_nonce=core.nonce,
            sequence=sequence,
            episode=channel.episode,
            age_us=age_us,
            round_trip_us=core.round_trip.estimate_us,
            latency_budget_us=options.latency_budget_us,
            step_period_us=options.step_period_us,
            committed_steps=committed_steps,
            inference_delay_steps=inference_delay_steps,
            observation_period_us=period_us,
            lateness=options.lateness,
            keep=channel.keep,
            wants_status=True,
            model_version=options.model_version,
            trace_id=trace_id,
        )
        core.ask(channel, observation, payload, time.monotonic_ns(), job)
        self._link.pump()
        return sequence

    def cancel(self, sequence: int | None = None) -> None:
        """Withdraw an observation, by default the latest; its answer will not be given."""
        self._core.cancel(self._channel, self._channel.latest if sequence is None else sequence)
        self._link.pump()

    def end_episode(self) -> None:
        """End the episode: recurrent state is forgotten, and what follows is the next episode."""
        self._core.end_episode(self._channel)
        self._link.pump()

    def episode(
        self,
        *,
        observation_hz: float | None = None,
        action: str | None = None,
        merge: str | Merge = "replace",
        dry: Dry = "none",
        **constant: Value,
    ) -> Episode:
        """Begin an episode, for a loop that acts at each instant; use it by `with`.

        Args:
            observation_hz: How often to observe; None: when an answer to a later observation
                would come too late.
            action: The output that holds the actions; not needed if there is only one.
            merge: What becomes of the present plan when a chunk comes: "replace" it, "freeze" what
                is committed of it, `Blend(steps)`, or a function (see `chunks.Merge`).
            dry: What to do without a row: "none", "hold" the last one, "zero", or a function.
            constant: Sent with each observation, such as a prompt.

        Raises:
            LocalProtocolError: The model has an episode on this connection, which is not over.
            ValueError: An option is out of range.
        """
        return Episode(
            self._link,
            self._channel,
            self.observe_at,
            constant,
            observation_hz=observation_hz,
            step_ns=(self._options.step_period_us or DEFAULT_STEP_US) * 1000,
            action=action,
            merge=merge,
            dry=dry,
        )

    def _begin_pace(self, hz: float) -> Cadence:
        """Begin to observe at a rate, without an episode."""
        if self._channel.takes_older:
            raise LocalProtocolError(
                f"model {self.model_id!r} has an episode that is not over: ask its `due`, and give "
                "it the rate as `observation_hz`"
            )
        return self._channel.follow(period_ns_of("hz", hz))

    @property
    def model_id(self) -> str:
        """The model's name."""
        return self._channel.model_id

    @property
    def outstanding(self) -> int:
        """Observations of this model that have not ended."""
        return len(self._channel.held)

    @property
    def episode_number(self) -> int:
        """The episode that observations belong to; 0 until episodes are used."""
        return self._channel.episode

    @property
    def last_status(self) -> Outcome | None:
        """How the latest observation (or `describe`) ended; None while nothing was heard."""
        return self._channel.status

    @property
    def last_message(self) -> str:
        """What the appliance said about it."""
        return self._channel.message

    def _has_latest(self) -> bool:
        return self._channel.latest in self._channel.answers

    def _has_any(self) -> bool:
        return bool(self._channel.answers) or not self._channel.held

    def _is_described(self) -> bool:
        return self._channel.describing == 0

    def _is_settled(self, sequence: int) -> bool:
        return not self._channel.awaits(sequence)


def answer_of(result: Result | None) -> Result | None:
    """Return the result if it is an answer, None if it is a refusal or nothing."""
    return result if result is not None and result.ok else None
