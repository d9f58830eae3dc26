"""Whose plugins are trusted, and how another process finds one. Light: every command imports it."""

from __future__ import annotations

import os
from dataclasses import dataclass

TRUST = "MOUSEBENCH_TRUST_PLUGINS"


def trusted_here() -> bool:
    """Say whether the user trusts all plugins (``--trust-plugins``)."""
    return os.environ.get(TRUST, "") not in ("", "0")


@dataclass(frozen=True)
class Reference:
    """How another process finds a plugin again; ``function`` is that of ``FILE.py:function``."""

    name: str
    distribution: str
    version: str
    module: str
    file: str | None = None
    function: str | None = None

    def __str__(self) -> str:
        return f"plugin {self.name!r} of {self.distribution} ({self.file or self.module})"
