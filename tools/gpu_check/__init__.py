"""Does this GPU do what it should, and how fast? `python -m tools.gpu_check RESULTS.json`.

Runs where there is no network, after `install`, from the folder that was staged or from the
repository's root. `program` runs each of `sections` as a process of its own, with a time of its
own, so that none takes the others with it, and writes what is known after each. A section returns
a `Finding`: figures, each with its limit, and whatever else is worth knowing.

```
__main__   the command line        program    section after section, within the budget
finding    figures and limits      table      what is printed in the end
process    a section as one
setting    what sections are given sections/  one file for each kind
models     what they are tried on  networks   those of random numbers   wheels   those in wheels
busy       work of any size        engines    built into a cache
bare       an engine, no worker    served     a whole appliance         robots   its clients
```

Imports the appliance, `benchmarks` and `tools.worker_client`; nothing imports it, but `tools.stage`
reads `wheels`.
"""
