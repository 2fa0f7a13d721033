"""Makes images of a whole box, for x86: `make image` and `make bundle`; see docs/images.md.

`root` makes the files of a slot, with the roles of `ansible/`, `disk` a disk of two such slots, and
`bundle` an update of one. What is put on the box as it is lies in `x86/`. Needs Linux, root,
and Debian's tools (`tools` names the packages); runs on any Python, and imports nothing of the
appliance.
"""

from __future__ import annotations


class ImageError(Exception):
    """The image cannot be made; the message says why, and what to do."""
