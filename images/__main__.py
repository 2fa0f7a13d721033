"""`python -m images image|bundle|jetson RELEASE ...`: make what has a release in it."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from images import ImageError
from images.bundle import make_bundle
from images.disk import Sizes, make_disk
from images.jetson.downloads import Downloads
from images.jetson.tree import make_tree
from images.provision import Contents, locked
from images.root import BoxContents, make_root


def main() -> int:
    """Make what is asked for; 0 if it is there."""
    arguments = _parser().parse_args()
    os.umask(0o022)  # the modes of a box, not of whoever makes it
    signal.signal(signal.SIGTERM, _end)
    place: Path = arguments.out if arguments.what == "jetson" else arguments.work
    try:
        with locked(place):
            print(_make(arguments))
    except (ImageError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


def _end(number: int, _: FrameType | None) -> None:
    """End by an exception, so that what is half made is removed."""
    sys.exit(128 + number)


def _make(arguments: argparse.Namespace) -> Path:
    if not arguments.allow_unsigned and arguments.allowed_signers is None:
        raise ImageError("name who may sign the release: --allowed-signers FILE")
    every: dict[str, Any] = {
        "release": arguments.release,
        "allowed_signers": None if arguments.allow_unsigned else arguments.allowed_signers,
        "authorized_keys": arguments.authorized_keys,
        "variables": arguments.variables,
        "version": arguments.version,
    }
    if arguments.what == "jetson":
        return _make_tree(arguments, Contents(**every))
    contents = BoxContents(
        **every,
        keyring=arguments.keyring,
        packages=tuple(arguments.package),
        sources=arguments.sources,
    )
    root = make_root(contents, arguments.work, arguments.ansible)
    if arguments.what == "image":
        sizes = Sizes(root=arguments.root_size, data=arguments.data_size)
        return make_disk(root, arguments.out, sizes)
    return make_bundle(root, arguments.out, certificate=arguments.certificate, key=arguments.key)


def _make_tree(arguments: argparse.Namespace, contents: Contents) -> Path:
    made = make_tree(
        contents,
        Downloads(arguments.bsp, arguments.rootfs, arguments.sums),
        arguments.out,
        arguments.ansible,
        boards=arguments.board,
        apply_options=arguments.apply_option,
    )
    print(made.read_text(), file=sys.stderr)
    return made


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="images", description=(__doc__ or "").partition("\n")[0])
    every = argparse.ArgumentParser(add_help=False)
    add = every.add_argument
    add("release", type=Path, metavar="RELEASE", help="folder that `make release` made")
    add("--allowed-signers", type=Path, metavar="FILE", help="who may sign it; see ssh-keygen(1)")
    add("--allow-unsigned", action="store_true", help="take a release that nobody signed")
    add("--authorized-keys", type=Path, metavar="FILE", help="who may log in as root by ssh")
    add("--variables", type=Path, metavar="FILE", help="of the roles in ansible/, as YAML or JSON")
    add("--version", default="", help="of the image, if it is not that of the release")
    add("--out", type=Path, default=Path("dist"), metavar="DIRECTORY")
    add("--ansible", type=Path, default=Path(".build/ansible/bin"), metavar="DIRECTORY")
    x86 = argparse.ArgumentParser(add_help=False)
    add = x86.add_argument
    add(
        "--keyring", type=Path, required=True, metavar="PEM", help="who may sign updates of the box"
    )
    add(
        "--package", action="append", default=[], metavar="NAME", help="of Debian, such as a driver"
    )
    add("--sources", type=Path, metavar="FILE", help="of apt, instead of this machine's")
    add("--work", type=Path, default=Path(".build/images"), metavar="DIRECTORY")
    what = parser.add_subparsers(dest="what", required=True)
    image = what.add_parser("image", parents=[every, x86], help="a disk with two slots, for x86")
    sizes = Sizes()
    image.add_argument("--root-size", default=sizes.root, metavar="BYTES", help="of each slot")
    image.add_argument("--data-size", default=sizes.data, metavar="BYTES", help="at the least")
    bundle = what.add_parser("bundle", parents=[every, x86], help="an update of a slot, signed")
    bundle.add_argument("--certificate", type=Path, required=True, metavar="PEM")
    bundle.add_argument("--key", required=True, metavar="PEM", help="or a PKCS#11 address")
    _add_jetson(what.add_parser("jetson", parents=[every], help="NVIDIA's tree, to be flashed"))
    return parser


def _add_jetson(jetson: argparse.ArgumentParser) -> None:
    add = jetson.add_argument
    add("--bsp", type=Path, required=True, metavar="TBZ2", help="Jetson_Linux_R..._aarch64.tbz2")
    add(
        "--rootfs",
        type=Path,
        required=True,
        metavar="TBZ2",
        help="Tegra_Linux_Sample-Root-Filesystem_R..._aarch64.tbz2",
    )
    add(
        "--sums", type=Path, required=True, metavar="FILE", help="of both, as sha256sum writes them"
    )
    add(
        "--board",
        action="append",
        default=[],
        metavar="NAME",
        help="that it is for (all, if alike)",
    )
    add(
        "--apply-option",
        action="append",
        default=[],
        metavar="OPTION",
        help="of apply_binaries.sh, such as --apply-option=--openrm",
    )


if __name__ == "__main__":
    sys.exit(main())
