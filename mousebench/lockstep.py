"""Pass several batches through one net in step: at each layer all of them are there, at one time.

A Gram needs a layer of all images together, but a forward pass of all images at once needs memory for input and output
of its widest layer at once, and convolutions are slower on so much. So the images go in batches. Each has a thread, of
which exactly one runs: it computes up to its next layer and stops, and when all have stopped there, the layer is
handed on. What exists of all images is one layer (and what the net itself keeps), of a single batch what it computes.

A batch stops, where it can, not when a module returns but when the next one begins: by then the net has dropped what
the module read. It cannot where the output is changed in place in between (``y += x``); the trace finds that out.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mousebench.errors import OutOfStep
from mousebench.layer_names import ROOT, items

CallKey = tuple[str, int]  # module path, number of the call


@dataclass(frozen=True)
class Step:
    """One call of one module, in all batches: what each of them got out of it."""

    path: str
    call: int
    outputs: Sequence[Any]


class NetFailed(Exception):
    """The net's own code raised, for the batch of this number with so many images; the cause says what."""

    def __init__(self, batch: int, n_images: int) -> None:
        super().__init__(batch, n_images)
        self.batch, self.n_images = batch, n_images


class Lockstep:
    """A net with hooks, ready to pass batches.

    Parameters
    ----------
    net : torch.nn.Module
    hooked : mapping of path to module
        Whose calls are steps.
    context : callable
        Gives the context in which each thread runs the net.
    late : collection of (path, call), optional
        Steps that may wait until the next module begins. None finds them out, into ``unchanged``.

    Attributes
    ----------
    unchanged : set of (path, call)
        Steps whose output was, when the next module began, as the module had returned it.
    """

    def __init__(
        self,
        net: nn.Module,
        hooked: Mapping[str, nn.Module],
        context: Callable[[], AbstractContextManager[None]],
        late: Collection[CallKey] | None = None,
    ) -> None:
        self.net, self.hooked, self.context, self.late = net, hooked, context, late
        self.unchanged: set[CallKey] = set()
        self._running: _Batch | None = None

    def run(self, batches: Sequence[torch.Tensor], see: Callable[[Step], None]) -> None:
        """Show the steps in order of execution; while one is seen nothing runs.

        Raises
        ------
        NetFailed
            If the net raises.
        OutOfStep
            If the batches run through different layers.
        """
        handles = [module.register_forward_pre_hook(self._begin) for module in self.net.modules()]
        handles += [module.register_forward_hook(self._end(path)) for path, module in self.hooked.items()]
        running: list[_Batch] = []
        try:
            for images in batches:
                running.append(_Batch(images, self))
            while True:
                for number, batch in enumerate(running):
                    self._running = batch
                    batch.advance()
                    if batch.error is not None:
                        raise NetFailed(number, len(batches[number])) from batch.error
                keys = {batch.key for batch in running}
                if len(keys) > 1:
                    raise OutOfStep(f"the net runs different layers for different images: {_names(keys)}")
                key = keys.pop()
                if key is None:
                    return
                see(Step(*key, [batch.output for batch in running]))
        finally:
            for batch in running:
                batch.stop()
            for handle in handles:
                handle.remove()

    def _begin(self, _module: nn.Module, _inputs: Any) -> None:
        if self._running is not None:
            self._running.settle()

    def _end(self, path: str) -> Callable[..., None]:
        def end(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if self._running is not None:
                self._running.reach(path, output)

        return end


class _Batch:
    """One batch on its way through the net, in a thread that waits for its turn."""

    def __init__(self, images: torch.Tensor, owner: Lockstep) -> None:
        self.owner = owner
        self.key: CallKey | None = None  # where it has stopped; None at the end
        self.output: Any = None
        self.error: BaseException | None = None
        self._images = images
        self._called: Counter[str] = Counter()
        self._pending: tuple[CallKey, Any, list[int]] | None = None
        self._turn, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._cancelled = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def advance(self) -> None:
        """Let it run up to its next stop, or to its end."""
        self.key = self.output = None
        self._turn.release()
        self._stopped.acquire()

    def stop(self) -> None:
        """End it, wherever it is."""
        self._cancelled = True
        self._turn.release()
        self._thread.join()
        self.error = None  # its traceback holds the net's frames, and those hold tensors

    def _run(self) -> None:
        self._turn.acquire()
        try:
            if not self._cancelled:
                with self.owner.context():
                    self.owner.net(self._images)
                    self.settle()
        except _Cancelled:
            pass
        except BaseException as error:
            self.error = error
        finally:
            self._pending = None
            self._stopped.release()

    def reach(self, path: str, output: Any) -> None:
        """Note that a module has returned: stop here, or when the next one begins."""
        self.settle()
        key = path, self._called[path]
        self._called[path] += 1
        late = self.owner.late
        if late is None or key in late:
            self._pending = key, output, _versions(output)
        if late is None or key not in late:
            self._stop(key, output)

    def settle(self) -> None:
        """Stop for what a module returned before, if that is still to be done."""
        if self._pending is None:
            return
        key, output, versions = self._pending
        self._pending = None
        same = bool(versions) and _versions(output) == versions
        if self.owner.late is not None:
            if not same:
                raise OutOfStep(f"layer {key[0]!r} is changed in place for some images and not for others")
            self._stop(key, output)
        elif same:
            self.owner.unchanged.add(key)

    def _stop(self, key: CallKey, output: Any) -> None:
        self.key, self.output = key, output
        del output
        self._stopped.release()
        self._turn.acquire()
        if self._cancelled:
            raise _Cancelled


class _Cancelled(BaseException):
    """Unwinds a thread that is to end; not an Exception, which the net's code may catch."""


def _versions(output: Any) -> list[int]:
    """Return how often each tensor was changed in place; empty where that cannot be known."""
    tensors = [value for _, value in items(output) if isinstance(value, torch.Tensor)]
    if any(tensor.is_inference() for tensor in tensors):
        return []
    return [tensor._version for tensor in tensors]


def _names(keys: Collection[CallKey | None]) -> str:
    """Return layers that were reached, for a message."""
    return ", ".join(sorted("the end" if key is None else f"{key[0] or ROOT}#{key[1]}" for key in keys))
