"""What a plugin declares: identifiers and how to load what they name. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from mousebench.errors import ContractViolation, UnknownIdentifier

_NAME = r"[a-z0-9]+(?:[._-][a-z0-9]+)*"
_IDENTIFIER = re.compile(rf"(?:{_NAME}/)?{_NAME}(?:@{_NAME})?")


@dataclass(frozen=True)
class Spec:
    """One model, benchmark or metric that a plugin provides.

    Parameters
    ----------
    identifier : str
        The name users type: ``name``, ``family/name``, and ``name@variant`` for a fixed variant.
    load : callable
        Called without arguments, only when the identifier is used; heavy imports belong in it. A ``load`` with a
        parameter named ``variant`` also answers to ``identifier@VARIANT`` and is then called with
        ``variant="VARIANT"``. A module-level function or a ``functools.partial`` of one, so that it can be pickled.
    description : str
        One line for ``mousebench list``.

    Raises
    ------
    ContractViolation
        If the identifier is not of that form, or ``load`` cannot be called.
    """

    identifier: str
    load: Callable[..., Any]
    description: str = ""

    def __post_init__(self) -> None:
        check_identifier(self.identifier)
        if not callable(self.load):
            raise ContractViolation(f"Spec {self.identifier!r}: load is {self.load!r}, which cannot be called")


def check_identifier(identifier: object) -> str:
    """Return the identifier, or raise ContractViolation if it is not ``[family/]name[@variant]``."""
    if not isinstance(identifier, str) or not is_identifier(identifier):
        raise ContractViolation(
            f"{identifier!r} is not an identifier",
            "use lower-case letters and digits, joined by single '.', '-' or '_', as in 'my-net' or 'timm/my_net@small'",
        )
    return identifier


def is_identifier(text: str) -> bool:
    """Say whether a text is ``[family/]name[@variant]``."""
    return _IDENTIFIER.fullmatch(text) is not None


def split_variant(identifier: str) -> tuple[str, str | None]:
    """Split ``name@variant`` into its two parts; the variant is None where there is none."""
    base, at, variant = identifier.partition("@")
    return (base, variant) if at else (identifier, None)


def seed_of(name: str, variant: str | None) -> int:
    """Return the seed that ``NAME@SEED`` names; 0 without a variant.

    Raises
    ------
    UnknownIdentifier
        If the variant is not a whole number in its plain form: ``@03`` would be a second name for ``@3``.
    """
    if variant is None:
        return 0
    if not variant.isdecimal() or variant != str(int(variant)):
        raise UnknownIdentifier(f"model {name!r} has no variant {variant!r}", "its variants are seeds: 0, 1, 2 ...")
    return int(variant)


def file_name(identifier: str) -> str:
    """Return the identifier as one path component; different identifiers give different names."""
    return quote(identifier, safe="")
