"""Puts the appliance into NVIDIA's system for Jetson: `python -m images jetson`; see README.md.

`downloads` checks what the user has fetched from NVIDIA, `tree` unpacks it and runs the roles in
it, `boards` reads which boards it is for, and says how each is flashed. Nothing here knows a
version, a board or a chip: all of them are read.
"""
