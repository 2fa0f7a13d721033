# Protobuf as the fast path needs it: an observation's envelope read, that of an answer written.

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef enum:
    MOST_BYTES = 2048  # each session keeps some
    MOST_TENSORS = 16
    MOST_DIMENSIONS = 8
    MOST_METADATA = 8

ctypedef struct Span:
    const unsigned char* data
    Py_ssize_t size

ctypedef struct TensorHeader:
    Span key
    uint64_t dtype
    uint64_t encoding
    uint64_t offset
    uint64_t length
    uint64_t timestamp_ns
    uint64_t age_us
    int rank
    int64_t shape[MOST_DIMENSIONS]

# What may differ between two observations of the same form. -1 is absent.
ctypedef struct Varying:
    uint64_t timestamp_ns
    float urgency
    uint64_t priority
    int64_t steps_remaining
    uint64_t session_nonce
    uint64_t sequence
    uint64_t episode
    uint64_t age_us
    int64_t round_trip_us
    int64_t latency_budget_us
    uint64_t step_period_us
    int64_t committed_steps
    int64_t inference_delay_steps
    uint64_t observation_period_us
    uint64_t lateness
    uint64_t keep
    bint wants_status
    Span trace_id

ctypedef struct Envelope:
    # Its form.
    Span client
    Span model_id
    Span model_version
    Span spec_hash
    uint64_t protocol_version
    int tensor_count
    TensorHeader tensors[MOST_TENSORS]
    int metadata_count
    Span metadata[MOST_METADATA]
    Varying varying

ctypedef struct Own:
    const unsigned char* response_id
    Py_ssize_t response_id_size
    uint64_t timestamp_ns
    float inference_latency_ms
    uint64_t sequence
    uint64_t episode
    bint late
    uint64_t queue_us
    uint64_t batch_us
    uint64_t execute_us
    uint64_t total_us
    uint64_t batch_size
    int64_t phase_advice_us

cdef enum:
    MOST_OWN_BYTES = 256

cdef bint read_envelope(const unsigned char* data, Py_ssize_t size, Envelope* into) noexcept nogil
cdef bint same(const Span* one, const Span* other) noexcept nogil
cdef bint same_tensor(const TensorHeader* one, const TensorHeader* other) noexcept nogil
cdef unsigned char* write_varint(unsigned char* at, uint64_t value) noexcept nogil
cdef unsigned char* write_own(unsigned char* at, const Own* own) noexcept nogil
