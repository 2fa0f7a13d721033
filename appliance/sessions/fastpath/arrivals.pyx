"""In: from the socket to the scheduler's inbox, for observations of a known form.

A message is received, read, found to be of a form of its session, copied into the arena and posted,
with no Python object made but those that the rest of the appliance works with. Until it is certain
that nothing speaks against it, nothing is changed, and the message can still take the slow path.
"""

from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.dict cimport PyDict_DelItem, PyDict_GetItem, PyDict_SetItem
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport uint64_t, uintptr_t
from libc.string cimport memcmp, strlen

from appliance.sessions.fastpath cimport libzmq
from appliance.sessions.fastpath.envelope cimport Envelope, read_envelope
from appliance.sessions.fastpath.form cimport Form
from appliance.sessions.fastpath.slots cimport Template, get, offset_of, put

import zmq

from appliance.admission.deadline import Deadline, deadline_of
from appliance.dispatch.endings import Endings
from appliance.dispatch.ticket import Ticket
from appliance.errors import Rejected
from appliance.metrics.ledger import Count
from appliance.scheduling.events import Arrived, Request
from appliance.sessions.table import Session

cdef extern from "errno.h":
    int EAGAIN
    int EINTR

cdef enum:
    PARTS = 4
    SMALL_BYTES = 8192  # of `io.zmq_socket`

cdef const char* USER_ID = "User-Id"  # of `io.zmq_socket`

cdef Py_ssize_t SESSION_ROUTING = offset_of(Session, "routing_id")
cdef Py_ssize_t SESSION_FORMS = offset_of(Session, "forms")
cdef Py_ssize_t SESSION_UNUSED = offset_of(Session, "unused_forms")
cdef Py_ssize_t SESSION_KEY = offset_of(Session, "key")
cdef Py_ssize_t SESSION_SILENT = offset_of(Session, "silent")
cdef Py_ssize_t SESSION_SEEN = offset_of(Session, "last_seen_ns")
cdef Py_ssize_t TICKET_BLOCK = offset_of(Ticket, "block")
cdef Py_ssize_t TICKET_ROW = offset_of(Ticket, "row")
cdef Py_ssize_t REQUEST_ID = offset_of(Request, "id")
cdef Py_ssize_t REQUEST_DEADLINE = offset_of(Request, "deadline_ns")
cdef Py_ssize_t REQUEST_EXPIRES = offset_of(Request, "expires_ns")
cdef Py_ssize_t REQUEST_FIRM = offset_of(Request, "firm")
cdef Py_ssize_t REQUEST_DRY = offset_of(Request, "dry")
cdef Py_ssize_t REQUEST_RUNS_OUT = offset_of(Request, "runs_out")
cdef Py_ssize_t DEADLINE_NS = offset_of(Deadline, "deadline_ns")
cdef Py_ssize_t DEADLINE_FIRM = offset_of(Deadline, "firm")
cdef Py_ssize_t DEADLINE_DRY = offset_of(Deadline, "dry")
cdef Py_ssize_t DEADLINE_RUNS_OUT = offset_of(Deadline, "runs_out")
cdef Py_ssize_t COUNT_ASKED = offset_of(Count, "asked")
cdef Py_ssize_t ARRIVED_REQUEST = offset_of(Arrived, "request")
cdef Py_ssize_t ENDINGS_WITNESS = offset_of(Endings, "witness")


cdef class Part:
    """A large part of a message, in ZeroMQ's own memory: it lives as long as views of this do."""

    cdef libzmq.Message _message

    def __cinit__(self) -> None:
        libzmq.message_init(&self._message)

    def __dealloc__(self) -> None:
        libzmq.message_close(&self._message)

    def __getbuffer__(self, Py_buffer* buffer, int flags) -> None:
        PyBuffer_FillInfo(
            buffer,
            self,
            libzmq.data(&self._message),
            <Py_ssize_t>libzmq.size(&self._message),
            1,
            flags,
        )


cdef object _as_python(libzmq.Message* message):
    """Return a part as Python takes it: `bytes`, or of a large one a view."""
    cdef Py_ssize_t size = <Py_ssize_t>libzmq.size(message)
    cdef Part part
    if size < SMALL_BYTES:
        return PyBytes_FromStringAndSize(<char*>libzmq.data(message), size)
    part = Part()
    libzmq.message_move(&part._message, message)
    return memoryview(part)


