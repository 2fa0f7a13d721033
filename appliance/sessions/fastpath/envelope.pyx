"""Protobuf as the fast path needs it: an observation's envelope read, that of an answer written.

The reader knows the fields of `Observation` in proto/session.proto and nothing else, and says no to
whatever it is not sure that `wire.session` reads in the same way: then that one reads it. It takes
no view on whether a model wants what it read. The writer writes what `wire.answers` calls an
answer's own.
"""

from libc.string cimport memcmp, memcpy, memset

cdef enum:
    VARINT = 0
    EIGHT_BYTES = 1
    COUNTED = 2
    FOUR_BYTES = 5
    MOST_NAME_BYTES = 63  # longer ones, if allowed at all, take the slow path

cdef uint64_t _DAY_US = 86_400_000_000ULL
cdef uint64_t _MOST_UINT32 = 0xFFFFFFFFULL
cdef uint64_t _MOST_INT64 = 0x7FFFFFFFFFFFFFFFULL


cdef struct Reader:
    const unsigned char* at
    const unsigned char* end
    bint bad


cdef uint64_t _varint(Reader* reader) noexcept nogil:
    cdef uint64_t value = 0
    cdef int shift = 0
    cdef unsigned char byte
    while reader.at < reader.end and shift < 64:
        byte = reader.at[0]
        reader.at += 1
        if shift == 63 and byte > 1:
            break  # more than 64 bits
        value |= <uint64_t>(byte & 0x7F) << shift
        if byte < 0x80:
            return value
        shift += 7
    reader.bad = True
    return 0


cdef uint64_t _tag_or_size(Reader* reader) noexcept nogil:
    """Read a varint that protobuf takes in at most five bytes."""
    cdef const unsigned char* start = reader.at
    cdef uint64_t value = _varint(reader)
    if reader.at - start > 5:
        reader.bad = True
    return value


cdef Span _counted(Reader* reader) noexcept nogil:
    cdef Span span
    cdef uint64_t count = _tag_or_size(reader)
    span.data = reader.at
    span.size = 0
    if reader.bad or count > <uint64_t>(reader.end - reader.at):
        reader.bad = True
        return span
    span.size = <Py_ssize_t>count
    reader.at += count
    return span


cdef Span _name(Reader* reader) noexcept nogil:
    """Read a short name of ASCII characters."""
    cdef Span span = _counted(reader)
    cdef Py_ssize_t index
    if span.size > MOST_NAME_BYTES:
        reader.bad = True
        return span
    for index in range(span.size):
        if span.data[index] >= 0x80:
            reader.bad = True
    return span


cdef uint64_t _up_to(Reader* reader, uint64_t most) noexcept nogil:
    cdef uint64_t value = _varint(reader)
    if value > most:
        reader.bad = True
    return value


cdef uint64_t _fixed64(Reader* reader) noexcept nogil:
    cdef uint64_t value = 0
    if reader.end - reader.at < 8:
        reader.bad = True
        return 0
    memcpy(&value, reader.at, 8)  # both are little-endian
    reader.at += 8
    return value


cdef float _float(Reader* reader) noexcept nogil:
    cdef float value = 0.0
    if reader.end - reader.at < 4:
        reader.bad = True
        return value
    memcpy(&value, reader.at, 4)
    reader.at += 4
    return value


cdef void _shape(Reader* reader, TensorHeader* into) noexcept nogil:
    """Read packed dimensions."""
    cdef Reader inner
    cdef Span span = _counted(reader)
    cdef uint64_t dimension
    inner.at, inner.end, inner.bad = span.data, span.data + span.size, reader.bad
    while inner.at < inner.end and not inner.bad:
        dimension = _up_to(&inner, _MOST_INT64)
        if into.rank == MOST_DIMENSIONS:
            inner.bad = True
            break
        into.shape[into.rank] = <int64_t>dimension
        into.rank += 1
    reader.bad = inner.bad


