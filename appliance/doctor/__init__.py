"""What is wrong on a box, and what to do: `appliance doctor`.

`gathering` looks, each look with a bound of its own, and fills in `facts`; `judging` makes findings
of them. Those are plain and know no system: what is wrong with a box can be tried without
that box. Called by the CLI alone.
"""
