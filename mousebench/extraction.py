"""Pass all images through a net and collect its layers, within the memory that there is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from mousebench.collector import Collector, one_blas_thread_each
from mousebench.devices import device_name, free_memory, inference, is_out_of_memory, memory_budget
from mousebench.errors import ContractViolation, MousebenchError, OutOfStep, PluginBroken, UsageError
from mousebench.layer_names import Selection, shape, why_no_layer
from mousebench.lockstep import CallKey, Lockstep, NetFailed, Step
from mousebench.progress import Progress, Silent
from mousebench.reduction import Reductions
from mousebench.tracing import N_FEW, Call, Trace, as_float, trace

BATCH = 30  # images: convolutions on a CPU are slow below 16, and each batch is a thread
_LIVE = 2  # copies of the widest layer that are there at once: the layer, and what the net keeps of others

Result = TypeVar("Result")


@dataclass(frozen=True)
class Plan:
    """How the images pass: in batches, of which those that are there at one time make up a group.

    The batches are the same whatever the groups are, as convolutions round differently in batches of another size.

    Parameters
    ----------
    n_images : int
    at_once : int
        Images in a group.
    batch : int
        Images in a batch, at most.
    in_step : bool
        Whether the batches of a group pass in lockstep; else they are made one batch.
    """

    n_images: int
    at_once: int
    batch: int = BATCH
    in_step: bool = True

    def limited(self, at_once: int) -> Plan:
        """Return the plan with at most so many images at once; batches get smaller only where two do not fit."""
        at_once = max(1, min(at_once, self.n_images))
        batch = at_once if at_once == self.n_images else max(1, at_once // 2)
        return replace(self, at_once=at_once, batch=min(self.batch, batch))

    def halved(self) -> Plan | None:
        """Return the plan with half as many images at once; None if there are two already, which a Gram needs."""
        return self.limited(max(2, self.at_once // 2)) if self.at_once > 2 else None

    @property
    def batches(self) -> list[np.ndarray]:
        """Image numbers by batch, in sizes that differ by one at most."""
        return np.array_split(np.arange(self.n_images), -(-self.n_images // self.batch))

    @property
    def groups(self) -> list[list[np.ndarray]]:
        """Batches by group: as few groups as a greedy choice finds such that each two batches meet in one."""
        batches = self.batches
        everyone, size = range(len(batches)), max(2, self.at_once // self.batch)
        if self.at_once >= self.n_images:
            size = len(batches)
        strangers = {number: set(everyone) - {number} for number in everyone}
        groups = [] if len(batches) > 1 else [[0]]
        while any(strangers.values()):
            group = [max(everyone, key=lambda one: len(strangers[one]))]
            while len(group) < size:
                gain = {one: len(strangers[one].intersection(group)) for one in everyone if one not in group}
                best = max(gain, key=lambda one: gain[one])
                if not gain[best]:
                    break
                group.append(best)
            for one in group:
                strangers[one].difference_update(group)
            groups.append(sorted(group))
        found = [[batches[number] for number in group] for group in groups]
        return found if self.in_step else [[np.concatenate(group)] for group in found]


class Extraction:
    """One net and one set of images, on a device where the net is at work.

    Parameters
    ----------
    net : torch.nn.Module
    hooked : mapping of path to module
        Whose calls are layers.
    selection : None, "blocks" or tuple of str
        Which of these layers are asked for.
    images : float (image, channel, height, width)
    device : torch.device
    budget : int or None
        Bytes that activations may take; None is what the device can give.

    Attributes
    ----------
    trace : Trace
        The layers, from a few images.
    """

    def __init__(
        self,
        net: nn.Module,
        hooked: Mapping[str, nn.Module],
        selection: Selection,
        images: torch.Tensor,
        device: torch.device,
        budget: int | None = None,
    ) -> None:
        self.net, self.hooked, self.selection, self.images, self.device = net, hooked, selection, images, device
        self.budget = memory_budget(device) if budget is None else budget
        self.few = np.linspace(0, len(images) - 1, N_FEW).round().astype(int)
        types = [tensor.dtype for tensor in net.parameters() if tensor.is_floating_point()]
        self.dtype = types[0] if types else images.dtype
        self.memory_format = torch.contiguous_format
        self.trace = self._trace()

    def reduce(self, progress: Progress) -> Reductions:
        """Return all layers as Grams and sums."""

        def attempt(plan: Plan) -> Reductions:
            groups = plan.groups
            progress.start("layers", len(self.trace.calls) * len(groups))
            collector = Collector(len(self.images), self.few.tolist(), progress)
            late = self.trace.late if plan.in_step else ()
            with one_blas_thread_each() as pool:
                for batches in groups:
                    collector.begin(batches)
                    self._pass(batches, late, lambda call, parts: collector.add(call, parts, pool))
            progress.finish()
            return collector.result(self.trace.calls, self.trace.skipped, device_name(self.device))

        return self._persist(attempt, progress)

    def keep(self, layers: Collection[str]) -> dict[str, np.ndarray]:
        """Return float (image, feature) of some layers, in the order in which they are asked for."""

        def attempt(plan: Plan) -> dict[str, np.ndarray]:
            found: dict[str, list[np.ndarray]] = {name: [] for name in layers}

            def see(call: Call, parts: Sequence[torch.Tensor]) -> None:
                if call.name in found:
                    flat = parts[0].detach().movedim(call.axis, 0).reshape(parts[0].shape[call.axis], -1)
                    found[call.name].append(as_float(flat).to("cpu", copy=True).numpy())

            for batch in plan.batches:
                self._pass([batch], (), see)
            return {name: np.concatenate(found.pop(name)) for name in layers}

        return self._persist(attempt, Silent())

    def _persist(self, attempt: Callable[[Plan], Result], progress: Progress) -> Result:
        """Try until the memory suffices: out-of-memory halves how many images are there at once."""
        widest = max(call.width for call in self.trace.calls)
        fit = self.budget // (_LIVE * widest * self.dtype.itemsize)
        plan = Plan(len(self.images), len(self.images)).limited(fit)
        while True:
            try:
                return attempt(plan)
            except Exception as error:
                plan = self._after(error, plan, progress)
            progress.finish()
            free_memory(self.device)  # after the error, whose traceback holds the net's frames and their tensors

    def _after(self, error: Exception, plan: Plan, progress: Progress) -> Plan:
        """Return the plan to go on with after an error; raise it where there is none."""
        cause = error.__cause__ if isinstance(error, NetFailed) else error
        if cause is not None and is_out_of_memory(cause):
            smaller = plan.halved()
            if smaller is None:
                raise self._too_small(plan.at_once) from error
            progress.note(f"out of memory with {plan.at_once} images at once, going on with {smaller.at_once}")
            return smaller
        if isinstance(error, NetFailed | OutOfStep) and any(len(group) > 1 for group in plan.groups):
            reason = error.message if isinstance(error, OutOfStep) else f"{type(cause).__name__}: {cause}"
            progress.note(f"the net cannot pass batches in turn ({reason}); it gets all images in one")
            return replace(plan, in_step=False)
        if isinstance(error, NetFailed):
            raise self._broken(error) from cause
        raise error

    def _trace(self) -> Trace:
        """Learn the layers from a few images.

        On a CPU, convolutions run up to twice as fast with channels last; a net whose code does not allow that (it
        calls ``view`` on what it thinks contiguous) fails here and gets its images the other way.
        """
        formats = [torch.contiguous_format]
        if self.device.type == "cpu":
            formats.insert(0, torch.channels_last)
        for self.memory_format in formats:
            try:
                return trace(self._for_net(self.few), lambda: self._lockstep(None), self.selection)
            except NetFailed as error:
                if self.memory_format == formats[-1]:
                    self._blame(error, self.few)
                    raise self._broken(error) from error.__cause__
        raise AssertionError

    def _pass(
        self,
        batches: Sequence[np.ndarray],
        late: Collection[CallKey],
        consume: Callable[[Call, Sequence[torch.Tensor]], None],
    ) -> None:
        """Pass batches in step and hand each layer to ``consume``, a tensor a batch."""
        missing = {call.name for call in self.trace.calls}

        def see(step: Step) -> None:
            for call, parts in self.trace.layers_of(step):
                missing.discard(call.name)
                for batch, x in zip(batches, parts, strict=True):
                    if why_no_layer(x) or x.ndim <= call.axis or x.shape[call.axis] != len(batch):
                        raise ContractViolation(f"layer {call.name!r} gives {shape(x)} for {len(batch)} images")
                    if x.numel() != len(batch) * call.width:
                        raise ContractViolation(
                            f"layer {call.name!r} gives {shape(x)} for {len(batch)} images, not {call.width} features each"
                        )
                consume(call, parts)

        try:
            self._lockstep(late).run([self._for_net(batch) for batch in batches], see)
        except NetFailed as error:
            self._blame(error, batches[error.batch])
            raise
        if missing:
            first = next(call.name for call in self.trace.calls if call.name in missing)
            raise ContractViolation(f"layer {first!r} did not run for all images")

    def _for_net(self, index: np.ndarray) -> torch.Tensor:
        return self.images[index].to(self.device, self.dtype).contiguous(memory_format=self.memory_format)

    def _lockstep(self, late: Collection[CallKey] | None) -> Lockstep:
        return Lockstep(self.net, self.hooked, lambda: inference(self.device), late)

    def _blame(self, error: NetFailed, index: np.ndarray) -> None:
        """Raise what is wrong if it is one image, or an error of ours; return if it is the batch, or the memory."""
        cause = error.__cause__
        if isinstance(cause, MousebenchError):
            raise cause
        if cause is None or is_out_of_memory(cause):
            return
        wrong: list[tuple[int, Exception | SystemExit]] = []
        for image in np.unique(index):
            try:
                with inference(self.device):
                    self.net(self._for_net(np.array([image])))
            except (Exception, SystemExit) as alone:
                wrong.append((int(image), alone))
        if wrong and (len(wrong) < len(np.unique(index)) or len(self.images) == 1):
            image, first = wrong[0]
            more = f" (and on {len(wrong) - 1} more of {len(index)})" if len(wrong) > 1 else ""
            raise PluginBroken(f"the net fails on image {image}{more}: {_words(first)}", self._hint()) from first

    def _broken(self, error: NetFailed) -> MousebenchError:
        cause = error.__cause__
        assert cause is not None
        if is_out_of_memory(cause):
            return self._too_small(error.n_images)
        return PluginBroken(f"the net fails on {error.n_images} images: {_words(cause)}", self._hint())

    def _too_small(self, n_images: int) -> UsageError:
        return UsageError(
            f"the net needs more memory than {device_name(self.device)} has, even for {n_images} images at once",
            "a smaller input, or --device cpu" if self.device.type != "cpu" else "a smaller input, or more memory",
        )

    def _hint(self) -> str:
        if self.dtype in (torch.float16, torch.bfloat16):
            return f"its parameters are {str(self.dtype).removeprefix('torch.')}; module.float() computes in float32"
        return ""


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