cdef str _user_of(libzmq.Message* message):
    """Return the user id that authentication gave a message's connection, or an empty one."""
    cdef const char* user = libzmq.property_of(message, USER_ID)
    return "" if user == NULL else user.decode()


cdef bint _is_from(libzmq.Message* message, object key) except -1:
    """Return whether this is the user id of a message's connection."""
    cdef const char* user = libzmq.property_of(message, USER_ID)
    cdef Py_ssize_t size
    cdef const char* expected = PyUnicode_AsUTF8AndSize(key, &size)
    if user == NULL:
        return size == 0
    return strlen(user) == <size_t>size and memcmp(user, expected, <size_t>size) == 0


cdef class Arrivals:
    """The receiving end of a door.

    Attributes:
        received: Messages taken so far.
        fast: Of them, those that went the fast path.
    """

    cdef void* _socket
    cdef object _owner
    cdef object _take
    cdef dict _sessions
    cdef object _intake
    cdef object _endings
    cdef object _memory
    cdef object _post
    cdef object _clock
    cdef bint _keyed
    cdef object _numbers
    cdef object _may_come
    cdef object _admission
    cdef object _ttl_ns
    cdef object _overall
    cdef unsigned char[::1] _arena
    cdef Template _arrived
    cdef uint64_t _burst
    cdef readonly uint64_t received
    cdef readonly uint64_t fast

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        *,
        take: object,
        sessions: dict[bytes, Session],
        intake: object,
        clock: object,
        keyed: bool = False,
    ) -> None:
        """Stand beside the slow path.

        Args:
            socket: A ROUTER, which lives longer than this.
            take: The slow path of a message: its parts, when it came, and the user id of its
                connection, which without keys is empty.
            sessions: Those of the door, by routing id, least recently seen first.
            clock: Monotonic nanoseconds.
            keyed: Connections have user ids: their sessions' keys.
        """
        self._owner = socket
        self._socket = <void*><uintptr_t>socket.underlying
        self._take = take
        self._sessions = sessions
        self._intake = intake
        self._endings = intake.endings
        self._memory = intake.memory
        self._post = intake.dispatcher.post
        self._clock = clock
        self._keyed = keyed
        self._numbers = intake.numbers
        self._may_come = intake.admission.may_come
        self._admission = intake.admission
        self._ttl_ns = intake.admission.ttl_ns
        self._overall = intake.endings.ledger.overall
        self._arena = intake.memory.arena.memory
        self._arrived = Template(Arrived(None))
        self._burst = 0

    def take_some(self, most: int, until_ns: int) -> int:
        """Take what is there, at most `most` messages, and no further one after `until_ns`.

        Returns:
            How many; 0: nothing is there.

        Raises:
            zmq.ZMQError: The socket is closed.
        """
        cdef int taken = 0
        cdef bint is_fast
        now_ns = self._clock()
        self._burst += 1
        self._ttl_ns = self._admission.ttl_ns
        while taken < most:
            is_fast = False
            if not self._receive(now_ns, &is_fast):
                break
            taken += 1
            self.fast += is_fast
            if self._clock() > until_ns:
                break
        self.received += <uint64_t>taken
        return taken

    cdef bint _receive(self, object now_ns, bint* is_fast) except -1:
        """Receive one message and take it; return whether one was there."""
        cdef libzmq.Message parts[PARTS + 1]  # the last is any that nobody should send
        cdef int count = 0
        cdef int index
        cdef bint more = True
        try:
            while more:
                if count > PARTS:
                    libzmq.message_close(&parts[PARTS])
                else:
                    count += 1
                libzmq.message_init(&parts[count - 1])
                if not self._receive_part(&parts[count - 1], &more):
                    return False
            if count == PARTS and self._take_fast(parts, now_ns):
                is_fast[0] = True
                witness = get(self._endings, ENDINGS_WITNESS)
                if witness is not None:
                    witness.arrived(
                        PyBytes_FromStringAndSize(
                            <char*>libzmq.data(&parts[0]), <Py_ssize_t>libzmq.size(&parts[0])
                        ),
                        PyBytes_FromStringAndSize(
                            <char*>libzmq.data(&parts[2]), <Py_ssize_t>libzmq.size(&parts[2])
                        ),
                        _as_python(&parts[3]),
                        now_ns,
                    )
            else:
                self._take(
                    [_as_python(&parts[index]) for index in range(count)],
                    now_ns,
                    _user_of(&parts[count - 1]) if self._keyed else "",
                )
            return True
        finally:
            for index in range(count):
                libzmq.message_close(&parts[index])

    cdef bint _receive_part(self, libzmq.Message* into, bint* more) except -1:
        """Receive one part; return whether one was there."""
        while libzmq.receive(into, self._socket, libzmq.DONTWAIT) < 0:
            if libzmq.error_number() == EAGAIN:
                return False
            if libzmq.error_number() != EINTR:
                raise zmq.ZMQError(libzmq.error_number())
        more[0] = libzmq.message_more(into) != 0
        return True

    cdef bint _take_fast(self, libzmq.Message* parts, object now_ns) except -1:
        """Take a message if it is an observation of a known form; return whether it was."""
        cdef Envelope envelope
        cdef Py_ssize_t payload_size = <Py_ssize_t>libzmq.size(&parts[3])
        cdef Form form
        cdef PyObject* found = PyDict_GetItem(
            self._sessions,
            PyBytes_FromStringAndSize(
                <char*>libzmq.data(&parts[0]), <Py_ssize_t>libzmq.size(&parts[0])
            ),
        )
        if found == NULL or libzmq.size(&parts[1]) != 0:
            return False
        session = <object>found
        forms = get(session, SESSION_FORMS)
        # Another connection may have come under the routing id of one that left.
        if self._keyed and not _is_from(&parts[PARTS - 1], get(session, SESSION_KEY)):
            return False
        if not forms or get(session, SESSION_SILENT) or not read_envelope(
            <const unsigned char*>libzmq.data(&parts[2]),
            <Py_ssize_t>libzmq.size(&parts[2]),
            &envelope,
        ):
            return False
        for form in <list>forms:
            if form.fits(&envelope, payload_size):
                break
        else:
            return False
        if form.burst != self._burst and not self._still_holds(form):
            (<list>forms).remove(form)
            return False
        if form.limited and not self._may_come(form.spec, form.policy, form.client, now_ns):
            return False  # the slow path refuses it
        self._admit(
            session, form, &envelope, <const unsigned char*>libzmq.data(&parts[3]), now_ns
        )
        return True

    cdef bint _still_holds(self, Form form) except -1:
        """Return whether what a form stands on is still so; if it is, bring it up to date."""
        found = self._intake.still_admits(form.spec, form.policy, form.client)
        if found is None:
            return False
        form.planned_ns, form.limited, form.shortest_period_ns = found
        form.burst = self._burst
        return True

    cdef int _admit(
        self,
        object session,
        Form form,
        const Envelope* envelope,
        const unsigned char* payload,
        object now_ns,
    ) except -1:
        """Do what `SessionTable.seen` and `Intake.offer` do for an observation that is admitted."""
        observation = form.observation(envelope)
        # It was seen last now.
        routing_id = get(session, SESSION_ROUTING)
        PyDict_DelItem(self._sessions, routing_id)
        PyDict_SetItem(self._sessions, routing_id, session)
        put(session, SESSION_SEEN, now_ns)
        put(session, SESSION_UNUSED, 0)
        session.observed(observation, now_ns)
        put(form.count, COUNT_ASKED, get(form.count, COUNT_ASKED) + 1)
        put(self._overall, COUNT_ASKED, get(self._overall, COUNT_ASKED) + 1)
        ticket = form.ticket(observation, now_ns)
        try:
            block = self._memory.allocate(form.client, form.block_size, form.policy.arena_bytes)
        except Rejected as rejected:
            self._intake.end(ticket, rejected, now_ns)
            return 0
        put(ticket, TICKET_BLOCK, block)
        put(
            ticket,
            TICKET_ROW,
            form.write(envelope, payload, &self._arena[0], <uint64_t>block.offset),
        )
        form.payloads.record(form.payload_size)
        deadline = deadline_of(
            observation,
            form.policy,
            arrived_ns=now_ns,
            planned_ns=form.planned_ns,
            longest_ns=self._ttl_ns,
        )
        request = form.request(ticket, envelope)
        put(request, REQUEST_ID, next(self._numbers))
        put(request, REQUEST_DEADLINE, get(deadline, DEADLINE_NS))
        put(request, REQUEST_EXPIRES, now_ns + self._ttl_ns)
        put(request, REQUEST_FIRM, get(deadline, DEADLINE_FIRM))
        put(request, REQUEST_DRY, get(deadline, DEADLINE_DRY))
        put(request, REQUEST_RUNS_OUT, get(deadline, DEADLINE_RUNS_OUT))
        arrived = self._arrived.copy()
        put(arrived, ARRIVED_REQUEST, request)
        self._post(arrived)
        return 0
