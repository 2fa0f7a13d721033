# Attributes of attrs classes with slots, read and written where they lie in the object.

from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF

cdef Py_ssize_t offset_of(type cls, str name) except -1

cdef inline object get(object instance, Py_ssize_t offset):
    """Return what a slot holds; it is set."""
    return <object>(<PyObject**>(<char*><PyObject*>instance + offset))[0]

cdef inline void put(object instance, Py_ssize_t offset, object value) noexcept:
    """Let a slot hold `value`."""
    cdef PyObject** slot = <PyObject**>(<char*><PyObject*>instance + offset)
    cdef PyObject* old = slot[0]
    Py_INCREF(value)
    slot[0] = <PyObject*>value
    Py_XDECREF(old)

cdef class Template:
    cdef object _example
    cdef type _type
    cdef Py_ssize_t _count
    cdef Py_ssize_t* _offsets

    cdef object copy(self)
