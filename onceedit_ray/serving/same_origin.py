"""Refuses requests that come from web pages of other sites, which a server without keys must not answer.

A browser sends the requests of any page from this machine, so the loopback address alone proves nothing. The browser
sends the host name that it used (`Host`: a name other than this machine's means DNS rebinding) and the origin of the
page (`Origin`: another one than the server's means a cross-site request). Bodies must be declared as JSON, which an
HTML form cannot do.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.types import Scope

from onceedit_ray.serving.errors import ApiError
from onceedit_ray.serving.keys import is_loopback

JSON = "application/json"


def check_own_page(scope: Scope) -> None:
    """Refuse with 403 a request that names another host than this machine, or comes from a page of another origin."""
    hosts = headers(scope, b"host")
    if not all(is_loopback(hostname_of(host)) for host in hosts):
        raise ApiError(
            403, "this server has no API keys, so it answers only as 127.0.0.1 or localhost; give it keys to serve "
            "it under another name", code="host_not_allowed",
        )  # fmt: skip
    for origin in headers(scope, b"origin"):
        if origin_of(origin) not in {origin_of(f"{scheme}://{host}") for host in hosts for scheme in ("http", "https")}:
            raise ApiError(
                403, "this server has no API keys, so pages of other sites may not ask it", code="origin_not_allowed"
            )


def check_json(scope: Scope, body: bytes) -> None:
    """Refuse with 415 a body that is not declared as JSON."""
    given = [said.partition(";")[0].strip().lower() for said in headers(scope, b"content-type")]
    if body and given != [JSON]:
        raise ApiError(415, f"send the body as JSON: `Content-Type: {JSON}`", code="unsupported_media_type")


def headers(scope: Scope, name: bytes) -> list[str]:
    """The values of a header, decoded as Latin-1 as HTTP requires."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def hostname_of(host: str) -> str:
    """The name in a `Host` header, without its port; "" if the header is malformed."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def origin_of(origin: str) -> tuple[str, str, int | None]:
    """Scheme, host and port of an `Origin` header; ("", "", None) if it is not an origin."""
    try:
        url = urlsplit(origin)
        return url.scheme, url.hostname or "", url.port or {"http": 80, "https": 443}.get(url.scheme)
    except ValueError:
        return "", "", None
