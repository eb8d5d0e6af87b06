#!/usr/bin/env python
"""Kill long jobs at random moments and before every write, start them again, and compare with a run that was left alone.

    python tests/kill/run.py --minutes 60 --jobs training

A kind of job is one file in `tests/kill/jobs/` (see `job.py`). Of every job one run is left alone; it shows how long the job
takes and at which moments it changes files. Then, round after round, a new output folder is used, the job is killed once to
three times, and started again until it ends. Kills are SIGKILL to all processes, to the launcher alone or to one worker, at a
random moment, or of the process that writes, before the n-th change of a file; now and then a file is cut as well, as a power cut
could have done. Whatever differs at the end is told and its folder kept; the status is 1 then.

Jobs run in forks of this process, which has imported all that they need: a start takes a second, not ten. Linux only.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import json
import os
import platform
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any


HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parents[1]))

from crash import install  # noqa: E402
from job import Job  # noqa: E402


def start(job: Job, folder: Path, output: Path, log: Path, at: int | None = None) -> int:
    """Start the job's launcher with its workers, in a process group of their own; returns the launcher's id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = os.fork()
    if launcher:
        try:
            os.setpgid(launcher, launcher)  # by both, whoever comes first
        except PermissionError:
            pass
        return launcher
    # As `torchrun`: it waits for its workers, and ends all when one has failed.
    os.setpgid(0, 0)
    workers = {os.fork() or work(job, rank, port, folder, output, log, at) for rank in range(job.processes)}
    failed = False
    while workers:
        pid, status = os.wait()
        workers.discard(pid)
        if status and not failed:
            failed = True
            for worker in workers:
                os.kill(worker, signal.SIGKILL)
    os._exit(failed)


