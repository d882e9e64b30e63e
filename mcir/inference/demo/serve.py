"""``mcir demo``: check the checkpoints, and run Gradio's server until Ctrl-C."""

from __future__ import annotations

import importlib.util
import ipaddress
import logging
import math
import os
import signal
import socket
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from mcir.console import Console
from mcir.inference.checkpoints import named_checkpoints
from mcir.inference.demo.service import KEPT_SECONDS, DemoService
from mcir.inference.tile_planner import Tile

LOCALHOST = "127.0.0.1"

_CLEANUP_SECONDS = 60
_LOG = logging.getLogger("mcir")


def demo(
    checkpoints: Sequence[str],
    *,
    host: str | None = None,
    port: int | None = None,
    max_megapixels: float = 8.0,
    max_size: float = 20.0,
    queue: int = 16,
    device: str | None = None,
    tile: Tile = "auto",
) -> int:
    """Serve the page until Ctrl-C, and return the exit status.

    Args:
        checkpoints: weight files, or ``NAME=FILE`` for a network with another name than its file.
        host: address to listen on; default: this machine only.
        port: port to listen on; default: the first free port from 7860.
        max_megapixels: largest size of a restored image.
        max_size: largest size of an uploaded file in MiB.
        queue: largest number of waiting visitors.
        device: device of the networks; default: a GPU if there is one.
        tile: tile size, as for ``Restorer``.

    Raises:
        ValueError: a limit is out of range; a checkpoint is missing, invalid or has the same name as another one; the
            address is not available; or Gradio is not installed.
    """
    for name, value in (("max-megapixels", max_megapixels), ("max-size", max_size)):
        if not 0 < value < math.inf:
            raise ValueError(f"--{name}: expected a number above 0, got {value:g}.")
    if queue < 1:
        raise ValueError(f"--queue: expected at least 1, got {queue}.")
    if importlib.util.find_spec("gradio") is None:
        raise ValueError('The demo needs Gradio: run pip install -e ".[demo]" in the clone.')
    files = named_checkpoints(checkpoints)
    host = host or LOCALHOST
    _check_address(host, port)
    with tempfile.TemporaryDirectory(prefix="mcir-demo-", ignore_cleanup_errors=True) as folder:
        service = DemoService(files, Path(folder), max_megapixels, device, tile)
        service.check()
        _serve(service, host, port, max_size, queue)
    return 0


def _check_address(host: str, port: int | None) -> None:
    """Check that the server can listen on an address."""
    if port is not None and not 0 < port < 2**16:
        raise ValueError(f"--port: expected a number from 1 to 65535, got {port}.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port or 0), family=family).close()
    except OSError as error:
        raise ValueError(f"The demo cannot listen on {host}{f', port {port}' if port else ''}: {error}") from error


def _serve(service: DemoService, host: str, port: int | None, max_size: float, queue: int) -> None:
    """Run Gradio's server until SIGINT or SIGTERM."""
    os.environ["GRADIO_TEMP_DIR"] = str(service.folder)  # the folder of uploads, which is deleted at the end
    from mcir.inference.demo.page import appearance, build_page

    page = build_page(service, queue, delete_cache=(_CLEANUP_SECONDS, KEPT_SECONDS))
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        max_file_size=int(max_size * 2**20),
        allowed_paths=[str(service.results), str(service.examples)],  # Gradio serves uploads as attachments only
        share=False,
        show_error=False,
        footer_links=[],
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        run_history=False,
        quiet=True,
        prevent_thread_lock=True,
        **appearance(),
    )
    console = Console(soft_wrap=True)
    if not ipaddress.ip_address(host).is_loopback:
        _LOG.warning("The demo has no password: everyone who can reach this machine can use it.")
    console.print(f"The demo runs at {address.rstrip('/')} (press Ctrl-C to stop it).")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        while True:
            time.sleep(1)
    except KeyboardInterrupt:
        console.print("The demo has stopped.")
    finally:
        service.close()
        page.close(verbose=False)
