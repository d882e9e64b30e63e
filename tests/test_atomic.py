"""Atomic file writes."""

import ast
import errno
import os
import shutil
from pathlib import Path

import pytest

from mcir.atomic import atomic_file, remove_temporary_files, write_atomically

PACKAGE = Path(__file__).parents[1] / "mcir"
NOT_ATOMIC = {
    "mcir/atomic.py": "the implementation",
    "mcir/checked_json.py": "appends to a log; a line is taken back if the disk is full",
    "mcir/data/lmdb_writer.py": "LMDB commits atomically",
    "mcir/engine/loggers.py": "appends lines of a log; TensorBoard has no other interface",
    "mcir/engine/checkpoint.py": "moves complete files",
    "mcir/features/base.py": "torch.hub downloads to a temporary file and renames it",
    "mcir/inference/export_backends.py": "writes to memory",
    "mcir/inference/images/writing.py": "writes to the stream of an atomic file, or to memory",
    "mcir/tables/rcl_mini.py": "moves a complete file",
    "mcir/tables/training.py": "appends to a log that nothing reads",
}
"""Files that write without ``atomic_file``, and why."""
WRITERS = {
    *("write_text", "write_bytes", "tofile", "imwrite", "savefig", "savez", "save_file", "SummaryWriter"),
    *("copyfile", "copy2", "copytree", "download_url_to_file", "urlretrieve", "symlink_to", "touch", "truncate"),
}
MODULES_THAT_SAVE = {"torch", "np", "numpy", "script", "export", "jit"}


def writes(call):
    """Return whether a call may write a file."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    texts = [part.value for part in ast.walk(call) if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    if name in ("open", "fdopen"):
        modes = [text for text in texts if set(text) <= set("rwaxbt+")]
        return ast.unparse(function) == "lmdb.open" or any(set(mode) & set("wax+") for mode in modes)
    if name == "save" and isinstance(function, ast.Attribute):
        return ast.unparse(function.value).split(".")[-1] in MODULES_THAT_SAVE or "stream" in ast.unparse(call)
    return name in WRITERS or (
        name in ("rename", "replace") and len(call.args) == 1 and not call.keywords and not texts
    )


def bypasses(tree):
    """Return the lines of a module that write files outside of ``with atomic_file(…)``."""
    inside = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.With) and any("atomic_file(" in ast.unparse(item) for item in node.items):
            inside |= {id(part) for statement in node.body for part in ast.walk(statement)}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and id(node) not in inside]
    return [f"{call.lineno}: {ast.unparse(call)[:80]}" for call in calls if writes(call)]


def test_every_file_is_written_atomically_except_for_those_on_the_list():
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        if lines := bypasses(ast.parse(file.read_text(encoding="utf-8"))):
            found[file.relative_to(PACKAGE.parent).as_posix()] = lines
    assert found.keys() == NOT_ATOMIC.keys(), {name: found.get(name) for name in found.keys() ^ NOT_ATOMIC.keys()}


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("Path('x').write_text('a')", 1),
        ("open('x', 'w')\nPath('y').open('ab')\nPath('z').open(mode='r+b')\nopen('q', 'rb')", 3),
        ("with atomic_file(path) as file:\n    file.write_bytes(b'')", 0),
        ("torch.save(state, file)\ncv2.imwrite('x.png', image)\nmodel.save(1)", 2),
    ],
)
def test_the_search_finds_writers(code, count):
    assert len(bypasses(ast.parse(code))) == count


def test_a_device_or_a_pipe_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/null")):
        with pytest.raises(FileExistsError, match=r"nothing was written") as caught:
            write_atomically(path, b"x")
        assert caught.value.filename == str(path)


def test_temporary_files_of_killed_processes_are_removed(tmp_path):
    def killed():
        with atomic_file(tmp_path / "deep" / "x.bin") as temporary:
            temporary.write_bytes(b"half")
            os._exit(0)

    if not (child := os.fork()):
        killed()
    os.waitpid(child, 0)
    (tmp_path / ".x.bin.backup").write_bytes(b"of the user")
    assert len(list((tmp_path / "deep").iterdir())) == 1
    with atomic_file(tmp_path / "deep" / "y.bin") as temporary:
        temporary.write_bytes(b"being written")
        remove_temporary_files(tmp_path)
    names = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(names) == [".x.bin.backup", "y.bin"]


def test_a_failed_write_does_not_change_the_old_file(tmp_path):
    target = tmp_path / "deep" / "x.bin"
    write_atomically(target, b"old")
    with pytest.raises(TypeError):
        write_atomically(target, "not bytes")
    assert target.read_bytes() == b"old"
    assert [path.name for path in target.parent.iterdir()] == ["x.bin"]


def test_the_file_appears_when_it_is_complete(tmp_path):
    with atomic_file(tmp_path / "x.bin", durable=True) as temporary:
        temporary.write_bytes(b"half")
        assert not (tmp_path / "x.bin").exists()
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("x.bin", b"half")]


def test_a_full_disk_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(OSError, match="No space left") as caught, atomic_file(tmp_path / "x.bin"):
        raise RuntimeError("unexpected pos 64 vs 0")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "x.bin"))
