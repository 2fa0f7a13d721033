"""Recordings of what happened, as MCAP files, and the ring in memory that an incident writes.

`capture` is told by the hot path and only takes down; `buffers` bound what it takes down; `files`
makes MCAP of it, by `messages`, in a process of its own (`__main__`), which `writer` starts and
feeds, by `transfer`; `recorder` owns the recordings that run, `incidents` says when the ring is
written. `reader` reads a file back, unpacked by `chunks`, for `appliance replay`.

A room of its own beside the doors, and not a part of `metrics`: it knows tickets, replies and
batches, which lie above that. The rooms below know only `dispatch.witness`. Called by app, admin's
actions and the CLI.
"""
