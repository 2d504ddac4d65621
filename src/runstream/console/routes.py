"""The playground at `/`, its files at `/console/`, and what it needs to know at `/console.json`."""

import ipaddress
from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from starlette.exceptions import HTTPException

STATIC = Path(__file__).with_name("static")
MEDIA_TYPES = {".css": "text/css", ".html": "text/html", ".js": "text/javascript", ".svg": "image/svg+xml"}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; connect-src 'self'; img-src 'self'; script-src 'self'; style-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": (
        "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), publickey-credentials-get=(), usb=()"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def console_router(
    key: str | None, models: Callable[[str | None], Awaitable[list[str]]], default_model: str | None
) -> APIRouter:
    """`key` is handed to whoever opens the page on this machine, and to nobody else. For development only.

    `models` names those that can be asked for with a key, or that everybody can ask for.
    """
    router = APIRouter(include_in_schema=False)
    files = {path.name: path for path in STATIC.iterdir() if path.suffix in MEDIA_TYPES}

    @router.get("/")
    async def page() -> Response:
        return _file(STATIC / "index.html")

    @router.get("/console/{name}")
    async def file(name: str) -> Response:
        if name not in files:
            raise HTTPException(404)
        return _file(files[name])

    @router.get("/console.json")
    async def configuration(request: Request) -> Response:
        handed = key if _is_local(request) else None
        return JSONResponse(
            {"key": handed, "models": await models(handed), "default_model": default_model},
            headers=HEADERS | {"Cache-Control": "no-store"},
        )

    return router


def _file(path: Path) -> Response:
    # Revalidated by ETag on every load: a page never meets the script of another version.
    headers = HEADERS | {"Cache-Control": "no-cache"}
    return FileResponse(path, media_type=MEDIA_TYPES[path.suffix], headers=headers)


def _is_local(request: Request) -> bool:
    """Whether a page of our own on this machine asks. A hostile page can ask through the visitor's browser, but
    then the request names another host (one that has been pointed at this address) or is marked as cross-site. What
    came by a proxy may be anybody's.
    """
    peer = request.client.host if request.client else ""
    direct = not {"forwarded", "x-forwarded-for"} & set(request.headers)
    own_page = request.headers.get("sec-fetch-site", "none") in {"none", "same-origin"}
    return direct and own_page and _is_loopback(peer) and _is_loopback(_without_port(request.headers.get("host", "")))


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).strip("[]").lower()


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
