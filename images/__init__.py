"""Makes images of a whole box: `make image` and `make bundle` for x86, `make jetson` for Jetson.

`provision` puts the appliance into a root file system, with the roles of `ansible/`; both use it.

- x86, see docs/images.md: `debian` fetches the system, `root` makes the files of a slot, `disk` a
  disk of two such slots, and `bundle` an update of one. What is put on the box as it is lies in
  `x86/`.
- Jetson, see `jetson/README.md`: NVIDIA's system, which NVIDIA's tools flash.

Needs Linux, root, and Debian's tools (`tools` names the packages); runs on any Python, and imports
nothing of the appliance.
"""

from __future__ import annotations


class ImageError(Exception):
    """The image cannot be made; the message says why, and what to do."""