cdef void _tensor(Reader* outer, TensorHeader* into) noexcept nogil:
    cdef Reader reader
    cdef Span span = _counted(outer)
    cdef uint64_t tag
    memset(into, 0, sizeof(TensorHeader))
    reader.at, reader.end, reader.bad = span.data, span.data + span.size, outer.bad
    while reader.at < reader.end and not reader.bad:
        tag = _tag_or_size(&reader)
        if tag == (1 << 3 | COUNTED):
            into.key = _name(&reader)
        elif tag == (2 << 3 | VARINT):
            into.dtype = _up_to(&reader, _MOST_UINT32)
        elif tag == (3 << 3 | COUNTED):
            _shape(&reader, into)
        elif tag == (4 << 3 | VARINT):
            into.offset = _up_to(&reader, _MOST_INT64)
        elif tag == (5 << 3 | VARINT):
            into.length = _up_to(&reader, _MOST_INT64)
        elif tag == (6 << 3 | VARINT):
            into.timestamp_ns = _varint(&reader)
        elif tag == (7 << 3 | VARINT):
            into.encoding = _up_to(&reader, _MOST_UINT32)
        elif tag == (15 << 3 | VARINT):
            into.age_us = _up_to(&reader, _DAY_US)
        else:
            reader.bad = True
    outer.bad = reader.bad


cdef bint read_envelope(const unsigned char* data, Py_ssize_t size, Envelope* into) noexcept nogil:
    """Read an observation; return False for what is not one, or not certainly a good one.

    Spans of `into` point into `data`. Absent is zero, an empty span, or -1 where 0 means something.
    """
    cdef Reader reader
    cdef uint64_t tag
    cdef Varying* varying = &into.varying
    cdef bint has_client = False
    if size > MOST_BYTES:
        return False
    reader.at, reader.end, reader.bad = data, data + size, False
    # All but the tensors, of which those that are there are set one by one.
    into.client.size = into.model_id.size = into.model_version.size = into.spec_hash.size = 0
    into.client.data = into.model_id.data = into.model_version.data = into.spec_hash.data = data
    into.protocol_version = 0
    into.tensor_count = into.metadata_count = 0
    memset(varying, 0, sizeof(Varying))
    varying.trace_id.data = data
    varying.steps_remaining = varying.round_trip_us = varying.latency_budget_us = -1
    varying.committed_steps = varying.inference_delay_steps = -1
    while reader.at < reader.end and not reader.bad:
        tag = _tag_or_size(&reader)
        if tag == (1 << 3 | COUNTED):
            into.client = _counted(&reader)
            reader.bad |= has_client  # two of them would be merged
            has_client = True
        elif tag == (2 << 3 | VARINT):
            varying.timestamp_ns = _varint(&reader)
        elif tag == (3 << 3 | FOUR_BYTES):
            varying.urgency = _float(&reader)
            reader.bad |= not 0.0 <= varying.urgency <= 1.0
        elif tag == (4 << 3 | COUNTED):
            if into.tensor_count == MOST_TENSORS:
                return False
            _tensor(&reader, &into.tensors[into.tensor_count])
            into.tensor_count += 1
        elif tag == (5 << 3 | COUNTED):
            into.model_id = _name(&reader)
        elif tag == (6 << 3 | VARINT):
            varying.steps_remaining = <int64_t>_up_to(&reader, _MOST_UINT32)
        elif tag == (7 << 3 | COUNTED):
            if into.metadata_count == MOST_METADATA:
                return False
            into.metadata[into.metadata_count] = _counted(&reader)
            into.metadata_count += 1
        elif tag == (8 << 3 | VARINT):
            varying.priority = _up_to(&reader, _MOST_UINT32)
        elif tag == (15 << 3 | VARINT):
            into.protocol_version = _up_to(&reader, _MOST_UINT32)
        elif tag == (16 << 3 | VARINT):
            _varint(&reader)  # no feature is defined yet
        elif tag == (18 << 3 | EIGHT_BYTES):
            varying.session_nonce = _fixed64(&reader)
        elif tag == (19 << 3 | VARINT):
            varying.sequence = _varint(&reader)
        elif tag == (20 << 3 | VARINT):
            varying.episode = _varint(&reader)
        elif tag == (21 << 3 | VARINT):
            varying.age_us = _up_to(&reader, _DAY_US)
        elif tag == (22 << 3 | VARINT):
            varying.round_trip_us = <int64_t>_up_to(&reader, _DAY_US)
        elif tag == (23 << 3 | VARINT):
            varying.latency_budget_us = <int64_t>_up_to(&reader, _DAY_US)
        elif tag == (24 << 3 | VARINT):
            varying.step_period_us = _up_to(&reader, _DAY_US)
        elif tag == (25 << 3 | VARINT):
            varying.committed_steps = <int64_t>_up_to(&reader, _MOST_UINT32)
        elif tag == (26 << 3 | VARINT):
            varying.inference_delay_steps = <int64_t>_up_to(&reader, _MOST_UINT32)
        elif tag == (27 << 3 | VARINT):
            varying.observation_period_us = _up_to(&reader, _DAY_US)
        elif tag == (28 << 3 | VARINT):
            varying.lateness = _up_to(&reader, 2)
        elif tag == (29 << 3 | VARINT):
            varying.keep = _up_to(&reader, 2)
        elif tag == (30 << 3 | VARINT):
            varying.wants_status = _varint(&reader) != 0
        elif tag == (31 << 3 | COUNTED):
            into.model_version = _name(&reader)
        elif tag == (32 << 3 | COUNTED):
            into.spec_hash = _name(&reader)
        elif tag == (33 << 3 | COUNTED):
            varying.trace_id = _name(&reader)
        else:  # another kind of message (17), or a field of a later version
            return False
    return not reader.bad


