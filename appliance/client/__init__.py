"""The SDK on robot controllers: ask for actions, and always know what became of the asking.

PURE: `core.py` is the state machine of a connection, with `line.py` (what is not sent yet),
`pending.py` (what waits for an image to be compressed) and `specs.py` (what models take);
`boxes.py` chooses among several appliances, `chunks.py` has the row for each instant, `ticks.py`
the instants to act at and `cadence.py` those to observe at; `images.py` says what becomes of an
image. `link.py` owns the socket, and `encoder.py` the one thread, there only where images are
compressed; `connection.py`, `aio.py` and `trio.py` are the three faces; `episode.py` is what a
control loop uses of any of them.

May import wire/, keys/, errors, pyzmq, protobuf, numpy and attrs: the base install; only `trio.py`
needs Trio, and only `jpeg.py` the extra `images`. Users reach it by `from appliance import
Connection`; the command line's demo and the load generators use it as users do. Nothing here is
thread-safe: one connection belongs to one thread.
"""
