"""Kill a process at the n-th operation on the files of a folder: open, write, fsync, rename and unlink."""

import hashlib
import os
import signal
import sys
import traceback
import warnings
from pathlib import Path

import torch
from safetensors import safe_open

from mcir.models.state import digest

_EVENTS = {"open": "open", "os.rename": "rename", "os.remove": "unlink", "os.mkdir": "mkdir"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Operations:
    """The operations of this process on the files of a folder. The process is killed at one of them, before it happens.

    Use this in a child process, because the hooks cannot be removed.

    Args:
        folder: folder to observe.
        kill_at: index of the operation. Default: the process is not killed.
    """

    def __init__(self, folder: Path, kill_at: int = -1) -> None:
        self.names: list[str] = []
        self._folder, self._kill_at = str(folder), kill_at
        sys.addaudithook(self._audit)
        self._patch_fsync()
        self._patch_write_bytes()
        self._patch_torch_save()

    def _happens(self, kind, path):
        if not str(path).startswith(self._folder):
            return
        if len(self.names) == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.names.append(f"{kind} {Path(path).name}")

    def _audit(self, event, arguments):
        if event not in _EVENTS or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        if event != "open" or (arguments[2] or 0) & _WRITES:
            self._happens(_EVENTS[event], os.fsdecode(arguments[0]))

    def _patch_fsync(self):
        really = os.fsync

        def fsync(handle):
            self._happens("fsync", os.readlink(f"/proc/self/fd/{handle}"))
            really(handle)

        os.fsync = fsync

    def _patch_write_bytes(self):
        def write_bytes(path, data):
            with path.open("wb") as file:
                file.write(data[: len(data) // 2])
                file.flush()
                self._happens("write", path)
                return file.write(data[len(data) // 2 :])

        Path.write_bytes = write_bytes

    def _patch_torch_save(self):
        really, happens = torch._C.PyTorchFileWriter, self._happens

        class Writer:
            def __init__(self, path, *arguments):
                self.path, self.writer = path, really(path, *arguments)

            def __getattr__(self, name):
                return getattr(self.writer, name)

            def write_record(self, *arguments):
                happens("write", self.path)
                self.writer.write_record(*arguments)

            def write_end_of_file(self):
                happens("write", self.path)
                self.writer.write_end_of_file()

        torch._C.PyTorchFileWriter = Writer


def run_in_child(function) -> int:
    """Call a function in a forked process, and return its exit status; a negative one is the number of a signal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other threads of this process are idle
        child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        status = function() or 0
    except BaseException:
        traceback.print_exc()
        status = 99
    os._exit(status)


def content(folder):
    """Return a digest of every file in a folder, by its path."""
    return {str(file.relative_to(folder)): file_digest(file) for file in folder.rglob("*") if file.is_file()}


def file_digest(file):
    if file.suffix != ".safetensors":
        return hashlib.sha256(file.read_bytes()).hexdigest()
    with safe_open(file, "pt") as opened:  # the library writes metadata in random order
        return digest([opened.metadata(), {key: opened.get_tensor(key) for key in opened.keys()}])  # noqa: SIM118