cdef bint same(const Span* one, const Span* other) noexcept nogil:
    """Return whether two spans hold the same bytes."""
    return one.size == other.size and (
        one.size == 0 or memcmp(one.data, other.data, <size_t>one.size) == 0
    )


cdef bint same_tensor(const TensorHeader* one, const TensorHeader* other) noexcept nogil:
    """Return whether two tensors are of the same form, whenever they were captured."""
    cdef int index
    if (
        one.dtype != other.dtype
        or one.encoding != other.encoding
        or one.offset != other.offset
        or one.length != other.length
        or one.rank != other.rank
        or not same(&one.key, &other.key)
    ):
        return False
    for index in range(one.rank):
        if one.shape[index] != other.shape[index]:
            return False
    return True


cdef unsigned char* write_varint(unsigned char* at, uint64_t value) noexcept nogil:
    """Write `value`; return where it ends, at most 10 bytes on."""
    while value >= 0x80:
        at[0] = <unsigned char>(value & 0x7F | 0x80)
        value >>= 7
        at += 1
    at[0] = <unsigned char>value
    return at + 1


cdef unsigned char* _field(unsigned char* at, int number, uint64_t value) noexcept nogil:
    """Write an integer field, unless it is 0."""
    if value == 0:
        return at
    return write_varint(write_varint(at, <uint64_t>(number << 3 | VARINT)), value)


cdef uint64_t _zigzag(int64_t value) noexcept nogil:
    """Return what protobuf writes for an integer with a sign."""
    cdef uint64_t twice = <uint64_t>value << 1
    return ~twice if value < 0 else twice


cdef unsigned char* write_own(unsigned char* at, const Own* own) noexcept nogil:
    """Write what is one answer's own; return where it ends, at most `MOST_OWN_BYTES` on.

    Its response id has at most 100 bytes.
    """
    cdef unsigned char timing[64]
    cdef unsigned char* end
    at = write_varint(at, 2 << 3 | COUNTED)
    at = write_varint(at, <uint64_t>own.response_id_size)
    memcpy(at, own.response_id, <size_t>own.response_id_size)
    at = _field(at + own.response_id_size, 3, own.timestamp_ns)
    if own.inference_latency_ms != 0.0:
        at = write_varint(at, 5 << 3 | FOUR_BYTES)
        memcpy(at, &own.inference_latency_ms, 4)
        at += 4
    at = _field(at, 18, own.sequence)
    at = _field(at, 19, own.episode)
    end = _field(timing, 1, own.queue_us)
    end = _field(end, 2, own.batch_us)
    end = _field(end, 3, own.execute_us)
    end = _field(end, 4, own.total_us)
    end = _field(end, 5, own.batch_size)
    at = write_varint(at, 21 << 3 | COUNTED)
    at = write_varint(at, <uint64_t>(end - timing))
    memcpy(at, timing, <size_t>(end - timing))
    at = _field(at + (end - timing), 22, own.late)
    return _field(at, 24, _zigzag(own.phase_advice_us))