def work(job: Job, rank: int, port: int, folder: Path, output: Path, log: Path, at: int | None) -> int:
    """Never returns."""
    status = 1
    try:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        said = os.open(log.with_suffix(".said"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.environ["TORCHELASTIC_RUN_ID"] = "kill"  # workers watch their launcher
        if job.processes > 1:
            os.environ |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(job.processes),
                "LOCAL_WORLD_SIZE": str(job.processes),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
        install(output, log, at if rank == 0 else None, job.unwatched)
        job.run(folder, output)
        status = 0
    except SystemExit as stopped:
        status = 0 if not stopped.code else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


def children(launcher: int) -> list[int]:
    try:
        return [int(pid) for pid in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()]
    except OSError:
        return []


def wait(launcher: int, seconds: float) -> int | None:
    """Status of the launcher once all processes of its group are gone; None where some are left after so long."""
    until, status = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        try:
            pid, ended = os.waitpid(-launcher, os.WNOHANG)  # orphans have become this process's children
        except ChildProcessError:
            return status
        if pid == 0:
            time.sleep(0.01)
        elif pid == launcher:
            status = ended
    return None


def end(launcher: int) -> None:
    """Kill all processes of the group."""
    try:
        os.killpg(launcher, signal.SIGKILL)
    except ProcessLookupError:
        pass


class Killer:
    """One job, its inputs and its unbroken run."""

    def __init__(self, job: Job, scratch: Path, random: Random):
        self.job, self.random, self.kills = job, random, Counter[str]()
        self.folder = scratch / job.name.replace("/", "-")
        self.folder.mkdir(parents=True)
        job.prepare(self.folder)
        began = time.monotonic()
        output, log = self.folder / "unbroken", self.folder / "unbroken.log"
        self.finish(output, log)
        self.seconds = time.monotonic() - began
        self.result = job.result(output)
        if not self.result:
            raise SystemExit(f"{job.name}: the result of the unbroken run is empty: nothing can be compared.")
        points = [line.split(" ", 1) for line in log.read_text().splitlines()]
        writer = Counter(pid for pid, _ in points).most_common(1)[0][0]
        self.points = [point for pid, point in points if pid == writer]
        print(f"{job.name}: {self.seconds:.1f} s left alone, {len(self.points)} changes of files", flush=True)

    def finish(self, output: Path, log: Path) -> None:
        launcher = start(self.job, self.folder, output, log)
        status = wait(launcher, self.job.seconds)
        if status != 0:
            end(launcher)
            said = log.with_suffix(".said")
            raise Broken(
                f"{'hangs' if status is None else 'fails'} when it is started again; the end of {said}:\n"
                + said.read_text(errors="replace")[-2000:]
            )

    def round(self, number: int) -> str:
        """Kill, start again, compare; returns what was done.

        Raises:
            Broken: the job did not end, left processes behind, or ended otherwise than the unbroken run.
        """
        output, log = self.folder / f"round-{number}", self.folder / f"round-{number}.log"
        done = []
        for _ in range(self.random.choice((1, 1, 1, 2, 3))):
            kill = self.at_a_write(output, log) if self.random.random() < 0.6 else self.at_any_moment(output, log)
            self.kills[kill.split(" ")[0]] += 1
            done.append(kill)
            if self.random.random() < 0.25 and (damage := self.job.damage(output, self.random)):
                self.kills["damage"] += 1
                done.append(damage)
        try:
            self.finish(output, log)
            self.compare(output)
        except Broken as broken:
            raise Broken(f"{self.job.name}, {' then '.join(done)}: {broken}; see {output}") from None
        shutil.rmtree(output)
        for path in self.folder.glob(f"round-{number}.*"):
            path.unlink()
        return f"{self.job.name}: {' then '.join(done)}"

    def at_a_write(self, output: Path, log: Path) -> str:
        at = self.random.randrange(len(self.points))
        launcher = start(self.job, self.folder, output, log, at)
        if wait(launcher, self.job.seconds) is None:
            end(launcher)
            raise Broken(f"{self.job.name}: hangs when its writer is killed before change {at} ({self.points[at]})")
        return f"write {at} ({self.points[at]})"

    def at_any_moment(self, output: Path, log: Path) -> str:
        moment = self.random.uniform(0, self.seconds)
        launcher = start(self.job, self.folder, output, log)
        time.sleep(moment)
        targets = {"all": None, "launcher": launcher}
        targets |= {f"worker-{rank}": pid for rank, pid in enumerate(children(launcher))}
        name = self.random.choice(list(targets))
        if targets[name] is None:
            end(launcher)
        else:
            try:
                os.kill(targets[name], signal.SIGKILL)
            except ProcessLookupError:
                pass
        if wait(launcher, 30) is None:
            end(launcher)
            raise Broken(f"{self.job.name}: killed {name} after {moment:.2f} s, and processes go on after 30 s")
        return f"{name} after {moment:.2f} s"

    def compare(self, output: Path) -> None:
        result: dict[str, Any] = self.job.result(output)
        different = sorted(
            name for name in result.keys() | self.result.keys() if result.get(name) != self.result.get(name)
        )
        if different:
            raise Broken(f"differs from the unbroken run in {', '.join(map(str, different[:5]))}")


class Broken(Exception):
    """A promise that was not kept."""


def main() -> None:
    kinds = sorted(path.stem for path in (HERE / "jobs").glob("*.py"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--only", help="jobs whose name contains this")
    parser.add_argument("--minutes", type=float, default=60.0, help="of all jobs together, beside the unbroken runs")
    parser.add_argument("--rounds", type=int, help="end after so many rounds of each job")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scratch", type=Path, help="where to; by default a folder that is removed at the end")
    args = parser.parse_args()
    # Orphans become children of this process, which can see whether they end.
    ctypes.CDLL(None, use_errno=True).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
    scratch = Path(tempfile.mkdtemp(prefix="kill-", dir=args.scratch))
    random, broken = Random(args.seed), []
    try:
        jobs = [job for kind in args.jobs for job in importlib.import_module(f"jobs.{kind}").JOBS]
        killers = [Killer(job, scratch, random) for job in jobs if args.only is None or args.only in job.name]
        until, rounds = time.monotonic() + 60 * args.minutes, 0
        while killers and time.monotonic() < until and (args.rounds is None or rounds < args.rounds):
            for killer in killers:
                try:
                    print(f"{rounds} {killer.round(rounds)}: equal", flush=True)
                except Broken as error:
                    broken.append(str(error))
                    print(f"{rounds} {error}", flush=True)
            rounds += 1
        kills = {killer.job.name: dict(killer.kills) for killer in killers}
        print(json.dumps({"rounds": rounds, "kills": kills, "broken": len(broken), "seed": args.seed,
                          "machine": f"{platform.machine()}, {os.cpu_count()} threads"}))  # fmt: skip
    except Broken as error:
        broken.append(str(error))
        print(error)
    finally:
        if not broken:
            shutil.rmtree(scratch, ignore_errors=True)
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
