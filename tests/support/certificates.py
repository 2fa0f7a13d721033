"""Certificates for the gRPC door, made by openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def make_ca(directory: Path, name: str) -> Path:
    """Make an authority; return its certificate."""
    certificate = directory / f"{name}.pem"
    openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
        *("-keyout", str(directory / f"{name}.key"), "-out", str(certificate)),
        *("-subj", f"/CN={name}", "-days", "2"),
    )
    return certificate


def make_certificate(
    directory: Path, name: str, ca: str, subject: str = "localhost", days: int = 2
) -> Path:
    """Make a certificate that an authority has signed, and its key beside it.

    Args:
        days: That it is good for; -1: it has expired.
    """
    request_file, certificate = directory / f"{name}.csr", directory / f"{name}.pem"
    openssl(
        *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
        *("-keyout", str(directory / f"{name}.key"), "-out", str(request_file)),
        *("-subj", f"/CN={subject}"),
    )
    extensions = directory / "extensions"
    extensions.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    openssl(
        *("x509", "-req", "-in", str(request_file), "-out", str(certificate), "-days", str(days)),
        *("-CA", str(directory / f"{ca}.pem"), "-CAkey", str(directory / f"{ca}.key")),
        *("-CAcreateserial", "-extfile", str(extensions)),
    )
    return certificate
