"""`python -m images image|bundle RELEASE ...`: make a disk, or an update, with a release in it."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from images import ImageError
from images.bundle import make_bundle
from images.disk import Sizes, make_disk
from images.root import Contents, make_root


def main() -> int:
    """Make what is asked for; 0 if it is there."""
    arguments = _parser().parse_args()
    os.umask(0o022)  # the modes of a box, not of whoever makes it
    try:
        print(_make(arguments))
    except ImageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _make(arguments: argparse.Namespace) -> Path:
    if not arguments.allow_unsigned and arguments.allowed_signers is None:
        raise ImageError("name who may sign the release: --allowed-signers FILE")
    contents = Contents(
        release=arguments.release,
        allowed_signers=None if arguments.allow_unsigned else arguments.allowed_signers,
        keyring=arguments.keyring,
        authorized_keys=arguments.authorized_keys,
        variables=arguments.variables,
        packages=tuple(arguments.package),
        sources=arguments.sources,
        version=arguments.version,
    )
    root = make_root(contents, arguments.work, arguments.ansible)
    if arguments.what == "image":
        sizes = Sizes(root=arguments.root_size, data=arguments.data_size)
        return make_disk(root, arguments.out, sizes)
    return make_bundle(root, arguments.out, certificate=arguments.certificate, key=arguments.key)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="images", description=(__doc__ or "").partition("\n")[0])
    common = argparse.ArgumentParser(add_help=False)
    add = common.add_argument
    add("release", type=Path, metavar="RELEASE", help="folder that `make release` made")
    add("--allowed-signers", type=Path, metavar="FILE", help="who may sign it; see ssh-keygen(1)")
    add("--allow-unsigned", action="store_true", help="take a release that nobody signed")
    add(
        "--keyring", type=Path, required=True, metavar="PEM", help="who may sign updates of the box"
    )
    add("--authorized-keys", type=Path, metavar="FILE", help="who may log in as root by ssh")
    add("--variables", type=Path, metavar="FILE", help="of the roles in ansible/, as YAML or JSON")
    add(
        "--package", action="append", default=[], metavar="NAME", help="of Debian, such as a driver"
    )
    add("--sources", type=Path, metavar="FILE", help="of apt, instead of this machine's")
    add("--version", default="", help="of the image, if it is not that of the release")
    add("--out", type=Path, default=Path("dist"), metavar="DIRECTORY")
    add("--work", type=Path, default=Path(".build/images"), metavar="DIRECTORY")
    add("--ansible", type=Path, default=Path(".build/ansible/bin"), metavar="DIRECTORY")
    what = parser.add_subparsers(dest="what", required=True)
    image = what.add_parser("image", parents=[common], help="a disk with two slots")
    sizes = Sizes()
    image.add_argument("--root-size", default=sizes.root, metavar="BYTES", help="of each slot")
    image.add_argument("--data-size", default=sizes.data, metavar="BYTES", help="at the least")
    bundle = what.add_parser("bundle", parents=[common], help="an update of one slot, signed")
    bundle.add_argument("--certificate", type=Path, required=True, metavar="PEM")
    bundle.add_argument("--key", required=True, metavar="PEM", help="or a PKCS#11 address")
    return parser


if __name__ == "__main__":
    sys.exit(main())
