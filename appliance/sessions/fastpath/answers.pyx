"""Out: from the outputs of a batch to the sockets of the robots, for rows that simply succeeded.

What a row's answer shares with others is bytes that were written before; what is its own is written
into ZeroMQ's memory directly, and its outputs are copied there from the arena, once. What cannot be
sent like that is left to the slow path, as it was.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint64_t, uintptr_t
from libc.stdio cimport snprintf
from libc.string cimport memcpy

from appliance.sessions.fastpath cimport libzmq
from appliance.sessions.fastpath.envelope cimport MOST_OWN_BYTES, Own, write_own
from appliance.sessions.fastpath.slots cimport get, offset_of, put

import time

import zmq

from appliance.dispatch.results import BatchResult
from appliance.dispatch.ticket import Ticket
from appliance.errors import Outcome
from appliance.metrics.histogram import Histogram
from appliance.scheduling.events import Answer, Batch, Request
from appliance.sessions import table
from appliance.sessions.table import Session
from appliance.wire.spec import ModelSpec
from appliance.wire.types import Observation

cdef extern from "errno.h":
    int EINTR

cdef enum:
    MOST_OUTPUTS = 16
    STAGES = 6

cdef object _OK = Outcome.OK
cdef uint64_t LONGEST_US = table.LONGEST_US

cdef Py_ssize_t ANSWER_REQUEST = offset_of(Answer, "request")
cdef Py_ssize_t ANSWER_LATE = offset_of(Answer, "late")
cdef Py_ssize_t ANSWER_BATCH = offset_of(Answer, "batch")
cdef Py_ssize_t ANSWER_ROW = offset_of(Answer, "row")
cdef Py_ssize_t ANSWER_ADVICE = offset_of(Answer, "advice_ns")
cdef Py_ssize_t REQUEST_PAYLOAD = offset_of(Request, "payload")
cdef Py_ssize_t REQUEST_DEADLINE = offset_of(Request, "deadline_ns")
cdef Py_ssize_t TICKET_PREFIX = offset_of(Ticket, "prefix")
cdef Py_ssize_t TICKET_ROUTE = offset_of(Ticket, "route")
cdef Py_ssize_t TICKET_OBSERVATION = offset_of(Ticket, "observation")
cdef Py_ssize_t TICKET_RECEIVED = offset_of(Ticket, "received_ns")
cdef Py_ssize_t TICKET_SPEC = offset_of(Ticket, "spec")
cdef Py_ssize_t SPEC_HORIZON = offset_of(ModelSpec, "horizon")
cdef Py_ssize_t SPEC_STEP_PERIOD = offset_of(ModelSpec, "step_period_us")
cdef Py_ssize_t SEQUENCE = offset_of(Observation, "sequence")
cdef Py_ssize_t EPISODE = offset_of(Observation, "episode")
cdef Py_ssize_t AGE = offset_of(Observation, "age_us")
cdef Py_ssize_t ROUND_TRIP = offset_of(Observation, "round_trip_us")
cdef Py_ssize_t STEP_PERIOD = offset_of(Observation, "step_period_us")
cdef Py_ssize_t SESSION_ROUTING = offset_of(Session, "routing_id")
cdef Py_ssize_t SESSION_DRY = offset_of(Session, "dry_ns")
cdef Py_ssize_t HISTOGRAM_TOTAL = offset_of(Histogram, "total")
cdef Py_ssize_t HISTOGRAM_MAX = offset_of(Histogram, "max")
cdef Py_ssize_t HISTOGRAM_CLAMPED = offset_of(Histogram, "clamped")


cdef extern from *:
    """
    static inline int appliance_exponent(unsigned long long value) {
        return 56 - __builtin_clzll(value | 255);  /* bits beyond the eighth */
    }
    """
    int exponent_of "appliance_exponent" (unsigned long long value) noexcept nogil


cdef class Tally:
    """A histogram of `metrics.histogram`, to be counted into in C."""

    cdef object _histogram
    cdef uint64_t[::1] _counts
    cdef int64_t _highest
    cdef uint64_t _total
    cdef int64_t _max
    cdef uint64_t _clamped

    def __cinit__(self, histogram: Histogram) -> None:
        self._histogram = histogram
        self._counts = histogram.counts
        self._highest = histogram.highest

    cdef void record(self, int64_t value) noexcept:
        """Do as `Histogram.record` does."""
        cdef int exponent
        if value < 0 or value > self._highest:
            self._clamped += 1
            value = 0 if value < 0 else self._highest
        exponent = exponent_of(<unsigned long long>value)
        self._counts[(exponent << 7) + (value >> exponent)] += 1
        self._total += <uint64_t>value
        if value > self._max:
            self._max = value

    cdef int settle(self) except -1:
        """Bring what Python reads up to date."""
        histogram = self._histogram
        if self._total:
            put(histogram, HISTOGRAM_TOTAL, get(histogram, HISTOGRAM_TOTAL) + self._total)
        if self._clamped:
            put(histogram, HISTOGRAM_CLAMPED, get(histogram, HISTOGRAM_CLAMPED) + self._clamped)
        if self._max > get(histogram, HISTOGRAM_MAX):
            put(histogram, HISTOGRAM_MAX, self._max)
        self._total = self._clamped = 0
        return 0


cdef class Stages:
    """The histograms of one model, as `ModelRecorder.record` fills them."""

    cdef Tally age, queue, batch, execute, reply, total, slack, lateness

    def __cinit__(self, recorder: object) -> None:
        self.age = Tally(recorder.age)
        self.queue = Tally(recorder.queue)
        self.batch = Tally(recorder.batch)
        self.execute = Tally(recorder.execute)
        self.reply = Tally(recorder.reply)
        self.total = Tally(recorder.total)
        self.slack = Tally(recorder.slack)
        self.lateness = Tally(recorder.lateness)

    cdef int settle(self) except -1:
        self.age.settle()
        self.queue.settle()
        self.batch.settle()
        self.execute.settle()
        self.reply.settle()
        self.total.settle()
        self.slack.settle()
        self.lateness.settle()
        return 0


cdef struct Rows:
    # The outputs of a batch, and what its answers have in common.
    int count
    uint64_t offsets[MOST_OUTPUTS]
    uint64_t lengths[MOST_OUTPUTS]
    uint64_t row_bytes
    int64_t started_ns
    int64_t finished_ns
    int64_t batch_us
    int64_t execute_us
    uint64_t size
    int64_t now_ns
    uint64_t timestamp_ns


cdef int _supply(
    object session, object spec, object observation, int64_t received_ns, int64_t age_us
) except -1:
    """Do as `Session.supplied` does."""
    cdef uint64_t horizon = get(spec, SPEC_HORIZON)
    cdef uint64_t step_us
    cdef int64_t dry_ns
    if not horizon:
        return 0
    step_us = get(spec, SPEC_STEP_PERIOD)
    if not step_us:
        step_us = get(observation, STEP_PERIOD) or 0
    if not step_us:
        return 0
    dry_ns = received_ns - age_us * 1000 + <int64_t>min(horizon * step_us, LONGEST_US) * 1000
    round_trip_us = get(observation, ROUND_TRIP)
    if round_trip_us is not None:
        dry_ns -= <int64_t>round_trip_us * 500
    known = get(session, SESSION_DRY)
    if known is None or <int64_t>known < dry_ns:
        put(session, SESSION_DRY, dry_ns)
    return 0


cdef class Answers:
    """The sending end of a door.

    Attributes:
        sent: Answers sent so far.
    """

    cdef void* _socket
    cdef object _owner
    cdef object _endings
    cdef const unsigned char[::1] _arena
    cdef dict _stages
    cdef bytes _instance
    cdef readonly uint64_t sent
    cdef uint64_t _number
    cdef Rows _rows

    def __init__(
        self, socket: zmq.Socket[bytes], *, endings: object, instance: int
    ) -> None:
        """Stand beside the slow path.

        Args:
            socket: A ROUTER with ROUTER_MANDATORY, which lives longer than this.
            instance: Of this process; response ids begin with it.
        """
        self._owner = socket
        self._socket = <void*><uintptr_t>socket.underlying
        self._endings = endings
        self._arena = endings.memory.arena.memory
        self._stages = {}
        self._instance = f"{instance:016x}-s".encode()  # the slow path counts for itself
        self.sent = self._number = 0

    def send(
        self, answers: list[Answer], result: BatchResult, batch: Batch, now_ns: int
    ) -> list[Answer]:
        """Answer rows of one batch, as far as that is simple; return those that are left.

        Args:
            answers: All OK.
            result: What the worker reported of `batch`.
        """
        cdef Stages stages
        cdef bytes headers
        cdef int64_t slack_us = 0
        if result.headers is None or not self._read(result, batch, now_ns):
            return answers
        headers = result.headers.encoded
        model = batch.lane.model.name
        stages = <Stages>self._stages.get(model)
        if stages is None:
            stages = self._stages[model] = Stages(self._endings.metrics.recorder(model))
        left = []
        told = []
        late = 0
        for answer in answers:
            ticket = get(get(answer, ANSWER_REQUEST), REQUEST_PAYLOAD)
            if get(ticket, TICKET_PREFIX) is None or not self._answer(
                answer, ticket, headers, stages, &slack_us
            ):
                left.append(answer)
                continue
            told.append(answer)
            if get(answer, ANSWER_LATE):
                late += 1
                get(ticket, TICKET_ROUTE).ended(_OK, late=True, slack_us=slack_us)
            else:
                get(ticket, TICKET_ROUTE).ended(_OK, late=False, slack_us=slack_us)
        if told:
            stages.settle()
            self.sent += <uint64_t>len(told)
            self._endings.answered(told, result, late, now_ns)
        return left

    cdef bint _read(self, object result, object batch, object now_ns) except -1:
        """Read what the answers of a batch have in common; return whether it is simple."""
        cdef Rows* rows = &self._rows
        cdef uint64_t offset, length
        cdef uint64_t arena_size = <uint64_t>self._arena.shape[0]
        cdef int count = 0
        rows.size = len(batch.requests)
        rows.row_bytes = 0
        for offset, length in result.spans():
            if count == MOST_OUTPUTS or offset + length * rows.size > arena_size:
                return False
            rows.offsets[count] = offset
            rows.lengths[count] = length
            rows.row_bytes += length
            count += 1
        rows.count = count
        rows.started_ns = batch.started_ns
        rows.finished_ns = result.finished_ns
        rows.batch_us = result.batch_us
        rows.execute_us = result.execute_us
        rows.now_ns = now_ns
        rows.timestamp_ns = time.time_ns()
        return True

    cdef bint _answer(
        self, object answer, object ticket, bytes headers, Stages stages, int64_t* slack_us
    ) except -1:
        """Send the answer of one row and record its times; return whether it was sent."""
        cdef Rows* rows = &self._rows
        cdef Own own
        cdef char response_id[64]
        cdef int64_t received_ns = get(ticket, TICKET_RECEIVED)
        cdef int64_t age_us
        cdef int64_t deadline_ns = get(get(answer, ANSWER_REQUEST), REQUEST_DEADLINE)
        observation = get(ticket, TICKET_OBSERVATION)
        self._number += 1
        own.response_id = <const unsigned char*>response_id
        own.response_id_size = snprintf(
            response_id,
            sizeof(response_id),
            "%s%llu",
            PyBytes_AS_STRING(self._instance),
            <unsigned long long>self._number,
        )
        own.timestamp_ns = rows.timestamp_ns
        own.inference_latency_ms = <float>(<double>rows.execute_us / 1000.0)
        own.sequence = get(observation, SEQUENCE)
        own.episode = get(observation, EPISODE)
        own.late = get(answer, ANSWER_LATE)
        own.queue_us = <uint64_t>((rows.started_ns - received_ns) // 1000)
        own.batch_us = <uint64_t>rows.batch_us
        own.execute_us = <uint64_t>rows.execute_us
        own.total_us = <uint64_t>((rows.now_ns - received_ns) // 1000)
        own.batch_size = rows.size
        own.phase_advice_us = <int64_t>get(answer, ANSWER_ADVICE) // 1000
        if not self._put_out(
            get(get(ticket, TICKET_ROUTE), SESSION_ROUTING),
            get(ticket, TICKET_PREFIX),
            headers,
            &own,
            get(answer, ANSWER_ROW),
        ):
            return False
        age_us = get(observation, AGE)
        _supply(
            get(ticket, TICKET_ROUTE),
            get(ticket, TICKET_SPEC),
            observation,
            received_ns,
            age_us,
        )
        stages.age.record(age_us)
        stages.queue.record(<int64_t>own.queue_us)
        stages.batch.record(rows.batch_us)
        stages.execute.record(rows.execute_us)
        stages.reply.record((rows.now_ns - rows.finished_ns) // 1000)
        stages.total.record(<int64_t>own.total_us)
        slack_us[0] = (deadline_ns - rows.now_ns) // 1000
        if slack_us[0] >= 0:
            stages.slack.record(slack_us[0])
        else:
            stages.lateness.record(-slack_us[0])
        return True

    cdef bint _put_out(
        self, bytes routing_id, bytes prefix, bytes headers, const Own* own, uint64_t row
    ) except -1:
        """Send one message; return whether ZeroMQ took it."""
        cdef libzmq.Message parts[4]
        cdef unsigned char written[MOST_OWN_BYTES]
        cdef unsigned char* at
        cdef size_t own_size = <size_t>(write_own(written, own) - written)
        cdef size_t id_size = <size_t>PyBytes_GET_SIZE(routing_id)
        cdef size_t prefix_size = <size_t>PyBytes_GET_SIZE(prefix)
        cdef size_t header_size = <size_t>PyBytes_GET_SIZE(headers)
        cdef Rows* rows = &self._rows
        cdef int index
        if not self._begin(
            parts, id_size, prefix_size + header_size + own_size, <size_t>rows.row_bytes
        ):
            return False
        memcpy(libzmq.data(&parts[0]), PyBytes_AS_STRING(routing_id), id_size)
        at = <unsigned char*>libzmq.data(&parts[2])
        memcpy(at, PyBytes_AS_STRING(prefix), prefix_size)
        memcpy(at + prefix_size, PyBytes_AS_STRING(headers), header_size)
        memcpy(at + prefix_size + header_size, written, own_size)
        at = <unsigned char*>libzmq.data(&parts[3])
        for index in range(rows.count):
            memcpy(
                at,
                &self._arena[<Py_ssize_t>(rows.offsets[index] + row * rows.lengths[index])],
                <size_t>rows.lengths[index],
            )
            at += rows.lengths[index]
        # Once it has taken the first part, the peer is there and has room for the others.
        for index in range(4):
            if not self._send(&parts[index], index < 3):
                while index < 4:
                    libzmq.message_close(&parts[index])
                    index += 1
                return False
        return True

    cdef bint _begin(
        self, libzmq.Message* parts, size_t id_size, size_t envelope_size, size_t payload_size
    ) noexcept:
        """Make room for the parts of a message; return whether there is."""
        cdef size_t sizes[4]
        cdef int index
        sizes[0], sizes[1], sizes[2], sizes[3] = id_size, 0, envelope_size, payload_size
        for index in range(4):
            if libzmq.message_init_size(&parts[index], sizes[index]) < 0:
                while index > 0:
                    index -= 1
                    libzmq.message_close(&parts[index])
                return False
        return True

    cdef bint _send(self, libzmq.Message* message, bint more) noexcept:
        """Hand a part over; return whether it was taken."""
        cdef int flags = libzmq.DONTWAIT | (libzmq.SNDMORE if more else 0)
        while libzmq.send(message, self._socket, flags) < 0:
            if libzmq.error_number() != EINTR:
                return False
        return True
