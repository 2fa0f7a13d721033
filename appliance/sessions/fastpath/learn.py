"""Which observations may take the fast path: those of a form that has passed."""

from __future__ import annotations

from attrs import evolve

from appliance.admission.tensors import match
from appliance.dispatch.intake import Intake
from appliance.dispatch.ticket import Ticket
from appliance.scheduling.events import Request
from appliance.sessions.fastpath.form import Form, NoForm
from appliance.sessions.table import Session
from appliance.wire.spec import ModelSpec
from appliance.wire.types import Encoding, Observation
from appliance.wire.worker import ABSENT, feed_head

MOST_FORMS = 4
"""Kept for one session, which may ask several models, or change what it sends."""

MOST_UNUSED = 16
"""A session whose observations do not repeat a form learns only once a second after so many."""

SECOND_NS = 1_000_000_000


def learn(
    session: Session,
    request: Request,
    envelope: bytes,
    payload: memoryview,
    *,
    intake: Intake,
) -> None:
    """Let observations like one that was just admitted take the fast path from now on.

    Args:
        request: What was posted of it; nobody has taken it up yet.
        envelope, payload: As they came.
    """
    now_ns = request.arrived_ns
    if now_ns < session.learns_ns:
        return
    session.unused_forms += 1
    if session.unused_forms >= MOST_UNUSED:
        session.learns_ns = now_ns + SECOND_NS
    try:
        form = _form(request, envelope, payload, intake)
    except NoForm:
        return
    if len(session.forms) == MOST_FORMS:
        del session.forms[0]
    session.forms.append(form)


def _form(request: Request, envelope: bytes, payload: memoryview, intake: Intake) -> Form:
    ticket: Ticket = request.payload
    observation, spec = ticket.observation, ticket.spec
    assert spec is not None
    if spec.recurrent:
        raise NoForm("each observation of a recurrent model is one of a kind")
    if any(tensor.encoding is not Encoding.RAW for tensor in observation.tensors):
        raise NoForm("a file has a header of its own")
    return Form(
        envelope,
        len(payload),
        observation=observation,
        ticket=Ticket(
            door=ticket.door,
            route=ticket.route,
            session=ticket.session,
            client=ticket.client,
            observation=observation,
            received_ns=0,
            spec=spec,
            prefix=ticket.prefix,
        ),
        request=evolve(request, id=0, payload=None),
        feeds=_feeds(spec, observation, payload),
        spec=spec,
        policy=intake.admission.policy(ticket.client),
        count=intake.endings.ledger.model(spec.model_id),
        payloads=intake.endings.metrics.recorder(spec.model_id).payload_bytes,
    )


def _feeds(
    spec: ModelSpec, observation: Observation, payload: memoryview
) -> list[tuple[int, bytes, bytes]]:
    """Return for each input: the index of its tensor or -1, a worker's description, a text."""
    indices = {tensor.key: index for index, tensor in enumerate(observation.tensors)}
    feeds: list[tuple[int, bytes, bytes]] = []
    for wanted, feed in zip(spec.inputs, match(spec, observation, payload)[0], strict=True):
        if feed.data is None:
            feeds.append((-1, ABSENT, b""))
            continue
        head = feed_head(len(feed.data), feed.dtype, feed.encoding, feed.shape)
        if isinstance(feed.data, bytes):
            feeds.append((-1, head, feed.data))
        else:
            feeds.append((indices[wanted.source], head, b""))
    return feeds
