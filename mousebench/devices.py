"""Where a net computes, with how much memory, and how exactly: float32 throughout."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

from mousebench.errors import ContractViolation, UsageError

CPU_BUDGET = 4 * 2**30
_SHARE = 0.8  # of what is free on an accelerator: the rest is for the weights and what convolutions rearrange


def choose_device(name: str) -> torch.device:
    """Return the device of a name; "auto" is cuda where there is one, else cpu."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    kind, _, number = name.partition(":")
    there = available.get(kind, False) and (not number or number.isdecimal())
    if there and kind == "cuda" and number:
        there = int(number) < torch.cuda.device_count()
    if not there:
        raise UsageError(
            f"device {name!r} is not available here",
            f"one of: auto, {', '.join(kind for kind, there in available.items() if there)}",
        )
    return torch.device(name)


def device_name(device: torch.device) -> str:
    """Return what computes, for the record."""
    if device.type == "cuda":
        return f"cuda, {torch.cuda.get_device_name(device)}"
    return f"{device.type}, {torch.get_num_threads()} threads" if device.type == "cpu" else device.type


def memory_budget(device: torch.device) -> int:
    """Return the bytes that activations may take: most of what is free on an accelerator, at most 4 GiB of RAM."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(_SHARE * free)
    if device.type == "mps":
        return int(_SHARE * (torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()))
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 2 * CPU_BUDGET
    return min(CPU_BUDGET, pages // 2)


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that memory is short, on whatever device and in whatever words."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    words = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")
    return isinstance(error, RuntimeError) and any(some in text for some in words)


def free_memory(device: torch.device) -> None:
    """Give back what an accelerator's allocator holds in reserve."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def home_of(module: nn.Module) -> torch.device:
    """Return the device that holds a module, the CPU for one without parameters and buffers.

    Raises
    ------
    ContractViolation
        If it is spread over several devices, or on the meta device.
    """
    homes = {tensor.device for tensor in [*module.parameters(), *module.buffers()]}
    if len(homes) > 1:
        raise ContractViolation(f"the net is spread over several devices: {', '.join(sorted(map(str, homes)))}")
    home = homes.pop() if homes else torch.device("cpu")
    if home.type == "meta":
        raise ContractViolation("the net's parameters are on the meta device, where they have no values")
    return home


@contextlib.contextmanager
def at_work(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Put a module on a device and in eval mode, and torch into exact arithmetic; afterwards put all of it back."""
    home = home_of(module)
    training = {part: part.training for part in module.modules()}
    module.eval()
    try:
        if home != device:
            _move(module, device)
        with _exact(), _default_stream(device):
            yield
    finally:
        if home != device:
            module.to(home)
        for part, mode in training.items():
            part.training = mode


def _move(module: nn.Module, device: torch.device) -> None:
    try:
        module.to(device)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise UsageError(f"the net's weights do not fit into the memory of {device}", "--device cpu") from error


@contextlib.contextmanager
def _default_stream(device: torch.device) -> Iterator[None]:
    """Put what this thread does into the same stream as what the threads do in which the net runs."""
    if device.type == "cuda":
        with torch.cuda.device(device), torch.cuda.stream(torch.cuda.default_stream(device)):
            yield
    else:
        yield


@contextlib.contextmanager
def inference(device: torch.device) -> Iterator[None]:
    """Switch off gradients and autocast in this thread, and make the device its current one."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.autocast(device.type, enabled=False))
        if device.type == "cuda":
            stack.enter_context(torch.cuda.device(device))
        yield


@contextlib.contextmanager
def _exact() -> Iterator[None]:
    """Set what torch keeps for the whole process: full float32, the same algorithm each time, no fused transformers.

    TF32 and bfloat16 round the factors of a product to 10 and 7 bits. The fused path of ``nn.TransformerEncoderLayer``
    and ``nn.MultiheadAttention`` calls none of their parts, so that layers would depend on version and device.
    """
    settings = [
        _Setting(torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled, False),
        _attribute(torch.backends.cudnn, "benchmark", False),
        _attribute(torch.backends.cudnn, "deterministic", True),
        # the old flags first: torch complains where they contradict the new ones
        _Setting(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"),
        _attribute(torch.backends.cudnn, "allow_tf32", False),
    ]
    cuda, cudnn, mkldnn = (getattr(torch.backends, name) for name in ("cuda", "cudnn", "mkldnn"))
    if hasattr(cudnn, "conv"):  # since torch 2.9
        owners = [cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv, mkldnn.rnn]
        settings += [_attribute(owner, "fp32_precision", "ieee") for owner in owners]
    before: list[tuple[_Setting, Any]] = []
    for setting in settings:
        with contextlib.suppress(RuntimeError):  # an old flag that contradicts a new one cannot be read
            before.append((setting, setting.get()))
    try:
        for setting in settings:
            setting.set(setting.exact)
        yield
    finally:
        for setting, value in before:
            setting.set(value)


class _Setting(NamedTuple):
    get: Callable[[], Any]
    set: Callable[[Any], None]
    exact: object


def _attribute(owner: Any, name: str, exact: object) -> _Setting:
    return _Setting(lambda: getattr(owner, name), lambda value: setattr(owner, name, value), exact)
