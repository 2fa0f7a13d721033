"""The SDK on robot controllers: ask for actions, and always know what became of the asking.

`core.py` is the state machine, without socket and clock; `link.py` owns the socket; `connection.py`
and `aio.py` are the two faces. May import wire/, keys/, errors, pyzmq, protobuf, numpy and attrs:
the base install. Users reach it by `from appliance import Connection`; the command line's demo and
the load generators use it as users do. Nothing here is thread-safe: one connection belongs to one
thread.
"""
