"""PURE: bytes to types and back. Sockets and clocks are elsewhere.

`session.py` is the robots' wire (`tensors.py` its tensor headers, `checks.py` its limits),
`legacy.py` what clients of the old wire need changed, `worker.py` the channel to worker
processes, `arrays.py` turns tensors into numpy arrays, `media.py` reads image and audio headers,
`spec.py` says what a model takes. Used by both doors, the core, the workers and the SDK; imports
only `appliance.errors`, numpy, attrs and protobuf.
"""
