"""Start a process for one plugin, ask it one thing at a time, and end it: what it may use, what it is told, how long."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import site
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mousebench import errors
from mousebench.errors import ContractViolation, MousebenchError, PluginBroken, UsageError
from mousebench.home import home, hub_cache, torch_checkpoints
from mousebench.isolation.channel import Channel, Closed, TimedOut
from mousebench.isolation.policy import TRUST
from mousebench.progress import Progress, Silent

MEMORY, MINUTES = "MOUSEBENCH_PLUGIN_MEMORY", "MOUSEBENCH_PLUGIN_TIME"
SECONDS_TO_DECLARE = 30.0  # a plugin module imports nothing heavy
SHOWN = 20_000  # characters of a plugin's output that go to stderr
KEPT = 4_000  # characters of its end that are kept for the error
_GB = 10**9
_PASSED_ON = re.compile(
    r"PATH|LANG|LANGUAGE|LC_\w+|TZ|COLUMNS|LD_LIBRARY_PATH|VIRTUAL_ENV|CONDA_PREFIX|SYSTEMROOT|SSL_CERT_(FILE|DIR)|"
    r"(OMP|MKL|OPENBLAS|KMP|CUDA|CUBLAS|NVIDIA|HIP|ROCR|PYTORCH)_\w+|THP_MEM_ALLOC_ENABLE|"
    r"PYTHON(HASHSEED|NOUSERSITE|WARNINGS)|MOUSEBENCH_OFFLINE|(HF_HUB|TRANSFORMERS)_OFFLINE"
)
_SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|AUTH|(^|_)KEY($|_)", re.IGNORECASE)
_PROXY = re.compile(r"(https?|all|no)_proxy", re.IGNORECASE)
_DEVICES = ("null", "zero", "full", "random", "urandom", "shm", "dri", "kfd", "nvidia*")
_BOOT = "import json, sys; job = json.loads(sys.argv[1]); sys.path[:] = job['path']; from mousebench.child import main; main(job)"


class ChildTraceback(Exception):
    """Where something happened in the plugin's process; the cause of its error here, for ``--debug``."""

    def __str__(self) -> str:
        return "\n" + str(self.args[0])


