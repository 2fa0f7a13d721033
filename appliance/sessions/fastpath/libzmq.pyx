"""The few functions of libzmq that the fast path needs, as pyzmq has loaded them.

It must be the very library that made the sockets, so it is looked for where pyzmq's own extension
module links to, and nothing is linked at build time.

Raises, when imported:
    ImportError: This pyzmq was built in such a way that they cannot be reached.
"""

import sys

import zmq  # loads the library  # no-cython-lint

cdef extern from "dlfcn.h":
    int RTLD_LAZY
    void* dlopen(const char* path, int flags)
    void* dlsym(void* library, const char* name)

MODULES = ("zmq.backend.cython._zmq", "zmq.backend.cython.socket")
"""pyzmq's extension module: since 26, and before."""


cdef void* _open() except NULL:
    for name in MODULES:
        module = sys.modules.get(name)
        if module is not None and module.__file__:
            library = dlopen(module.__file__.encode(), RTLD_LAZY)
            if library != NULL:
                return library
    raise ImportError("pyzmq's extension module is not there")


cdef void* _find(void* library, bytes name) except NULL:
    function = dlsym(library, name)
    if function == NULL:
        raise ImportError(f"pyzmq does not show libzmq's {name.decode()}")
    return function


cdef void* _library = _open()
message_init = <_Init>_find(_library, b"zmq_msg_init")
message_init_size = <_InitSize>_find(_library, b"zmq_msg_init_size")
message_close = <_Init>_find(_library, b"zmq_msg_close")
message_more = <_Init>_find(_library, b"zmq_msg_more")
message_move = <_Swap>_find(_library, b"zmq_msg_move")
receive = <_Move>_find(_library, b"zmq_msg_recv")
send = <_Move>_find(_library, b"zmq_msg_send")
data = <_Data>_find(_library, b"zmq_msg_data")
size = <_Size>_find(_library, b"zmq_msg_size")
property_of = <_Property>_find(_library, b"zmq_msg_gets")
error_number = <_Errno>_find(_library, b"zmq_errno")
