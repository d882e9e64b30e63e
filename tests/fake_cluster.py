"""A fake Slurm cluster of one machine: the commands that mcir and submitit call, as scripts that share a folder."""

import contextlib
import os
import signal
import sys
from pathlib import Path

SBATCH = """
import os, subprocess, sys
from pathlib import Path
home = Path(os.environ["CLUSTER"])
text = Path(sys.argv[1]).read_text()
if "--partition=none" in text:
    sys.exit("sbatch: error: invalid partition specified: none")
number = 100 + len(list(home.glob("*.sh")))
(home / f"{number}.sh").write_text(text)
(home / f"{number}.waits").touch()
if not (home / "full").exists():
    run = [sys.executable, str(home / "bin/node"), str(number)]
    node = subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    (home / f"{number}.node").write_text(str(node.pid))
print(f"Submitted batch job {number}")
"""

NODE = """
import os, subprocess, sys
from pathlib import Path
home, number = Path(os.environ["CLUSTER"]), sys.argv[1]
facts = {"SLURM_JOB_ID": number, "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "localhost", "SLURM_NODEID": "0"}
again = home / f"{number}.again"
while True:
    again.unlink(missing_ok=True)
    subprocess.run(["bash", str(home / f"{number}.sh")], env={**os.environ, **facts})
    if not again.exists():
        break
(home / f"{number}.waits").unlink()
"""

SRUN = """
import os, re, subprocess, sys
from pathlib import Path
home, number = Path(os.environ["CLUSTER"]), os.environ["SLURM_JOB_ID"]
tasks = int(re.search(r"--ntasks-per-node=(\\d+)", (home / f"{number}.sh").read_text())[1])
begin = sys.argv.index(sys.executable)
logs = [sys.argv[sys.argv.index(key) + 1] for key in ("--output", "--error")]
started = []
for task in range(tasks):
    facts = {"SLURM_PROCID": str(task), "SLURM_LOCALID": str(task), "SLURM_NTASKS": str(tasks)}
    out, error = (open(name.replace("%j", number).replace("%t", str(task)), "a") for name in logs)
    started.append(subprocess.Popen(sys.argv[begin:], env={**os.environ, **facts}, stdout=out, stderr=error))
(home / f"{number}.tasks").write_text(" ".join(str(task.pid) for task in started))
sys.exit(max(abs(task.wait()) for task in started))
"""

SQUEUE = """
import os, re, sys
from pathlib import Path
home = Path(os.environ["CLUSTER"])
assert sys.argv[1:] == ["--me", "--noheader", "--format=%i|%j"], sys.argv
if (home / "busy").exists():
    (home / "busy").unlink()
    sys.exit("slurm_load_jobs error: Unable to contact slurm controller")
for waits in sorted(home.glob("*.waits")):
    name = re.search("--job-name=(.*)", waits.with_suffix(".sh").read_text())[1]
    print(f"{waits.stem}|{name}")
"""

SCONTROL = """
import os, sys
from pathlib import Path
assert sys.argv[1] == "requeue"
(Path(os.environ["CLUSTER"]) / f"{sys.argv[2]}.again").touch()
"""


class FakeCluster:
    """The folder of the cluster, and what a test does to its jobs."""

    def __init__(self, home: Path) -> None:
        self.home = home
        (home / "bin").mkdir(parents=True)
        for name, text in {
            "sbatch": SBATCH,
            "node": NODE,
            "srun": SRUN,
            "squeue": SQUEUE,
            "scontrol": SCONTROL,
        }.items():
            file = home / "bin" / name
            file.write_text(f"#!{sys.executable}{text}")
            file.chmod(0o755)

    def block(self) -> None:
        """Let submitted jobs wait in the queue."""
        (self.home / "full").touch()

    def script(self, number: int) -> str:
        """Return the batch script of a job."""
        return (self.home / f"{number}.sh").read_text()

    def jobs(self) -> list[int]:
        """Return the numbers of all jobs submitted so far."""
        return sorted(int(file.stem) for file in self.home.glob("*.sh"))

    def end(self, number: int) -> None:
        """Remove a waiting job from the queue."""
        (self.home / f"{number}.waits").unlink()

    def close(self) -> None:
        """Kill running jobs."""
        for node in self.home.glob("*.node"):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(node.read_text()), signal.SIGKILL)

    def warn(self, number: int) -> None:
        """Send the tasks of a job the signal that its time is nearly over."""
        for pid in (self.home / f"{number}.tasks").read_text().split():
            os.kill(int(pid), signal.SIGUSR2)
