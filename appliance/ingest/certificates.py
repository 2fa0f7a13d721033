"""TLS for the gRPC door, with certificates that are read again when they have changed."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import grpc
import structlog
from attrs import define, field

from appliance.config import GrpcTls
from appliance.errors import ConfigError

_MOST_BYTES = 1 << 20

Stamp = tuple[tuple[int, int, int], ...]


@define(eq=False)
class Certificates:
    """A certificate, its key, and who signs those of clients.

    What is on disk is looked at with each new connection: a certificate that was renewed holds for
    those that come after. One that cannot be used changes nothing, and is told in the log.
    """

    settings: GrpcTls
    _stamp: Stamp = field(default=(), init=False)

    def credentials(self) -> grpc.ServerCredentials:
        """Return what a server needs.

        Raises:
            ConfigError: A file cannot be read, or the key is not the certificate's.
        """
        found = self._read()
        self._stamp = self._look()
        again: Any = self._again  # it may return None, whatever the stubs say
        return grpc.dynamic_ssl_server_credentials(found, again, bool(self.settings.client_ca))

    def _paths(self) -> list[Path]:
        settings = self.settings
        return [
            Path(each) for each in (settings.certificate, settings.key, settings.client_ca) if each
        ]

    def _look(self) -> Stamp:
        found = [path.stat() for path in self._paths()]
        return tuple((each.st_ino, each.st_mtime_ns, each.st_size) for each in found)

    def _read(self) -> grpc.ServerCertificateConfiguration:
        settings = self.settings
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(settings.certificate, settings.key, password=_no_password)
            if settings.client_ca:
                context.load_verify_locations(settings.client_ca)
            certificate, key, *client_ca = (_bytes(path) for path in self._paths())
        except (OSError, ssl.SSLError, ValueError) as error:
            names = ", ".join(map(str, self._paths()))
            raise ConfigError(f"ingest.grpc.tls: {names}: {error}") from None
        return grpc.ssl_server_certificate_configuration(
            [(key, certificate)], client_ca[0] if client_ca else None
        )

    def _again(self) -> grpc.ServerCertificateConfiguration | None:
        """Return what to use from now on; None: what was used before. In a thread of gRPC's."""
        log = structlog.get_logger("appliance")
        try:
            stamp = self._look()
            if stamp == self._stamp:
                return None
            self._stamp = stamp
            found = self._read()
        except (ConfigError, OSError) as error:
            log.warning("certificate not renewed", error=str(error))
            return None
        log.info("certificate renewed", file=self.settings.certificate)
        return found


def _no_password() -> str:
    raise ValueError("the key has a password; write one without")


def _bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MOST_BYTES)
