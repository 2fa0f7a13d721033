# The few functions of libzmq that the fast path needs, as pyzmq has loaded them.

cdef extern from *:
    """
    /* As in zmq.h, where it has kept its size and alignment since libzmq 4.2. */
    typedef union { unsigned char bytes[64]; void *alignment; } appliance_zmq_message;
    """
    ctypedef struct Message "appliance_zmq_message":
        pass

cdef enum:
    DONTWAIT = 1
    SNDMORE = 2

ctypedef int (*_Init)(Message*) noexcept nogil
ctypedef int (*_InitSize)(Message*, size_t) noexcept nogil
ctypedef int (*_Swap)(Message*, Message*) noexcept nogil
ctypedef int (*_Move)(Message*, void*, int) noexcept nogil
ctypedef void* (*_Data)(Message*) noexcept nogil
ctypedef size_t (*_Size)(const Message*) noexcept nogil
ctypedef int (*_Errno)() noexcept nogil
ctypedef const char* (*_Property)(const Message*, const char*) noexcept nogil

cdef _Init message_init
cdef _InitSize message_init_size
cdef _Init message_close
cdef _Init message_more
cdef _Swap message_move
cdef _Move receive
cdef _Move send
cdef _Data data
cdef _Size size
cdef _Errno error_number
cdef _Property property_of
