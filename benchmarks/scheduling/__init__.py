"""How many robots are served in time, beside other ways to schedule them; in virtual time.

`python -m benchmarks.scheduling` simulates fleets of robots on one accelerator and lets the
appliance's scheduler and its peers serve the same observations. README.md, section Scheduling, has
the workloads, the peers and the formulas. Of our scheduler it knows `Scheduler` and `events` only.
With `--real` (`real`, `robots`, `accelerator`, `idle`) the appliance itself serves the fleets.
"""
