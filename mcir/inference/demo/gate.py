"""What a visitor may ask of the demo's server, and how much: a layer of ASGI before Gradio.

Gradio's server can do more than the page needs: fetch addresses of the web for a visitor, answer calls that pass by the
queue, keep links to states of a page on the disk, take a thousand files at once. Here stands what the page asks for;
nothing else gets through. Pages may load from their own server only, which browsers are told to hold to.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any, TypeAlias

from mcir.inference.demo.shelf import Shelf

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]

_PAGES = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt)|/(assets|static|svelte)/.+"
    r"|/gradio_api/(theme\.css|startup-events|upload_progress|queue/data|app_id|heartbeat/\w+)"
)
_FILE = "/gradio_api/file="
_UPLOAD = "/gradio_api/upload"
_JOIN = "/gradio_api/queue/join"
_CALLS = (_UPLOAD, _JOIN, "/gradio_api/cancel", "/gradio_api/reset")
_LONGEST_CALL = 2**14  # bytes; what the page sends is a tenth of it, and the server remembers it for each visitor
_FRAME = 2**14  # bytes that an upload has beside its file
_HEADERS = (
    (b"content-security-policy", b"default-src 'self' 'unsafe-inline' data: blob:; frame-ancestors 'self'"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


class Gate:
    """Lets through what the page asks for.

    Args:
        app: the server behind.
        shelf: whose files may be fetched, and where uploads go.
        largest: bytes of an uploaded file.
        hosts: the names by which the server may be called, without port; any without. A server for this machine alone
            is then safe from pages that have their own name lead here.
    """

    def __init__(self, app: App, shelf: Shelf, largest: int, hosts: Collection[str] = ()) -> None:
        self._app = app
        self._shelf = shelf
        self._largest = largest
        self._hosts = frozenset(hosts)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
            status = self._refusal(scope["method"], scope["path"], headers)
            if status is None and scope["path"] == _JOIN:
                call = _read(await _body(receive))
                status = 400 if call is None else None if self._are_theirs(call) else 403
                receive = _replayed(json.dumps(call).encode(), receive)  # what was looked at, and nothing else
            if status is None:
                if scope["path"] == _UPLOAD:
                    self._shelf.sweep()
                await self._app(scope, receive, _with_headers(send))
            else:
                await _refuse(send, status)

    def _refusal(self, method: str, path: str, headers: dict[bytes, str]) -> int | None:
        """Return the status of a request that goes no further."""
        if self._hosts and re.sub(r":\d+$", "", headers.get(b"host", "")) not in self._hosts:
            return 400
        if method == "POST" and path in _CALLS:
            length = headers.get(b"content-length", "")
            if not length.isdecimal():
                return 411
            return 413 if int(length) > (self._largest + _FRAME if path == _UPLOAD else _LONGEST_CALL) else None
        if method not in ("GET", "HEAD") or ".." in path.split("/"):
            return 404
        if path.startswith(_FILE):
            return None if self._shelf.holds(path.removeprefix(_FILE)) else 403
        return None if _PAGES.fullmatch(path) else 404

    def _are_theirs(self, part: Any) -> bool:
        """Tell whether all files that a call names are on the shelf: others Gradio might copy or fetch before we look.

        It takes for a file what stands under ``path``; what a page sends as ``url`` it does not read.
        """
        if isinstance(part, dict):
            path = part.get("path")
            return (not isinstance(path, str) or self._shelf.reaches(path)) and all(
                map(self._are_theirs, part.values())
            )
        return not isinstance(part, list) or all(map(self._are_theirs, part))


async def _body(receive: Receive) -> bytes:
    """Read a request, whose header says that it is short, to its end."""
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Give what was read once more, and then what comes."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return messages.pop() if messages else await receive()

    return again


def _read(body: bytes) -> dict[str, Any] | None:
    try:
        call = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return call if isinstance(call, dict) else None


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *_HEADERS]
        await send(message)

    return sent


async def _refuse(send: Send, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": str(status).encode()})
