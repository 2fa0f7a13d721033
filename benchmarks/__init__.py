"""How fast and how lean the appliance is, each figure beside a floor or a peer in the same run.

`python -m benchmarks` prints one table; README.md says how to read it. Every process measured is
a real one: `appliance serve`, clients, floors and the peer's server are all children of this one.
"""
