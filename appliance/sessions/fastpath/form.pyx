"""The form of an observation that passed, and what another one of it needs.

A form is everything that admission judges by: who asks for which model and version, the headers of
the tensors apart from when they were captured, and the metadata. Two observations of one form
differ in numbers that only place them in time and in rank (`Varying`), which are as valid in one
as in another, and in what the tensors hold, which nobody judges before the worker does. So what
was found for the first holds for all, as long as what it stands on does: the model's spec, the
client's policy, the rate limits. Only raw tensors have a form; a file has a header of its own.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.string cimport memcpy

from appliance.sessions.fastpath.envelope cimport (
    Span,
    Varying,
    read_envelope,
    same,
    same_tensor,
    write_varint,
)
from appliance.sessions.fastpath.slots cimport get, offset_of, put

from appliance.admission import cadence
from appliance.dispatch.ticket import Ticket
from appliance.scheduling.events import Request
from appliance.wire.types import Keep, Lateness, Observation, Tensor

cdef enum:
    ALIGNMENT = 64  # of `workers.allocator`
    LATEST = 1
    DEFAULT = 0
    MOST_OFFSET_BYTES = 24  # tags and varints around a feed
    MOST_ROW_BYTES = 4096

cdef list LATENESS = [Lateness(number) for number in range(len(Lateness))]
cdef list KEEP = [Keep(number) for number in range(len(Keep))]

cdef uint64_t SHORTEST_US = cadence.SHORTEST_US
cdef uint64_t LONGEST_US = cadence.LONGEST_US

cdef Py_ssize_t TIMESTAMP = offset_of(Observation, "timestamp_ns")
cdef Py_ssize_t URGENCY = offset_of(Observation, "urgency")
cdef Py_ssize_t PRIORITY = offset_of(Observation, "priority")
cdef Py_ssize_t STEPS = offset_of(Observation, "steps_remaining")
cdef Py_ssize_t NONCE = offset_of(Observation, "session_nonce")
cdef Py_ssize_t SEQUENCE = offset_of(Observation, "sequence")
cdef Py_ssize_t EPISODE = offset_of(Observation, "episode")
cdef Py_ssize_t AGE = offset_of(Observation, "age_us")
cdef Py_ssize_t ROUND_TRIP = offset_of(Observation, "round_trip_us")
cdef Py_ssize_t BUDGET = offset_of(Observation, "latency_budget_us")
cdef Py_ssize_t STEP_PERIOD = offset_of(Observation, "step_period_us")
cdef Py_ssize_t COMMITTED = offset_of(Observation, "committed_steps")
cdef Py_ssize_t DELAY = offset_of(Observation, "inference_delay_steps")
cdef Py_ssize_t PERIOD = offset_of(Observation, "observation_period_us")
cdef Py_ssize_t LATE = offset_of(Observation, "lateness")
cdef Py_ssize_t KEPT = offset_of(Observation, "keep")
cdef Py_ssize_t WANTS_STATUS = offset_of(Observation, "wants_status")
cdef Py_ssize_t TRACE = offset_of(Observation, "trace_id")
cdef Py_ssize_t TENSORS = offset_of(Observation, "tensors")
cdef Py_ssize_t TENSOR_TIMESTAMP = offset_of(Tensor, "timestamp_ns")
cdef Py_ssize_t TENSOR_AGE = offset_of(Tensor, "age_us")
cdef Py_ssize_t TICKET_OBSERVATION = offset_of(Ticket, "observation")
cdef Py_ssize_t TICKET_RECEIVED = offset_of(Ticket, "received_ns")
cdef Py_ssize_t REQUEST_PAYLOAD = offset_of(Request, "payload")
cdef Py_ssize_t REQUEST_ARRIVED = offset_of(Request, "arrived_ns")
cdef Py_ssize_t REQUEST_KEEP = offset_of(Request, "keep_latest")
cdef Py_ssize_t REQUEST_PERIOD = offset_of(Request, "period_ns")
cdef Py_ssize_t REQUEST_PRIORITY = offset_of(Request, "priority")
cdef Py_ssize_t REQUEST_TAG = offset_of(Request, "tag")


class NoForm(Exception):
    """An observation that cannot stand for others: it takes the slow path, and so do its like."""


cdef class Form:
    """See the module's docstring.

    Attributes:
        spec, policy, client: What `Admission.admit` found.
        count: Where its model's requests are counted.
        payloads: Where the bytes of its model's observations are counted.
    """

    def __init__(
        self,
        envelope: bytes,
        payload_size: int,
        *,
        observation: object,
        ticket: object,
        request: object,
        feeds: list[tuple[int, bytes, bytes]],
        spec: object,
        policy: object,
        count: object,
        payloads: object,
    ) -> None:
        """Take it from an observation that was admitted.

        Args:
            observation: As `wire.session` read it.
            ticket: An example of its tickets, without observation and memory.
            request: An example of its requests, that never waited.
            feeds: For each input of the model: the index of its tensor or -1, what a worker is
                told of it apart from where it lies, and its bytes if they are not a tensor's.

        Raises:
            NoForm: It has none.
        """
        if not read_envelope(
            <const unsigned char*>PyBytes_AS_STRING(envelope), len(envelope), &self._read
        ):
            raise NoForm("its envelope is unusual")
        if len(feeds) > MOST_FEEDS:
            raise NoForm("its model has too many inputs")
        if sum(len(head) + MOST_OFFSET_BYTES for _, head, _ in feeds) > MOST_ROW_BYTES:
            raise NoForm("its description is too long")
        self._envelope = envelope  # which `_read` points into
        self.payload_size = payload_size
        self.spec = spec
        self.policy = policy
        self.client = ticket.client
        self.count = count
        self.payloads = payloads
        self.burst = 0
        self._heads = [head for _, head, _ in feeds]
        self._texts = [text for _, _, text in feeds]
        self._feed_count = len(feeds)
        self._place(feeds)
        self._observation = Template(observation)
        self._tensors = [Template(tensor) for tensor in observation.tensors]
        self._ticket = Template(ticket)
        self._request = Template(request)
        self._keeps_latest = policy.keep == "latest"
        self._priority = policy.priority

    def _place(self, feeds: list[tuple[int, bytes, bytes]]) -> None:
        """Lay the inputs out as `Arena.write` does."""
        cdef Py_ssize_t start = 0
        cdef Py_ssize_t size
        cdef int tensor
        for index, (tensor, _, text) in enumerate(feeds):
            size = <Py_ssize_t>self._read.tensors[tensor].length if tensor >= 0 else len(text)
            self._feeds[index].tensor = tensor
            self._feeds[index].start = start
            self._feeds[index].size = size
            start += (size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
        self.block_size = start or 1

    cdef bint fits(self, const Envelope* envelope, Py_ssize_t payload_size) noexcept:
        """Return whether another observation is of this form."""
        cdef int index
        if (
            payload_size != self.payload_size
            or envelope.tensor_count != self._read.tensor_count
            or envelope.metadata_count != self._read.metadata_count
            or envelope.protocol_version != self._read.protocol_version
            or not same(&envelope.model_id, &self._read.model_id)
            or not same(&envelope.client, &self._read.client)
            or not same(&envelope.model_version, &self._read.model_version)
            or not same(&envelope.spec_hash, &self._read.spec_hash)
        ):
            return False
        for index in range(envelope.tensor_count):
            if not same_tensor(&envelope.tensors[index], &self._read.tensors[index]):
                return False
        for index in range(envelope.metadata_count):
            if not same(&envelope.metadata[index], &self._read.metadata[index]):
                return False
        return True

    cdef object observation(self, const Envelope* envelope):
        """Return what `wire.session` would have read."""
        cdef const Varying* varying = &envelope.varying
        made = self._observation.copy()
        put(made, TIMESTAMP, varying.timestamp_ns)
        put(made, URGENCY, <double>varying.urgency)
        put(made, PRIORITY, varying.priority if varying.priority else None)
        put(made, STEPS, _or_none(varying.steps_remaining))
        put(made, NONCE, varying.session_nonce)
        put(made, SEQUENCE, varying.sequence)
        put(made, EPISODE, varying.episode)
        put(made, AGE, varying.age_us)
        put(made, ROUND_TRIP, _or_none(varying.round_trip_us))
        put(made, BUDGET, _or_none(varying.latency_budget_us))
        put(made, STEP_PERIOD, varying.step_period_us if varying.step_period_us else None)
        put(made, COMMITTED, _or_none(varying.committed_steps))
        put(made, DELAY, _or_none(varying.inference_delay_steps))
        put(
            made,
            PERIOD,
            varying.observation_period_us if varying.observation_period_us else None,
        )
        put(made, LATE, LATENESS[<Py_ssize_t>varying.lateness])
        put(made, KEPT, KEEP[<Py_ssize_t>varying.keep])
        put(made, WANTS_STATUS, varying.wants_status)
        put(made, TRACE, _text(&varying.trace_id))
        if self._differs_in_time(envelope):
            put(made, TENSORS, self._timed(envelope))
        return made

    cdef bint _differs_in_time(self, const Envelope* envelope) noexcept:
        cdef int index
        for index in range(envelope.tensor_count):
            if (
                envelope.tensors[index].timestamp_ns != self._read.tensors[index].timestamp_ns
                or envelope.tensors[index].age_us != self._read.tensors[index].age_us
            ):
                return True
        return False

    cdef tuple _timed(self, const Envelope* envelope):
        """Return the tensors as of when they were captured."""
        cdef int index
        made = []
        for index in range(envelope.tensor_count):
            tensor = (<Template>self._tensors[index]).copy()
            put(tensor, TENSOR_TIMESTAMP, envelope.tensors[index].timestamp_ns)
            put(tensor, TENSOR_AGE, envelope.tensors[index].age_us)
            made.append(tensor)
        return tuple(made)

    cdef object ticket(self, object observation, object now_ns):
        """Return its ticket, without memory."""
        made = self._ticket.copy()
        put(made, TICKET_OBSERVATION, observation)
        put(made, TICKET_RECEIVED, now_ns)
        return made

    cdef object request(self, object ticket, const Envelope* envelope):
        """Return its request, apart from its number and its times."""
        cdef const Varying* varying = &envelope.varying
        made = self._request.copy()
        put(made, REQUEST_PAYLOAD, ticket)
        put(made, REQUEST_ARRIVED, get(ticket, TICKET_RECEIVED))
        put(
            made,
            REQUEST_KEEP,
            varying.keep == LATEST or (varying.keep == DEFAULT and self._keeps_latest),
        )
        put(made, REQUEST_PERIOD, self._period_ns(varying.observation_period_us))
        put(made, REQUEST_PRIORITY, varying.priority if varying.priority else self._priority)
        put(made, REQUEST_TAG, varying.sequence)
        return made

    cdef uint64_t _period_ns(self, uint64_t declared_us) noexcept:
        """Do as `admission.cadence.period_of` does."""
        if not SHORTEST_US <= declared_us <= LONGEST_US:
            return 0
        return max(declared_us * 1000, self.shortest_period_ns)

    cdef bytes write(
        self, const Envelope* envelope, const unsigned char* payload, unsigned char* memory,
        uint64_t offset
    ):
        """Copy the inputs into the block at `offset` of the arena; return its ticket's row."""
        cdef unsigned char buffer[MOST_ROW_BYTES]
        cdef unsigned char* at = &buffer[0]
        buffer[0] = 0
        cdef unsigned char varint[10]
        cdef Py_ssize_t index, size, digits
        cdef bytes head, text
        cdef Feed* feed
        for index in range(self._feed_count):
            feed = &self._feeds[index]
            head = <bytes>self._heads[index]
            size = len(head)
            digits = 0
            if feed.size:
                digits = write_varint(varint, offset + <uint64_t>feed.start) - varint
                if feed.tensor >= 0:
                    memcpy(
                        memory + offset + feed.start,
                        payload + envelope.tensors[feed.tensor].offset,
                        <size_t>feed.size,
                    )
                else:
                    text = <bytes>self._texts[index]
                    memcpy(
                        memory + offset + feed.start, PyBytes_AS_STRING(text), <size_t>feed.size
                    )
            at[0] = 0x0A  # one of the row's feeds
            at = write_varint(at + 1, <uint64_t>(size + (digits + 1 if digits else 0)))
            memcpy(at, PyBytes_AS_STRING(head), <size_t>size)
            at += size
            if digits:
                at[0] = 0x08  # its offset
                memcpy(at + 1, varint, <size_t>digits)
                at += digits + 1
        return PyBytes_FromStringAndSize(<char*>buffer, at - buffer)


cdef object _or_none(int64_t value):
    return None if value < 0 else value


cdef object _text(const Span* span):
    if span.size == 0:
        return ""
    return (<const char*>span.data)[: span.size].decode("ascii")
