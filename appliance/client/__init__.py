"""The SDK on robot controllers: ask for actions, and always know what became of the asking.

PURE: `core.py` is the state machine of a connection, `boxes.py` chooses among several appliances,
`chunks.py` has the row for each instant and `ticks.py` the instants. `link.py` owns the socket;
`connection.py`, `aio.py` and `trio.py` are the three faces; `episode.py` is what a control loop
uses of any of them.

May import wire/, keys/, errors, pyzmq, protobuf, numpy and attrs: the base install; only `trio.py`
needs Trio. Users reach it by `from appliance import Connection`; the command line's demo and the
load generators use it as users do. Nothing here is thread-safe: one connection belongs to one
thread.
"""