@dataclass(frozen=True)
class Limits:
    """What a plugin's process may use.

    Attributes
    ----------
    memory : int
        Bytes, of it and all that it starts.
    seconds : float
        For one step: to load, to answer to all images, to score all sites.
    disk : int
        Bytes in its own folder, and of any one file.
    processes : int
    """

    memory: int
    seconds: float
    disk: int = 8 * _GB
    processes: int = 64

    @classmethod
    def here(cls) -> Limits:
        """Return what ``--plugin-memory`` and ``--plugin-time`` say: by default 16 GB, or 3/4 of the machine's, and 60 min."""
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        default = min(16 * _GB, machine * 3 // 4)
        return cls(int(_number(MEMORY, default / _GB) * _GB), _number(MINUTES, 60.0) * 60)


def _number(variable: str, default: float) -> float:
    text = os.environ.get(variable, "")
    try:
        number = float(text or default)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise UsageError(f"{variable} is {text!r}; a number above 0 is expected")
    return number


def plain(text: object, most: int = 1_000) -> str:
    """Return text of a plugin as one line without control characters, cut where it is long."""
    line = " ".join(str(text).split())
    line = "".join(letter if letter.isprintable() else "?" for letter in line[: most + 1])
    return line if len(line) <= most else f"{line[:most]}..."


class Process:
    """The process of one plugin.

    Parameters
    ----------
    who : str
        What it is called in errors.
    declares : bool
        It is only to say what it provides: it needs neither weights nor data.
    """

    def __init__(self, who: str, *, declares: bool = False) -> None:
        if os.name != "posix":
            raise UsageError(
                "plugins of others cannot be isolated on this system", "--trust-plugins runs them all the same"
            )
        self.who, self.limits = who, Limits.here()
        self._folder = Path(tempfile.mkdtemp(prefix="mousebench-plugin-")).resolve()
        environment = _environment(self._folder)
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        child = {
            "path": [entry for entry in sys.path if entry],
            "pipes": [theirs_in, theirs_out],
            "writable": _writable(self._folder, environment, declares),
            "network": os.environ.get("MOUSEBENCH_OFFLINE", "") in ("", "0"),
        }
        job = {
            "argv": [sys.executable, "-P", "-c", _BOOT, json.dumps(child)],
            "folder": str(self._folder / "work"),
            "remove": str(self._folder),
            "pass_fds": [theirs_in, theirs_out],
            **{name: getattr(self.limits, name) for name in ("memory", "processes", "disk")},
        }
        self._warden = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).with_name("warden.py")), json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=job["pass_fds"],
            env=environment,
            start_new_session=True,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._channel = Channel(ours_in, ours_out)
        self._output = _Output(who, self._warden.stderr)
        self._end = weakref.finalize(self, _end, self._warden, self._channel, self._output, self._folder, os.getpid())

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._end.alive

    def close(self) -> None:
        """End it with all that it started, and remove its folder."""
        self._end()

    def ask(
        self,
        message: Mapping[str, Any],
        payload: bytes = b"",
        *,
        doing: str,
        seconds: float | None = None,
        progress: Progress | None = None,
    ) -> tuple[dict[str, Any], bytearray]:
        """Ask one thing and return the answer and the bytes that come with it.

        Raises
        ------
        MousebenchError
            The plugin's own, or PluginBroken if its process ends, takes too long or too much, or does not answer properly.
        Exception
            An exception of the plugin's code, as one of that name.
        """
        seconds = self.limits.seconds if seconds is None else seconds
        deadline = time.monotonic() + seconds
        try:
            self._channel.send(message, payload, deadline)
            answer, found = self._answer(deadline, progress or Silent())
        except TimedOut:
            self.close()
            raise PluginBroken(
                f"{self.who} was ended: it took more than {seconds / 60:g} min {doing}{self._output.last_words()}",
                _hint("--plugin-time MINUTES", MINUTES, "gives it more"),
            ) from None
        except Closed:
            verdict = self._verdict()
            self.close()
            raise self._ended(verdict, doing) from self._output.as_cause()
        except BaseException:
            self.close()
            raise
        if "error" in answer:
            raise _exception(answer["error"])
        return answer, found

    def _answer(self, deadline: float, progress: Progress) -> tuple[dict[str, Any], bytearray]:
        notes = 0
        while True:
            answer, found = self._channel.receive(deadline)
            if not isinstance(answer, dict):
                raise ContractViolation(f"{self.who} gives an answer that is no mapping")
            if "progress" not in answer:
                return answer, found
            notes += answer["progress"] != "advance"
            if notes < 1_000:
                _forward(progress, answer)

    def _verdict(self) -> dict[str, Any]:
        try:
            self._warden.wait(15)
            lines = self._warden.stdout.read().splitlines() if self._warden.stdout else []
            return dict(json.loads(lines[-1]))
        except (subprocess.TimeoutExpired, ValueError, IndexError, TypeError):
            return {"how": "unknown"}

    def _ended(self, verdict: Mapping[str, Any], doing: str) -> PluginBroken:
        memory, disk = f"{self.limits.memory / _GB:g} GB of memory", f"{self.limits.disk / _GB:g} GB on disk"
        limit = {
            "memory": (f"used more than {memory}", _hint("--plugin-memory GB", MEMORY, "gives it more")),
            "processes": (f"started more than {self.limits.processes} processes", "a plugin needs few processes"),
            "disk": (f"wrote more than {disk}", "a plugin returns arrays; it need not write files"),
        }.get(str(verdict.get("how")))
        if limit:
            return PluginBroken(f"{self.who} was ended {doing}: it {limit[0]}{self._output.last_words()}", limit[1])
        code = verdict.get("code", "unknown")
        how = f"exit code {code}"
        if isinstance(code, int) and code < 0:
            with contextlib.suppress(ValueError):
                how = signal.Signals(-code).name
        return PluginBroken(
            f"{self.who} ended its own process {doing} ({how}){self._output.last_words()}",
            "--debug shows the end of its output; --trust-plugins runs it in this process, if you trust it",
        )


def _hint(option: str, variable: str, what: str) -> str:
    return f"{option} (before the command, or {variable}) {what}"


def _end(warden: subprocess.Popen[bytes], channel: Channel, output: _Output, folder: Path, owner: int) -> None:
    """Let go of the lifeline, so that the warden ends everything; end it too if it does not."""
    if os.getpid() != owner:  # a fork of the process that started it
        return
    if warden.stdin is not None:
        warden.stdin.close()
    channel.close()
    try:
        warden.wait(15)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(OSError):
            os.killpg(warden.pid, signal.SIGKILL)
        warden.wait()
    if warden.stdout is not None:
        warden.stdout.close()
    output.close()
    _remove(folder)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():  # a plugin may have made folders that cannot be looked into
        for top, names, _ in os.walk(folder):
            for name in names:
                with contextlib.suppress(OSError):
                    if not Path(top, name).is_symlink():
                        Path(top, name).chmod(0o700)
        shutil.rmtree(folder, ignore_errors=True)


