"""PURE: which request runs when, where, and with whom; and which is told no.

`Scheduler.handle(events, now_ns)` takes what happened and returns what to do; it never sleeps,
sends or looks at a clock, so a simulation runs the same object as the appliance. Called by the
dispatcher only. Imports `appliance.errors` and `appliance.values` only.
"""

from appliance.scheduling.scheduler import Scheduler, SchedulerStatistics

__all__ = ["Scheduler", "SchedulerStatistics"]
