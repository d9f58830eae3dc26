"""What the rest of the program sees of a plugin that runs elsewhere: its Specs, and a session that answers for one thing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from mousebench.errors import ContractViolation, MousebenchError
from mousebench.isolation.policy import Reference
from mousebench.isolation.process import SECONDS_TO_DECLARE, Process, plain
from mousebench.progress import Progress
from mousebench.specs import KINDS, Spec

MOST_SPECS = 10_000


@dataclass(frozen=True)
class Declared:
    """What a plugin says that it provides, checked; or why it cannot."""

    specs: Sequence[tuple[str, Spec]] = ()
    source: str = ""
    cause: str = ""


def declare(references: Sequence[Reference]) -> list[Declared]:
    """Return what each of some plugins declares; each is imported in a process of its own, all at the same time."""
    processes = [Process(str(reference), declares=True) for reference in references]
    try:
        return [_declared(*pair) for pair in zip(references, processes, strict=True)]
    finally:
        for process in processes:
            process.close()


def _declared(reference: Reference, process: Process) -> Declared:
    try:
        answer, _ = process.ask(
            {"do": "declare", "plugin": dataclasses.asdict(reference)},
            doing="to declare what it provides",
            seconds=min(SECONDS_TO_DECLARE, process.limits.seconds),
        )
        if answer.get("cause"):
            return Declared(cause=plain(answer["cause"]))
        rows = answer.get("specs")
        if not isinstance(rows, list) or len(rows) > MOST_SPECS:
            raise ContractViolation(f"it declares no list of at most {MOST_SPECS} things")
        specs = [_spec(reference, row) for row in rows]
        names = [(kind, spec.listed) for kind, spec in specs]
        if len(set(names)) < len(names):
            raise ContractViolation("it declares one name twice")
        return Declared(specs, plain(answer.get("source", ""), 64))
    except MousebenchError as error:
        return Declared(cause=f"{type(error).__name__}: {error.message}")
    except Exception as error:  # an exception of the plugin, told by its process
        return Declared(cause=plain(f"{type(error).__name__}: {error}"))


def _spec(reference: Reference, row: Any) -> tuple[str, Spec]:
    """Return the Spec of one row that a plugin's process sent; nothing of it is taken on trust."""
    if not isinstance(row, dict) or row.get("kind") not in KINDS or not isinstance(row.get("metadata"), dict):
        raise ContractViolation("it declares something of no known form")
    kind, identifier = row["kind"], row["identifier"]
    missing = plain(row.get("missing", ""), 200)
    metadata = {
        plain(name, 100): plain(value, 200) if isinstance(value, str) else value
        for name, value in row["metadata"].items()
    }
    family = row.get("family") is True
    loads = [
        partial(_load_variant if takes else _load_plain, reference, kind, str(identifier), untrained, family)
        for untrained, takes in ((False, row.get("variants") is True), (True, row.get("untrained_variants") is True))
    ]
    spec = Spec(
        identifier,
        loads[0],
        plain(row.get("description", ""), 300),
        metadata,
        architecture=loads[1] if row.get("architecture") is True else None,
        missing=partial(str, missing) if missing else None,
        family=family,
    )
    return kind, spec


def _load_plain(
    reference: Reference, kind: str, base: str, untrained: bool, family: bool, name: str = "", **changes: Any
) -> Any:
    return _load(reference, kind, f"{base}/{name}" if family else base, untrained, **changes)


def _load_variant(
    reference: Reference,
    kind: str,
    base: str,
    untrained: bool,
    family: bool,
    name: str = "",
    variant: str | None = None,
    **changes: Any,
) -> Any:
    identifier = f"{base}/{name}" if family else base
    return _load(reference, kind, identifier if variant is None else f"{identifier}@{variant}", untrained, **changes)


def load_function(reference: Reference, **changes: Any) -> Any:
    """Return the model that a function in a file builds."""
    return _load(reference, "models", f"{reference.name}:{reference.function}", **changes)


def _load(reference: Reference, kind: str, identifier: str, untrained: bool = False, **changes: Any) -> Any:
    from mousebench.isolation.proxies import load

    return load(Session(reference, kind, identifier, untrained, **changes))


def call(
    reference: Reference, function: str, arguments: Mapping[str, Any], *, doing: str, progress: Progress | None = None
) -> Any:
    """Call a function of mousebench in a process of the plugin's and return what it gives, which is plain JSON.

    Parameters
    ----------
    reference : Reference
    function : str
        ``module:name``. It is called with a Catalogue (the project's own plugins and this one, all in that process),
        the arguments and a Progress. It runs beside the plugin, so whoever asks checks what it gives.
    arguments : mapping
    doing : str
        What it does, for errors: "to run its checks".
    progress : Progress, optional

    Raises
    ------
    MousebenchError
        As ``Process.ask``.
    """
    process = Process(str(reference))
    try:
        message = {"do": "call", "plugin": dataclasses.asdict(reference), "function": function, "arguments": arguments}
        return process.ask(message, doing=doing, progress=progress)[0].get("gives")
    finally:
        process.close()


class Session:
    """One thing of a plugin, loaded in a process that starts when it is first needed, and again after it was closed.

    Parameters
    ----------
    reference : Reference
    kind, identifier : str
    untrained : bool
        Only the architecture of a model.
    weights : str, optional
        A file to fill it with.
    layers : str or sequence of str, optional
    """

    def __init__(
        self,
        reference: Reference,
        kind: str,
        identifier: str,
        untrained: bool,
        weights: str | None = None,
        layers: str | Sequence[str] | None = None,
    ) -> None:
        self.reference, self.kind, self.identifier = reference, kind, identifier
        self._wanted = {"kind": kind, "identifier": identifier, "untrained": untrained}
        self._wanted |= {"weights": weights, "layers": layers}
        self._process: Process | None = None
        self._facts: dict[str, Any] = {}

    def facts(self) -> dict[str, Any]:
        """Load the thing and return what its process says of it."""
        if self._process is None or not self._process.alive:
            self._process = Process(f"{self.kind[:-1]} {self.identifier!r} of {self.reference}")
            message = {"do": "load", "plugin": dataclasses.asdict(self.reference), **self._wanted}
            try:
                self._facts, _ = self._process.ask(message, doing="to load")
            except BaseException:
                self.close()
                raise
        return self._facts

    def ask(
        self,
        operation: str,
        fields: Mapping[str, Any] | None = None,
        payload: bytes = b"",
        *,
        doing: str,
        progress: Progress | None = None,
    ) -> tuple[dict[str, Any], bytearray]:
        """Ask the thing, which is loaded first if need be; raises as ``Process.ask`` does."""
        self.facts()
        assert self._process is not None
        return self._process.ask({"do": operation, **(fields or {})}, payload, doing=doing, progress=progress)

    def close(self) -> None:
        """End the process, and free what it holds."""
        if self._process is not None:
            self._process.close()
            self._process = None
