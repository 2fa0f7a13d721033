"""An update of a box: a slot's file system in a bundle that RAUC checks, signed."""

from __future__ import annotations

import configparser
import tempfile
from pathlib import Path

from images import ImageError
from images.disk import make_ext4
from images.root import X86, Root
from images.tools import need, run, step

COMPRESSION = "-comp zstd -Xcompression-level 3"
MANIFEST = """\
[update]
compatible={compatible}
version={version}

[bundle]
format=verity

[image.rootfs]
filename=rootfs.ext4
"""
SIGN_S = 1800


def make_bundle(root: Root, directory: Path, *, certificate: Path, key: str) -> Path:
    """Make `DIRECTORY/appliance-VERSION.raucb`; return it.

    Args:
        certificate: Of whoever signs it; boxes take it if their keyring vouches for that.
        key: A file, or the address of a key on a token, as `rauc bundle --key` takes it.

    Raises:
        ImageError: It cannot be made.
    """
    need("rauc", "mksquashfs", "mkfs.ext4")
    if not certificate.is_file():
        raise ImageError(
            f"{certificate}: no such file; it is the certificate that goes with the key"
        )
    version = root.version
    bundle = directory / f"appliance-{version}.raucb"
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix=".bundle-") as name, step(str(bundle)):
        content, made = Path(name) / "content", Path(name) / bundle.name
        content.mkdir()
        make_ext4(root.slot, content / "rootfs.ext4")
        manifest = MANIFEST.format(compatible=_compatible(), version=version)
        (content / "manifest.raucm").write_text(manifest)
        signer = [f"--cert={certificate}", f"--key={key}"]
        run(["rauc", "bundle", *signer, f"--mksquashfs-args={COMPRESSION}", content, made], SIGN_S)
        made.rename(bundle)
    return bundle


def _compatible() -> str:
    """Return which boxes take it, as they say themselves."""
    system = configparser.ConfigParser()
    system.read(X86 / "root/etc/rauc/system.conf")
    return system["system"]["compatible"]
