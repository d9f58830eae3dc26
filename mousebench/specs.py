"""What a plugin declares: identifiers and how to load what they name. Standard library only."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any
from urllib.parse import quote

from mousebench.errors import ContractViolation, UnknownIdentifier

KINDS = ("models", "benchmarks", "metrics")
ANY_NAME = "NAME"  # upper case: no identifier can be that
_NAME = r"[a-z0-9]+(?:[._-][a-z0-9]+)*"
_IDENTIFIER = re.compile(rf"(?:{_NAME}/)?{_NAME}(?:@{_NAME})?")


@dataclass(frozen=True)
class Spec:
    """One model, benchmark or metric that a plugin provides, or a whole family of models.

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
    metadata : mapping of str to str, int or float, optional
        What is known of a model without loading it, for ``show`` and ``list --json``; by convention ``parameters``,
        ``depth``, ``layers``, ``input_size``, ``training`` and ``cluster``. What to cite is said in registry.yaml.
    architecture : callable, optional
        As ``load``, but untrained and without need of any file: what ``--weights FILE`` fills. A model without it is
        loaded and then filled.
    missing : callable, optional
        Says in a word or two what must be downloaded or installed before the model can be used, "" if nothing must.
        ``list`` calls it, so it is quick and imports nothing heavy.
    family : bool
        The identifier is that of a family and answers to ``identifier/NAME``; ``load`` and ``architecture`` are called
        with ``name="NAME"``.

    Raises
    ------
    ContractViolation
        If the identifier is not of that form, or what should be callable cannot be called.
    """

    identifier: str
    load: Callable[..., Any]
    description: str = ""
    metadata: Mapping[str, str | int | float] = field(default_factory=dict, hash=False)
    _: KW_ONLY
    architecture: Callable[..., Any] | None = None
    missing: Callable[[], str] | None = None
    family: bool = False

    def __post_init__(self) -> None:
        check_identifier(self.identifier)
        for name in ("load", "architecture", "missing"):
            value = getattr(self, name)
            if not callable(value) and (name == "load" or value is not None):
                raise ContractViolation(f"Spec {self.identifier!r}: {name} is {value!r}, which cannot be called")
        for name, value in self.metadata.items():
            good = isinstance(value, str) or (isinstance(value, int | float) and math.isfinite(value))
            if not good or not isinstance(name, str):
                raise ContractViolation(f"Spec {self.identifier!r}: metadata {name!r} is {value!r}, no text or number")
        if self.family and ("/" in self.identifier or "@" in self.identifier):
            raise ContractViolation(f"Spec {self.identifier!r}: the identifier of a family is one plain name")

    @property
    def listed(self) -> str:
        """The identifier as it is listed: that of a family stands for many, ``family/NAME``."""
        return f"{self.identifier}/{ANY_NAME}" if self.family else self.identifier


def unregistered(identifier: str, load: Callable[[], Any], description: str) -> Spec:
    """Return a Spec of something that no plugin declares; its name is none that a plugin could give."""
    spec = Spec("unregistered", load, description)
    object.__setattr__(spec, "identifier", identifier)
    return spec


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
    if not variant.isdecimal() or variant != str(int(variant)) or int(variant) >= 2**63:
        raise UnknownIdentifier(f"model {name!r} has no variant {variant!r}", "its variants are seeds: 0, 1, 2 ...")
    return int(variant)


def file_name(identifier: str) -> str:
    """Return the identifier as one path component; different identifiers give different names."""
    return quote(identifier, safe="")
