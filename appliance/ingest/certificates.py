"""TLS for the gRPC door, with certificates that are read again when they have changed."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Any

import grpc
import structlog
from attrs import define, field

from appliance.config import GrpcTls
from appliance.errors import ConfigError, KeyFileError
from appliance.keys.files import check_secret

_MOST_BYTES = 1 << 20

Stamp = tuple[tuple[int, ...], ...]


@define(eq=False)
class Certificates:
    """A certificate, its key, and who signs those of clients.

    What is on disk is looked at with each new connection: a certificate that was renewed holds for
    those that come after. One that cannot be used, or whose key others can read, changes nothing,
    and is told in the log, once.
    """

    settings: GrpcTls
    _stamp: Stamp = field(default=(), init=False)

    def credentials(self) -> grpc.ServerCredentials:
        """Return what a server needs.

        Raises:
            ConfigError: A file cannot be read, others can read the key, or it is not the
                certificate's.
        """
        self._stamp = self._look()  # first: what is renewed while it is read is read again
        found = self._read()
        again: Any = self._again  # it may return None, whatever the stubs say
        return grpc.dynamic_ssl_server_credentials(found, again, bool(self.settings.client_ca))

    def _paths(self) -> list[Path]:
        settings = self.settings
        return [
            Path(each) for each in (settings.certificate, settings.key, settings.client_ca) if each
        ]

    def _look(self) -> Stamp:
        """Return what tells one state of the files from another; reading them says what is wrong.

        The mode is part of it: a key that others could read is taken once they cannot.
        """
        return tuple(_stamp_of(path) for path in self._paths())

    def _read(self) -> grpc.ServerCertificateConfiguration:
        settings = self.settings
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(settings.certificate, settings.key, password=_no_password)
            if settings.client_ca:
                context.load_verify_locations(settings.client_ca)
            certificate = _bytes(Path(settings.certificate))
            key = _bytes(Path(settings.key), secret=True)
            client_ca = _bytes(Path(settings.client_ca)) if settings.client_ca else None
        except KeyFileError as error:
            raise ConfigError(f"ingest.grpc.tls.key: {error}") from None
        except (OSError, ssl.SSLError, ValueError) as error:
            names = ", ".join(map(str, self._paths()))
            raise ConfigError(f"ingest.grpc.tls: {names}: {error}") from None
        return grpc.ssl_server_certificate_configuration([(key, certificate)], client_ca)

    def _again(self) -> grpc.ServerCertificateConfiguration | None:
        """Return what to use from now on; None: what was used before. In a thread of gRPC's."""
        log = structlog.get_logger("appliance")
        stamp = self._look()
        if stamp == self._stamp:
            return None
        self._stamp = stamp
        try:
            found = self._read()
        except ConfigError as error:
            log.warning("certificate not renewed", error=str(error))
            return None
        log.info("certificate renewed", file=self.settings.certificate)
        return found


def _no_password() -> str:
    raise ValueError("the key has a password; write one without")


def _stamp_of(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode


def _bytes(path: Path, *, secret: bool = False) -> bytes:
    with path.open("rb") as file:
        if secret:
            check_secret(str(path), os.fstat(file.fileno()))
        return file.read(_MOST_BYTES)
