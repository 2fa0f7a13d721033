"""PURE: which request runs when, where, and with whom; and which is told no.

`Scheduler.handle(events, now_ns)` takes what happened and returns what to do; it never sleeps,
sends or looks at a clock, so a simulation runs the same object as the appliance. Called by the
dispatcher only. Imports `appliance.errors` and `appliance.values` only.

To read it, in this order: `events`, the vocabulary. `scheduler`, what becomes of each event.
`queue`, `room`, `line` and `turns`, where requests wait; `due`, until when. `streams` and
`cadence`, what is known of each client's rhythm; `shedding`, who is refused, `advice`, who is to
come later.
`workers` and `estimate`, how long work takes. `assignment`, when a worker is given what; `choice`,
what a strategy is asked. `deadline_aware`, ours: `outlook`, `window`, `critical`, `order` and
`leads` are its steps. `strategies` and `guard`, others'.
"""

from appliance.scheduling.scheduler import Scheduler, SchedulerStatistics

__all__ = ["Scheduler", "SchedulerStatistics"]
