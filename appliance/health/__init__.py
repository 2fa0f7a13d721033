"""How the GPUs are that workers compute on: what is read of them, by whom, and what that means.

```
reading    one device's health as plain data, and as a line between processes       PURE
clocks     readings -> how far the clocks are held down, for the scheduler          PURE
concerns   a reading -> what is wrong, and what to do                               PURE
nvml       reads a device by NVIDIA's management library                            blocking
jetson     reads a Jetson's GPU from sysfs                                          blocking
__main__   the reader: a process that writes a line of readings again and again     blocking
monitor    keeps a reader, and hands on what it says                                Trio
```

The reader is a process of its own, one for the box. A driver in trouble is what has to be noticed,
and then its calls take seconds, never return, or fault: in a worker they would hold up the one
thread that feeds the GPU, and stop with it; in the core, a thread that is stuck in the kernel would
keep the whole process from ending. A reader is killed, and the worst that follows is that nothing
is known. It makes no CUDA context, so it takes no memory of the GPU. There is none where no worker
computes on a GPU.

Imports `appliance.engines.cuda.driver`, `appliance.engines.lifeline`, `appliance.metrics.status`,
`appliance.structure`, `appliance.timeslice` and `appliance.errors`. Used by `app` and `doctor`.
"""
