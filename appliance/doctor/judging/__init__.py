"""Makes findings of what was seen. Plain functions of `Facts`.

`judge` has all checks in their order; each takes the facts and returns remarks.
"""
