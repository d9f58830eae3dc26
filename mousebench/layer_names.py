"""Which modules of a net are layers, and what the tensors that they give are called."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from mousebench.errors import ContractViolation

ROOT = "(root)"
BLOCKS = "blocks"
CONTAINERS = (nn.Sequential, nn.ModuleList)

Selection = str | tuple[str, ...] | None


def checked_selection(layers: Sequence[str] | None) -> Selection:
    """Return what ``TorchModel(layers=...)`` may be: None, "blocks", or names and globs.

    Raises
    ------
    ContractViolation
        If it is another string, or an empty list.
    """
    if layers is None or layers == BLOCKS:
        return layers if layers is None else BLOCKS
    if isinstance(layers, str):
        raise ContractViolation(f"layers is the string {layers!r}; a list of names, or 'blocks', is expected")
    if not layers:
        raise ContractViolation("layers is an empty list", "None is all layers")
    return tuple(layers)


def hooked_modules(net: nn.Module, selection: Selection) -> dict[str, nn.Module]:
    """Return path -> module of all modules to hook; containers only where they are asked for by name.

    Raises
    ------
    ContractViolation
        If a name or glob matches no module.
    """
    every = {path or ROOT: module for path, module in net.named_modules()}
    leaves = {path: module for path, module in every.items() if not isinstance(module, CONTAINERS)}
    if selection is None:
        return leaves
    if isinstance(selection, str):
        return blocks(net)
    chosen: set[str] = set()
    for pattern in selection:
        path = pattern.partition("#")[0]
        named = {path} & every.keys() or {name for name in leaves if fnmatch.fnmatchcase(name, path)}
        if not named:
            raise no_such_layer(pattern, every)
        chosen |= named
    return {path: module for path, module in every.items() if path in chosen}


def blocks(net: nn.Module) -> dict[str, nn.Module]:
    """Return path -> module of the top-level blocks.

    They are the direct children of the net; a child that is an ``nn.Sequential`` or ``nn.ModuleList`` stands for its
    members (and only those: a Sequential inside a Sequential is one block). A net without children is its own block.
    """
    found: dict[str, nn.Module] = {}
    for name, child in net.named_children():
        members = dict(child.named_children()) if isinstance(child, CONTAINERS) else {}
        found.update({f"{name}.{member}": module for member, module in members.items()} or {name: child})
    return found or {ROOT: net}


def is_selected(name: str, path: str, selection: Selection) -> bool:
    """Say whether the layer ``name``, made by the module at ``path``, is asked for."""
    return selection is None or isinstance(selection, str) or any(_matches(name, path, p) for p in selection)


def unmatched(selection: Selection, layers: Iterable[tuple[str, str]]) -> list[str]:
    """Return the names and globs that are asked for and match none of the (name, path) that ran."""
    if selection is None or isinstance(selection, str):
        return []
    ran = list(layers)
    return [pattern for pattern in selection if not any(_matches(name, path, pattern) for name, path in ran)]


def _matches(name: str, path: str, pattern: str) -> bool:
    return pattern in (name, path) or fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(path, pattern)


def items(output: Any, item: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (item, value) for everything in a module's output.

    Positions in tuples and lists and keys of dicts are joined by dots. A None inside them is nothing that the net
    gives; an output that is None or empty as a whole is yielded, so that it can be said to be no layer.
    """
    parts: Iterable[tuple[Any, Any]] | None = None
    if isinstance(output, Mapping):
        parts = output.items()
    elif isinstance(output, tuple | list):
        parts = enumerate(output)
    if parts is None or (not output and not item):
        yield item, output
        return
    for key, part in parts:
        if part is not None:
            yield from items(part, f"{item}.{key}" if item else str(key))


def layer_name(path: str, call: int, item: str, n_calls: int) -> str:
    """Return ``path``, ``path#call`` where a module is called more than once, ``path#call.item`` for tuples and dicts."""
    if item:
        return f"{path}#{call}.{item}"
    return f"{path}#{call}" if n_calls > 1 else path


def why_no_layer(value: Any) -> str:
    """Return why something that a module gives cannot be a layer; empty if it can."""
    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.ndim == 0:
        return f"its output is {shape(value)}, not a float tensor"
    if value.layout != torch.strided or value.is_nested:
        return f"its output is {shape(value)} whose elements do not lie side by side"
    return "" if value.numel() else f"its output is {shape(value)}, which holds nothing"


def shape(value: Any) -> str:
    """Say what a value is: type and shape of a tensor, else its type."""
    if isinstance(value, torch.Tensor):
        kind = "nested" if value.is_nested else str(value.layout).removeprefix("torch.")
        size = "" if value.is_nested else f" of shape {tuple(value.shape)}"
        return f"a {str(value.dtype).removeprefix('torch.')} {kind} tensor{size}".replace(" strided", "")
    empty = "n empty" if isinstance(value, Mapping | tuple | list) and not value else ""
    return f"a{empty} {type(value).__name__}"


def no_such_layer(name: str, known: Collection[str]) -> ContractViolation:
    """Return the error for a layer that is not there, with the closest that is."""
    close = difflib.get_close_matches(name, list(known), n=1)
    guess = f"; closest: {close[0]!r}" if close else ""
    return ContractViolation(
        f"layer {name!r}: no such module{guess}", "layers are dotted module paths, as in named_modules()"
    )


def some_of(notes: Mapping[str, str]) -> str:
    """Return the first few of layer -> reason as one line."""
    return "; ".join(f"{layer}: {reason}" for layer, reason in list(notes.items())[:3])