def _environment(folder: Path) -> dict[str, str]:
    """Make the folders of a plugin and return its environment: what is harmless of ours, and a home of its own."""
    own_home, temporary = folder / "home", folder / "tmp"
    bench = own_home / "mousebench"
    for path in (own_home, temporary, folder / "work", bench):
        path.mkdir()
    (bench / "data").symlink_to((home() / "data").resolve())
    ours = {
        name: value for name, value in os.environ.items() if _PASSED_ON.fullmatch(name) and not _SECRET.search(name)
    }
    ours.update({n: v for n, v in os.environ.items() if _PROXY.fullmatch(n) and "@" not in v})  # no password in it
    return {
        **ours,
        "HOME": str(own_home),
        "TMPDIR": str(temporary),
        "MOUSEBENCH_HOME": str(bench),
        "TORCH_HOME": str(torch_checkpoints().parents[1]),
        "HF_HUB_CACHE": str(hub_cache()),
        "PYTHONUSERBASE": site.getuserbase(),
        TRUST: "1",  # it is isolated already
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
    }


def _writable(folder: Path, environment: Mapping[str, str], declares: bool) -> list[str]:
    devices = [str(path) for name in _DEVICES for path in Path("/dev").glob(name)]
    if declares:
        return [str(folder), *devices]
    shared = [environment["TORCH_HOME"], environment["HF_HUB_CACHE"], str((home() / "data").resolve())]
    for path in shared:  # what is not there cannot be allowed
        with contextlib.suppress(OSError):
            Path(path).mkdir(parents=True, exist_ok=True)
    return [str(folder), *devices, *shared]


class _Output:
    """What a plugin prints: its beginning goes to stderr, its end is kept; a flood fills neither memory nor disk."""

    def __init__(self, who: str, pipe: Any) -> None:
        self._who, self._pipe = who, pipe
        self._room = SHOWN
        self._tail = ""
        self._thread = threading.Thread(target=self._drain, name="plugin output", daemon=True)
        self._thread.start()

    def _drain(self) -> None:
        for chunk in iter(lambda: self._pipe.read1(1 << 16), b""):
            text = chunk.decode("utf-8", "replace")
            self._tail = (self._tail + text)[-KEPT:]
            if self._room > 0:
                self._show(text[: self._room])
                self._room -= len(text)
                if self._room <= 0:
                    self._show(f"\n{self._who} prints more than {SHOWN} characters; the rest is not shown\n")

    @staticmethod
    def _show(text: str) -> None:
        with contextlib.suppress(ValueError, OSError):  # stderr may be closed by now
            sys.stderr.write("".join(c if c.isprintable() or c in "\n\t" else "?" for c in text))
            sys.stderr.flush()

    def close(self) -> None:
        """Wait for the end of it; what still holds the pipe is no longer listened to."""
        self._thread.join(5)
        if not self._thread.is_alive():
            self._pipe.close()

    def last_words(self) -> str:
        """Return the last line, as the end of an error."""
        lines = [line for line in self._tail.splitlines() if line.strip()]
        return f"; it last printed {plain(lines[-1], 200)!r}" if lines else ""

    def as_cause(self) -> ChildTraceback | None:
        """Return the end of it as the cause of an error, for ``--debug``."""
        return ChildTraceback(f"the end of its output:\n{self._tail}") if self._tail else None


def _forward(progress: Progress, event: Mapping[str, Any]) -> None:
    kind, text, amount = event["progress"], plain(event.get("text", ""), 200), event.get("amount")
    number = amount if isinstance(amount, int | float) else None
    if kind == "start":
        progress.start(text, number)
    elif kind == "advance":
        progress.advance(1 if number is None else number)
    elif kind == "note":
        progress.note(text)
    elif kind == "finish":
        progress.finish()


def _exception(told: Any) -> Exception:
    """Return the exception that a plugin's process tells of: one of ours by its name, else one that is only called so."""
    if not isinstance(told, dict):
        return ContractViolation("the plugin's process tells of an error in no known form")
    name, text, hint = (plain(told.get(key, "")) for key in ("type", "message", "hint"))
    ours = getattr(errors, name, None)
    if isinstance(ours, type) and issubclass(ours, MousebenchError):
        error: Exception = ours(text, hint)
    else:
        error = type(name if name.isidentifier() else "Exception", (Exception,), {})(text)
    error.__cause__ = ChildTraceback(str(told.get("traceback", ""))[-20_000:])
    return error
