"""What runs inside a worker process: the loop, preprocessing, and the engines themselves.

A worker is one blocking thread: it takes one batch at a time from the control socket, gathers the
rows from the arena, runs the engine, writes the outputs back and says Done. No Trio here. A run
that never returns is the core's business: it kills the process.

```
__main__   start: lifeline, arguments          loop       Hello, Load, Stage/Go/Revoke/Stop, Done
forkserver what every worker is a copy of
load       manifest + engine + warm-up         model      one loaded model: stage, execute
residents  all models; which leave for others  staged     a batch on its way
gather     rows -> batched arrays              preprocess one input's rows
images     Pillow, only where needed           sounds     libsndfile, only where needed
resampling how Pillow resizes, in numbers
outputs    results -> arena                    arena      the shared memory, checked
registry   engine by name                      onnxruntime, python   the engines
samples    made-up rows                        warmup     how long batches take
verification   does a version answer what it should?
overlap    what is done while a device computes   device   what a worker computes on
cuda/      one GPU: memory, streams, graphs    tensorrt/   engines for it: built, found, run
```

Imports `appliance.models`, `appliance.residency`, `appliance.wire` and `appliance.errors`. Started
by `workers` as `python -m appliance.engines`, once: workers are copies of that process. Nothing
imports it, but `cli` to verify versions and to build engines.
"""
