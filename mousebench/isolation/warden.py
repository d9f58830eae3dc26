"""Run one program within limits, with everything that it starts, and leave nothing behind. Run as a script.

The last argument is a job in JSON (``argv``, ``folder``, ``remove``, ``pass_fds``, ``memory``, ``processes``, ``disk``). Standard
input is a lifeline: when its other end is closed, however that process ended, all is ended here. The last line on
standard output says how the program ended. It imports nothing of mousebench, so that it starts in a few milliseconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PERIOD = 0.05  # seconds between two looks at memory and processes; what is allocated faster than that overshoots
DISK_PERIOD = 1.0
MOST_FILES = 100_000
_SUBREAPER = 36  # linux/prctl.h: orphans below this process become its children, so that none gets away


def main() -> int:
    """Run the job, write the verdict, and return 0."""
    job = json.loads(sys.argv[1])
    _adopt_orphans()
    _limit_files(job["disk"])
    child = subprocess.Popen(
        job["argv"],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr.fileno(),
        cwd=job["folder"],
        pass_fds=job["pass_fds"],
        process_group=0,
    )
    for descriptor in job["pass_fds"]:
        os.close(descriptor)  # the other side sees the end when the program ends
    with contextlib.suppress(OSError):  # if memory runs out all the same, the kernel ends the plugin and nothing else
        Path(f"/proc/{child.pid}/oom_score_adj").write_text("1000")
    try:
        verdict = _watch(child, job)
    finally:
        _end_all(child.pid)
        child.returncode = 0  # it has been waited for
    if select.select([sys.stdin.fileno()], [], [], 0)[0]:  # whoever started us has let go, and may be gone
        shutil.rmtree(job["remove"], ignore_errors=True)
    with contextlib.suppress(OSError):
        os.write(sys.stdout.fileno(), json.dumps(verdict).encode())
    return 0


def _adopt_orphans() -> None:
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)


def _limit_files(size: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    most = size if hard == resource.RLIM_INFINITY else min(size, hard)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def _watch(child: subprocess.Popen[bytes], job: dict[str, Any]) -> dict[str, Any]:
    """Return how the program ended, or the limit that it went over."""
    watched = [sys.stdin.fileno()]
    with contextlib.suppress(AttributeError, OSError):
        watched.append(os.pidfd_open(child.pid))
    look_at_disk = time.monotonic()
    while True:
        readable, _, _ = select.select(watched, [], [], PERIOD)
        code = _reap(child.pid)
        if code is not None:
            return {"how": "exit", "code": code}
        if watched[0] in readable:
            return {"how": "let go"}
        pids = descendants(os.getpid()) or [child.pid]
        if len(pids) > job["processes"]:
            return {"how": "processes"}
        if _resident(pids) > job["memory"] and _proportional(pids) > job["memory"]:
            return {"how": "memory"}
        if time.monotonic() > look_at_disk:
            look_at_disk = time.monotonic() + DISK_PERIOD
            if _size(job["remove"], job["disk"]) > job["disk"]:
                return {"how": "disk"}


def _reap(main_pid: int) -> int | None:
    """Wait for all that has ended; return the exit code of the program if it is among them."""
    code = None
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == main_pid:
                code = os.waitstatus_to_exitcode(status)
    return code


def descendants(root: int) -> list[int]:
    """Return all processes below one; nothing where the system does not say."""
    found: list[int] = []
    todo = [root]
    while todo:
        pid = todo.pop()
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208
                with contextlib.suppress(OSError):
                    new = [int(text) for text in Path(f"/proc/{pid}/task/{thread}/children").read_text().split()]
                    found += new
                    todo += new
    return found


def _resident(pids: list[int]) -> int:
    pages = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _proportional(pids: list[int]) -> int:
    """Return the memory with pages that processes share counted once; it takes longer to ask."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def _size(folder: str, enough: int) -> int:
    """Return the bytes below a folder, or more than ``enough`` as soon as that is certain."""
    total = files = 0
    for top, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(f"{top}/{name}").st_blocks * 512
            files += 1
        if total > enough or files > MOST_FILES:
            return enough + 1
    return total


def _end_all(group: int) -> None:
    """End the program and whatever it started, also what left its process group; stop first, so that none can fork on."""
    with contextlib.suppress(OSError):
        os.killpg(group, signal.SIGKILL)
    until = time.monotonic() + 10
    while time.monotonic() < until:
        _reap(0)
        left = descendants(os.getpid())
        if not left:
            return
        for what in (signal.SIGSTOP, signal.SIGKILL):
            for pid in left:
                with contextlib.suppress(OSError):
                    os.kill(pid, what)
        time.sleep(0.002)


if __name__ == "__main__":
    sys.exit(main())
