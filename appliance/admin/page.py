"""The page for browsers, on the loopback listener: its files, and what keeps strangers out.

A browser on the box may have other pages open. None of them can read here: a request has to name
the box by a loopback name or address, so a name of theirs that leads to loopback is of no use, and
what is answered may be used by this page only. The page in turn loads nothing from elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources
from typing import TYPE_CHECKING

from attrs import define, field, frozen

from appliance.admin.http import HttpRequest, HttpResponse, error_response
from appliance.admin.loopback import is_loopback
from appliance.admin.routes import Router

if TYPE_CHECKING:
    from importlib.abc import Traversable

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = (
    ("Content-Security-Policy", _POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
)
_HOST = re.compile(r"(?:\[([^\[\]]*)\]|([^:\[\]]*))(?::\d*)?")
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@frozen
class _File:
    content_type: str
    body: bytes


def _files() -> dict[str, _File]:
    """Read the page's files: `index.html` is at `/`, the others are below `/page/`."""
    files = dict(_below(resources.files("appliance.admin").joinpath("static"), "/page/"))
    files["/"] = files.pop("/page/index.html")
    return files


def _below(folder: Traversable, path: str) -> Iterator[tuple[str, _File]]:
    for entry in folder.iterdir():
        suffix = entry.name[entry.name.rfind(".") :]
        if entry.is_dir():
            yield from _below(entry, f"{path}{entry.name}/")
        elif suffix in _TYPES:
            yield path + entry.name, _File(_TYPES[suffix], entry.read_bytes())


@define(eq=False)
class Page:
    """Answers a browser: with the page's files, else with what `router` says.

    `handle` is a handler for `serve_http`.
    """

    router: Router
    _files: dict[str, _File] = field(factory=_files, init=False)

    async def handle(self, request: HttpRequest) -> HttpResponse:
        """Answer, or refuse whoever takes the box for another."""
        host = dict(request.headers).get("host", "")
        if not is_loopback(_name(host)):
            message = f"asked for {host[:80]!r}; here only localhost and loopback addresses are"
            response = error_response(403, "FORBIDDEN", message)
        elif request.method in ("GET", "HEAD") and request.path in self._files:
            file = self._files[request.path]
            response = HttpResponse(body=file.body, content_type=file.content_type)
        else:
            response = await self.router.handle(request)
        return HttpResponse(
            status=response.status,
            body=response.body,
            content_type=response.content_type,
            headers=(*response.headers, *_HEADERS),
        )


def _name(host: str) -> str:
    """Return the name or address of a Host header, without the port; empty if it is none."""
    found = _HOST.fullmatch(host)
    return "" if found is None else found[1] or found[2]
