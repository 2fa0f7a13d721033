# The form of an observation that passed, and what another one of it needs.

from libc.stdint cimport int64_t, uint64_t

from appliance.sessions.fastpath.envelope cimport MOST_TENSORS, Envelope, TensorHeader
from appliance.sessions.fastpath.slots cimport Template

cdef enum:
    MOST_FEEDS = 16

# One input of the model: a tensor of the payload, a text, or nothing.
ctypedef struct Feed:
    int tensor  # index; -1: it is the same in every observation, or absent
    Py_ssize_t start  # in the block
    Py_ssize_t size

cdef class Form:
    # What another observation must repeat.
    cdef bytes _envelope
    cdef Envelope _read
    cdef Py_ssize_t payload_size
    # Where its inputs go.
    cdef list _heads
    cdef list _texts
    cdef int _feed_count
    cdef Feed _feeds[MOST_FEEDS]
    cdef Py_ssize_t block_size
    # What is made of it.
    cdef Template _observation
    cdef list _tensors
    cdef Template _ticket
    cdef Template _request
    cdef bint _keeps_latest
    cdef object _priority
    # What it stands on, as of a burst.
    cdef readonly object spec
    cdef readonly object policy
    cdef readonly object client
    cdef readonly object count
    cdef readonly object payloads
    cdef uint64_t burst
    cdef object planned_ns
    cdef bint limited
    cdef uint64_t shortest_period_ns

    cdef bint fits(self, const Envelope* envelope, Py_ssize_t payload_size) noexcept
    cdef bint _differs_in_time(self, const Envelope* envelope) noexcept
    cdef tuple _timed(self, const Envelope* envelope)
    cdef object observation(self, const Envelope* envelope)
    cdef object ticket(self, object observation, object now_ns)
    cdef object request(self, object ticket, const Envelope* envelope)
    cdef uint64_t _period_ns(self, uint64_t declared_us) noexcept
    cdef bytes write(
        self, const Envelope* envelope, const unsigned char* payload, unsigned char* memory,
        uint64_t offset
    )
