"""The owner of the scheduler, and what stands directly before and behind it.

A door hands observations to `Intake` (admission, then one copy into the arena), which posts them
to the `Dispatcher`: inbox -> `Scheduler.handle` -> effects -> timer. `Endings` is where every
request ends, once: told, counted, its memory given back. Called by the doors and the app; imports
`workers`, `admission`, `scheduling`, `metrics`, `wire` and `io`.
"""
