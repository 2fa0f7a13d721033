"""One file for each kind of section; each has a `check(setting, finding, ...)`.

They are imported only in the process that runs them, so that what one lacks costs that one.
"""
