"""``mcir demo``: the server around the page, from the checkpoints that are named to Ctrl-C."""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import re
import signal
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console

from mcir.inference.demo.gate import Gate
from mcir.inference.demo.service import DemoService
from mcir.inference.demo.shelf import Shelf
from mcir.inference.tile_planner import Tile

HOST = "127.0.0.1"
PORTS = range(7860, 7960)

OLDEST = [6, 31]
"""Version of Gradio whose server and page were looked into; older ones load scripts from elsewhere."""

_CONNECTIONS = 256  # at a time; a page holds two
_VISITORS = 500  # whose choices Gradio remembers
_LOG = logging.getLogger("mcir")
_PATIENCE = 2  # seconds that open connections have at the end


@dataclass(frozen=True)
class DemoSettings:
    """What a demo serves, to whom, and how much.

    Attributes:
        checkpoints: files, ``NAME=FILE`` to call one otherwise than by its file.
        host: address to listen on; this machine alone without.
        port: the next free one from 7860 on without.
        max_megapixels: of the largest restored picture.
        max_size: megabytes (2²⁰ bytes) of an uploaded file.
        queue: visitors that may wait.
        device: where networks run; the best there is without.
        tile: as ``Restorer`` has it.
    """

    checkpoints: Sequence[str]
    host: str | None = None
    port: int | None = None
    max_megapixels: float = 8.0
    max_size: float = 20.0
    queue: int = 16
    device: str | None = None
    tile: Tile = "auto"


def demo(settings: DemoSettings) -> int:
    """Serve the page until Ctrl-C, and return the exit status.

    Raises:
        ValueError: a limit is out of range, a checkpoint is missing or cannot be loaded, two are called alike, Gradio
            is not installed, or the address cannot be listened on.
    """
    require_gradio()
    checkpoints = named(settings.checkpoints)
    for name, value in (("max-megapixels", settings.max_megapixels), ("max-size", settings.max_size)):
        if not 0 < value < float("inf"):
            raise ValueError(f"--{name} is {value:g}; it must be above 0.")
    if settings.queue < 1:
        raise ValueError(f"--queue is {settings.queue}; it must be at least 1.")
    with ExitStack() as stack:
        place = stack.enter_context(listening(settings.host or HOST, settings.port))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mcir-demo-", ignore_cleanup_errors=True)))
        stack.enter_context(surroundings(folder))
        shelf = Shelf(folder)
        workshop = DemoService(checkpoints, shelf, settings.max_megapixels, settings.device, settings.tile)
        workshop.check()
        stack.callback(workshop.close)
        _serve(application(workshop, shelf, settings), place)
    return 0


def require_gradio() -> None:
    """See that Gradio, which makes the page, is there.

    Raises:
        ValueError: it is not, or too old.
    """
    try:
        there = version("gradio")
    except PackageNotFoundError:
        there = ""
    if [int(part) for part in re.findall(r"\d+", there)[:2]] < OLDEST:
        what = f"is {there}; from {OLDEST[0]}.{OLDEST[1]} on it makes" if there else "is not installed; it makes"
        raise ValueError(f'Gradio {what} the page of the demo: pip install -e ".[demo]".')


def named(checkpoints: Sequence[str]) -> dict[str, Path]:
    """Return the files of checkpoints by the names that visitors see.

    Args:
        checkpoints: files, or ``NAME=FILE``.

    Raises:
        ValueError: a file is not there, or two would be called alike.
    """
    files: dict[str, Path] = {}
    for text in checkpoints:
        name, equals, file = text.partition("=")
        if not equals or Path(text).is_file():
            name, file = Path(text).stem, text
        if not Path(file).is_file():
            raise ValueError(f"{file}: there is no such checkpoint.")
        if not name or name in files:
            called = f"Two checkpoints are called '{name}'" if name else f"'{text}' gives no name"
            raise ValueError(f"{called}: give each a name of its own, like FIRST={file}.")
        files[name] = Path(file)
    return files


def application(workshop: DemoService, shelf: Shelf, settings: DemoSettings) -> Gate:
    """Return the whole server as an ASGI application: the gate, and behind it Gradio with the page.

    Args:
        workshop: what does the work.
        shelf: where visitors' files are.
        settings: the limits.
    """
    import fastapi
    import gradio

    from mcir.inference.demo.page import look, page

    bytes_at_most = int(settings.max_size * 2**20)
    blocks = page(workshop, settings.queue)
    blocks.state_session_capacity = _VISITORS
    shelf.keep()
    server = gradio.mount_gradio_app(
        fastapi.FastAPI(openapi_url=None),
        blocks,
        path="/",
        footer_links=[],
        root_path="",
        show_error=False,
        max_file_size=bytes_at_most,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        **look(),
    )
    blocks.has_launched = True  # else Gradio copies any file that a visitor names to where it can be fetched
    return Gate(server, shelf, bytes_at_most, () if settings.host else ("127.0.0.1", "localhost"))


@contextmanager
def listening(host: str, port: int | None) -> Iterator[socket.socket]:
    """Give a socket that listens on a port, or on the next free one from 7860 on.

    Raises:
        ValueError: that port, or every one of them, is taken or not allowed, or there is no such address here.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    reason: Exception | None = None
    for number in PORTS if port is None else (port,):
        try:
            place = socket.create_server((host, number), family=family)
        except (OSError, OverflowError) as error:
            reason = error
            if getattr(error, "errno", None) != errno.EADDRINUSE:
                break
        else:
            with place:
                yield place
            return
    tried = f"port {port}" if port is not None else f"any port from {PORTS.start} to {PORTS.stop - 1}"
    raise ValueError(f"{host} cannot be listened on at {tried}: {str(reason).removesuffix('.')}.") from reason


@contextmanager
def surroundings(folder: Path) -> Iterator[None]:
    """Set what Gradio reads from the environment: its files in a folder of ours, and no call to its makers."""
    before = {name: value for name, value in os.environ.items() if name.startswith("GRADIO_")}
    for name in before:
        del os.environ[name]
    os.environ["GRADIO_ANALYTICS_ENABLED"] = os.environ["GRADIO_RUN_HISTORY"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = os.environ["GRADIO_EXAMPLES_CACHE"] = str(folder)
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith("GRADIO_")]:
            del os.environ[name]
        os.environ.update(before)


def _serve(server: Gate, place: socket.socket) -> None:
    """Answer until the process is told to end."""
    import uvicorn

    host, port = place.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    console = Console(soft_wrap=True, highlight=False, markup=False)
    if not ipaddress.ip_address(host).is_loopback:
        _LOG.warning("Everybody who reaches this machine can use the page; there is no password.")
    console.print(f"The page is at {address} (Ctrl-C ends it).")
    config = uvicorn.Config(
        server,
        log_level="warning",
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=_PATIENCE,
        server_header=False,
        ws="none",
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C, so that the files are removed
    try:
        uvicorn.Server(config).run(sockets=[place])
    except KeyboardInterrupt:
        console.print("The demo has ended.")
