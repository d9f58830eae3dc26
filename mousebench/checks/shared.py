"""What the checks of all kinds share: that a plugin declares lightly, can be pickled, loads; and fresh processes."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any

from mousebench.catalogue import Catalogue, Entry, cause_of
from mousebench.checks import Check, DoesNotApply
from mousebench.errors import CheckFailed, MousebenchError, PluginBroken
from mousebench.names import split_local_model

TIMEOUT = 600  # seconds for a fresh process


class PluginChecks:
    """The checks of one plugin; what is loaded is kept for the next check.

    Parameters
    ----------
    entry : Entry
    identifier : str
    found : Catalogue
    """

    def __init__(self, entry: Entry, identifier: str, found: Catalogue) -> None:
        self.entry, self.identifier, self.found = entry, identifier, found
        self.is_function = split_local_model(identifier) is not None  # file.py:function declares nothing

    def all(self) -> list[Check]:
        """Return the checks in the order in which they are run."""
        return [
            Check("declares lightly", self.declares_lightly),
            Check("can be pickled", self.can_be_pickled),
            Check("loads", self.loads),
        ]

    @cached_property
    def _loaded(self) -> Any:
        try:
            name = self.entry.spec.identifier if self.is_function else self.identifier
            return self.prepare(self.entry.load(name))
        except MousebenchError as error:
            return error

    def prepare(self, thing: Any) -> Any:
        """Return what was loaded as what it is used as."""
        return thing

    @property
    def thing(self) -> Any:
        """What was loaded; without it a check does not apply."""
        if isinstance(self._loaded, MousebenchError):
            raise DoesNotApply("it does not load")
        return self._loaded

    def declares_lightly(self) -> None:
        """Refuse a plugin whose declaration imports what takes long: every command imports it."""
        if self.is_function:
            raise DoesNotApply("a function in a file declares nothing")
        answer = self.in_fresh_process("declare")
        if answer["broken"]:
            raise CheckFailed(f"in a fresh process the plugin is broken: {answer['broken'][0]}", "mend its module")
        if answer["heavy"]:
            raise CheckFailed(
                f"the plugin imports {', '.join(answer['heavy'])} when it is declared, and every command imports it",
                "move those imports into load, or into a module that only load imports",
            )

    def can_be_pickled(self) -> None:
        """Refuse a load that no other process could be given."""
        load = self.entry.spec.load
        try:
            pickle.dumps(load)
        except Exception as error:
            raise CheckFailed(
                f"load cannot be pickled: {cause_of(error)}",
                "make it a function of the module, or a functools.partial of one; not a lambda or an inner function",
            ) from error

    def loads(self) -> None:
        """Load it."""
        if isinstance(self._loaded, MousebenchError):
            raise self._loaded

    def in_fresh_process(self, task: str) -> dict[str, Any]:
        """Return the answer of a fresh process to a task of ``mousebench.checks.child``.

        Raises
        ------
        PluginBroken
            If the process ends without an answer.
        """
        plugin = self.entry.plugin
        with tempfile.TemporaryDirectory(prefix="mousebench-check-") as folder:
            file = Path(folder, "answer.json")
            request = {
                **{"task": task, "answer": str(file), "kind": self.entry.kind, "identifier": self.identifier},
                **{"plugin": plugin.name, "module": plugin.module, "file": plugin.file},
            }
            paths = os.pathsep.join(path for path in sys.path if path)
            try:
                done = subprocess.run(
                    [sys.executable, "-m", "mousebench.checks.child"],
                    input=json.dumps(request),
                    capture_output=True,
                    text=True,
                    timeout=TIMEOUT,
                    env={**os.environ, "PYTHONPATH": paths},
                )
            except subprocess.TimeoutExpired as error:
                raise PluginBroken(f"in a fresh process it is not done after {TIMEOUT} s", "--debug") from error
            if not file.is_file():
                last = (done.stderr.strip().splitlines() or ["it ends without a word"])[-1]
                raise PluginBroken(f"in a fresh process it fails, exit {done.returncode}: {last}", "try it in one")
            answer: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if "error" in answer:
            raise CheckFailed(f"in a fresh process: {answer['message']}", answer["hint"])
        return answer
