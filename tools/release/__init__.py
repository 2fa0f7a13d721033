"""Makes a release that robots without a network install: `make release`, `make locks`.

`targets` says for whom, `locks` which versions, `wheels` fetches and compiles them, `archive` puts
them into one tar per target, `bill` lists what is in them. `__main__` does it all, in that order.
What checks and installs a release on a robot is `tools/install_release.py`. Imports nothing of the
appliance.
"""

from __future__ import annotations


class ReleaseError(Exception):
    """The release cannot be made; the message says why, and what to do."""
