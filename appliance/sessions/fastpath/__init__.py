"""COMPILED: the fast path of ordinary observations through the core, and of their answers back.

The first observation of a session for a model takes the slow path, in Python, and is checked in
full. Robots send the same form again and again: whatever repeats the headers of one that passed
passes too, and is taken from the socket to the scheduler here (`arrivals`), and its answer from the
worker's outputs to the socket (`answers`). The scheduler decides in between, as ever. Whatever
differs in any way, and whatever goes wrong, takes the slow path: no refusal is worded here.

This room is an accelerator and no part of the meaning: where it was not compiled, everything takes
the slow path. The tests hold the two side by side. `form` is what observations have in common and
`learn` takes it from one; `slots`, `envelope` and `libzmq` are tools. Called by the door only.
"""

from __future__ import annotations

try:
    from appliance.sessions.fastpath.answers import Answers
    from appliance.sessions.fastpath.arrivals import Arrivals
    from appliance.sessions.fastpath.learn import learn
except ImportError as error:
    missing = str(error)
else:
    missing = ""
"""Why there is no fast path: it was not compiled, or libzmq's functions cannot be reached."""

__all__ = ["Answers", "Arrivals", "learn", "missing"]
