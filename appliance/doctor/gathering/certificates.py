"""Whether clients of the gRPC door could take its certificate, today."""

from __future__ import annotations

from pathlib import Path

import attrs

from appliance.config import Config
from appliance.errors import ConfigError


def certificate_error(config: Config, base: Path) -> str | None:
    """Return why they could not; empty: they could, or there is none; None: it cannot be seen.

    Args:
        base: Where relative paths of the configuration begin.
    """
    tls = config.ingest.grpc.tls
    if not tls.certificate:
        return ""
    from appliance.ingest.certificates import check  # noqa: PLC0415  it takes a while to import

    paths = {
        name: str(base / path) if path else ""
        for name, path in attrs.asdict(tls).items()
        if not str(path).startswith("$")  # which the service manager lays out
    }
    if "key" not in paths:
        return None
    try:
        for path in filter(None, paths.values()):
            Path(path).open("rb").close()
    except OSError:  # another finding says which, or whoever asks may not see it
        return None
    try:
        check(attrs.evolve(tls, **paths))
    except ConfigError as error:
        return str(error)
    return ""
