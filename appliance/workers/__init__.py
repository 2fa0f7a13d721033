"""Worker processes: the memory shared with them, their lives, and what is said to them.

PURE: `allocator.py`, `restart.py`, `hang.py`, `start_progress.py` and `conversation.py` (what one
generation said and was told) take times as arguments and do no IO. `arena.py` is the shared memory.
`channel.py` and `process.py` are the socket and the process of one generation, which
`forkserver.py` starts; `supervisor.py` keeps one slot alive, and `pool.py` is what others call;
what they learn comes as the `events.py`.

Imports `appliance.wire`, `appliance.scheduling.events`, `appliance.errors` and Trio. Called by
`dispatch` and `app`; doors allocate and write rows through the arena.
"""
