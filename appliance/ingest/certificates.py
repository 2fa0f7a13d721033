"""TLS for the gRPC door, with certificates that are read again when they have changed."""

from __future__ import annotations

import os
import ssl
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import grpc
import structlog
from attrs import define, field

from appliance.config import GrpcTls
from appliance.errors import ConfigError, KeyFileError
from appliance.keys.files import check_secret

_MOST_BYTES = 1 << 20
_TURNS = 8
"""Of a handshake: each side is asked so often at most."""
_TIMES = {9: "is not valid yet", 10: "has expired"}
"""What OpenSSL's codes mean that have to do with the clock."""

Stamp = tuple[tuple[int, ...], ...]


@define(eq=False)
class Certificates:
    """A certificate, its key, and who signs those of clients.

    What is on disk is looked at with each new connection: a certificate that was renewed holds for
    those that come after. One that cannot be used, has expired, or whose key others can read,
    changes nothing, and is told in the log, once. At the start one that has expired is told and
    used: robots come by the other door, and a wrong clock is not to keep them out.
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
        found = _read(self.settings)
        try:
            check_validity(self.settings)
        except ConfigError as error:
            structlog.get_logger("appliance").warning("clients refuse us", error=str(error))
        again: Any = self._again  # it may return None, whatever the stubs say
        return grpc.dynamic_ssl_server_credentials(found, again, bool(self.settings.client_ca))

    def _look(self) -> Stamp:
        """Return what tells one state of the files from another; reading them says what is wrong.

        The mode is part of it: a key that others could read is taken once they cannot.
        """
        return tuple(_stamp_of(path) for path in _paths(self.settings))

    def _again(self) -> grpc.ServerCertificateConfiguration | None:
        """Return what to use from now on; None: what was used before. In a thread of gRPC's."""
        log = structlog.get_logger("appliance")
        stamp = self._look()
        if stamp == self._stamp:
            return None
        self._stamp = stamp
        try:
            found = _read(self.settings)
            check_validity(self.settings)
        except ConfigError as error:
            log.warning("certificate not renewed", error=str(error))
            return None
        log.info("certificate renewed", file=self.settings.certificate)
        return found


def check(settings: GrpcTls) -> None:
    """See whether clients could take what is on disk.

    Raises:
        ConfigError: A file cannot be read, others can read the key, it is not the certificate's, or
            the certificate has expired or is not valid yet, by the clock of this machine.
    """
    _read(settings)
    check_validity(settings)


def _read(settings: GrpcTls) -> grpc.ServerCertificateConfiguration:
    _context(settings)
    try:
        certificate = _bytes(Path(settings.certificate))
        key = _bytes(Path(settings.key), secret=True)
        client_ca = _bytes(Path(settings.client_ca)) if settings.client_ca else None
    except KeyFileError as error:
        raise ConfigError(f"ingest.grpc.tls.key: {error}") from None
    except OSError as error:
        raise _unusable(settings, error) from None
    return grpc.ssl_server_certificate_configuration([(key, certificate)], client_ca)


def check_validity(settings: GrpcTls) -> None:
    """Shake hands with ourselves, as a client that trusts this very certificate.

    Raises:
        ConfigError: Such a client refuses it: it has expired, or is not valid yet.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        client.load_verify_locations(settings.certificate)
        to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
        sides = (
            client.wrap_bio(to_client, to_server),
            _context(settings).wrap_bio(to_server, to_client, server_side=True),
        )
        for _ in range(_TURNS):
            for side in sides:
                with suppress(ssl.SSLWantReadError):
                    side.do_handshake()
    except ssl.SSLCertVerificationError as error:
        why = _TIMES.get(error.verify_code, f"cannot be verified: {error.verify_message}")
        now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
        raise ConfigError(
            f"ingest.grpc.tls.certificate: {settings.certificate} {why}, by the clock of this"
            f" machine ({now}); renew it, or set the clock"
        ) from None
    except (OSError, ssl.SSLError) as error:
        raise _unusable(settings, error) from None


def _context(settings: GrpcTls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(settings.certificate, settings.key, password=_no_password)
        if settings.client_ca:
            context.load_verify_locations(settings.client_ca)
    except (OSError, ssl.SSLError, ValueError) as error:
        raise _unusable(settings, error) from None
    return context


def _unusable(settings: GrpcTls, error: Exception) -> ConfigError:
    return ConfigError(f"ingest.grpc.tls: {', '.join(map(str, _paths(settings)))}: {error}")


def _paths(settings: GrpcTls) -> list[Path]:
    names = (settings.certificate, settings.key, settings.client_ca)
    return [Path(each) for each in names if each]


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
