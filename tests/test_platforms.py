"""mcir without what only POSIX systems have: every module imports, and the main commands run.

One process plays Windows and macOS: inside mcir, modules and functions that one of them lacks do not exist.
"""

import os
import subprocess
import sys

import cv2
import numpy as np
import yaml

from tests.engine.conftest import ROOT, options

LIMITED = """
import builtins, importlib, multiprocessing, os, pkgutil, signal, sys, types

MISSING_MODULES = {
    "crypt", "fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"
}
MISSING_NAMES = {
    "os": {
        "chown", "fork", "forkpty", "getegid", "geteuid", "getgid", "getloadavg", "getpgid", "getuid", "killpg",
        "lchown", "mkfifo", "nice", "posix_fadvise", "pread", "pwrite", "register_at_fork", "sched_getaffinity",
        "sched_setaffinity", "setpgid", "setsid", "statvfs", "sysconf", "uname",
    },
    "signal": {
        "SIGALRM", "SIGHUP", "SIGKILL", "SIGQUIT", "SIGUSR1", "SIGUSR2", "alarm", "pthread_kill", "pthread_sigmask",
        "setitimer", "sigwait",
    },
}


def limited(module, missing):
    copy = types.ModuleType(module.__name__)
    vars(copy).update({name: value for name, value in vars(module).items() if name not in missing})
    return copy


limited_modules = {name: limited(importlib.import_module(name), missing) for name, missing in MISSING_NAMES.items()}
real_import = builtins.__import__


def import_as_elsewhere(name, globals=None, locals=None, fromlist=(), level=0):
    if str((globals or {}).get("__name__", "")).startswith("mcir"):
        if name in MISSING_MODULES:
            raise ModuleNotFoundError(f"{name} does not exist on every system", name=name)
        if name in limited_modules:
            return limited_modules[name]
    return real_import(name, globals, locals, fromlist, level)


builtins.__import__ = import_as_elsewhere
multiprocessing.get_all_start_methods = lambda: ["spawn"]
"""

IMPORT_ALL = """
import mcir
for module in pkgutil.walk_packages(mcir.__path__, "mcir."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""

RUN = """
from mcir.cli import main
if __name__ == "__main__":
    for command in sys.argv[1].split("|"):
        print("mcir", command)
        assert main(command.split()) == 0, command
"""


def run_limited(tmp_path, code, *arguments):
    script = tmp_path / "limited.py"
    script.write_text(LIMITED + code)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, str(script), *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_limits_hold(tmp_path):
    code = """
exec("import os, signal", {"__name__": "mcir.x"}, module := {})
assert module["os"].environ is os.environ and not hasattr(module["os"], "fork") and hasattr(os, "fork")
try:
    exec("import fcntl", {"__name__": "mcir.x"})
except ModuleNotFoundError:
    print("limited")
"""
    assert run_limited(tmp_path, code) == "limited\n"


def test_every_module_imports(tmp_path):
    run_limited(tmp_path, IMPORT_ALL)


def test_commands_run(tmp_path):
    (tmp_path / "pictures").mkdir()
    generator = np.random.default_rng(0)
    for number in range(2):
        image = generator.integers(0, 256, (24, 28, 3)).astype(np.uint8)
        cv2.imwrite(str(tmp_path / "pictures" / f"{number}.png"), image)
    tree = options(tmp_path, total_iter=3)
    (tmp_path / "tiny.yml").write_text(yaml.safe_dump(tree))
    weights = "experiments/tiny/models/net_g_3.pth"
    commands = [
        "check -opt tiny.yml",
        "train -opt tiny.yml",
        f"inspect {weights}",
        f"restore pictures -w {weights} -o restored --tile 16 --overlap 4",
        "train -opt tiny.yml --auto_resume --set train.total_iter=4",
    ]
    output = run_limited(tmp_path, RUN, "|".join(commands))
    assert "parameters              1,259" in output and "architecture  EDSR" in output and "from iteration 3" in output
    assert len(list((tmp_path / "restored").glob("*.png"))) == 2
    assert (tmp_path / "experiments/tiny/report.html").exists()


def test_no_module_reads_the_files_of_linux():
    files = [file for file in (ROOT / "mcir").rglob("*.py") if '"/proc' in file.read_text(encoding="utf-8")]
    assert not files
