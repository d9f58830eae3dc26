"""Carry messages between two processes: JSON with bytes behind it, of bounded size, within a time."""

from __future__ import annotations

import json
import os
import select
import struct
import time
from typing import Any

from mousebench.errors import ContractViolation

MOST_TEXT = 32 << 20
MOST_BYTES = 4 << 30
_HEAD = struct.Struct("!QQ")
_CHUNK = 1 << 20


class Closed(Exception):
    """The other process is gone."""


class TimedOut(Exception):
    """The other process does not answer in time."""


class Channel:
    """Two pipes.

    Parameters
    ----------
    receiving, sending : int
        File descriptors; they become this object's own.
    """

    def __init__(self, receiving: int, sending: int) -> None:
        self._receiving, self._sending = receiving, sending
        for descriptor in (receiving, sending):
            os.set_blocking(descriptor, False)

    def close(self) -> None:
        """Close both ends; the other process sees it."""
        for descriptor in (self._receiving, self._sending):
            os.close(descriptor)

    def send(self, message: Any, payload: bytes = b"", deadline: float | None = None) -> None:
        """Send one message.

        Raises
        ------
        Closed, TimedOut
        """
        text = json.dumps(message).encode()
        for part in (_HEAD.pack(len(text), len(payload)) + text, payload):
            rest = memoryview(part)
            while rest:
                self._wait(self._sending, False, deadline)
                try:
                    rest = rest[os.write(self._sending, rest[:_CHUNK]) :]
                except BlockingIOError:
                    continue
                except OSError as error:
                    raise Closed from error

    def receive(self, deadline: float | None = None) -> tuple[Any, bytearray]:
        """Return the next message and the bytes behind it.

        Raises
        ------
        Closed, TimedOut
        ContractViolation
            If it is none, or too large.
        """
        n_text, n_bytes = _HEAD.unpack(self._read(_HEAD.size, deadline))
        if n_text > MOST_TEXT or n_bytes > MOST_BYTES:
            raise ContractViolation(f"an answer of {(n_text + n_bytes) / 1e6:,.0f} MB is too large")
        try:
            message = json.loads(self._read(n_text, deadline))
        except (ValueError, RecursionError) as error:
            raise ContractViolation("an answer is no JSON") from error
        return message, self._read(n_bytes, deadline)

    def _read(self, size: int, deadline: float | None) -> bytearray:
        found = bytearray()  # grows with what really comes, whatever was announced
        while len(found) < size:
            self._wait(self._receiving, True, deadline)
            try:
                part = os.read(self._receiving, min(_CHUNK, size - len(found)))
            except BlockingIOError:
                continue
            except OSError as error:
                raise Closed from error
            if not part:
                raise Closed
            found += part
        return found

    @staticmethod
    def _wait(descriptor: int, to_read: bool, deadline: float | None) -> None:
        seconds = None if deadline is None else max(deadline - time.monotonic(), 0.0)
        lists = ([descriptor], []) if to_read else ([], [descriptor])
        if not any(select.select(*lists, [], seconds)):
            raise TimedOut
