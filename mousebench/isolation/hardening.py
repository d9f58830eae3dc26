"""Let the kernel refuse a process all writes but to some folders, and signals to others (Linux 5.13 and newer).

Landlock needs no privileges, cannot be undone, and holds for every process that is started from then on. It also keeps
them from looking into processes outside, whose environment may hold credentials. root could look all the same, so its
other capabilities are dropped. Interfaces: linux/landlock.h, linux/capability.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterable

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_NO_NEW_PRIVILEGES = 38
_PATH_BENEATH = 1
_WRITE_FILE, _REFER, _TRUNCATE = 1 << 1, 1 << 13, 1 << 14
_REMOVE_AND_MAKE = 0b1_1111_1111 << 4  # remove folders and files; make folders, files, links, sockets, devices
_TCP = 0b11  # bind, connect
_FILE_CAPABILITIES = 0b1111  # what root keeps: to read and write files of any owner
_LAST_CAPABILITY = 40
_DROP_FROM_BOUNDING_SET = 24
_CAPABILITY_VERSION = 0x20080522
_SCOPES = 0b11  # abstract sockets, signals


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def version() -> int:
    """Return the version of Landlock that the kernel offers, 0 for none."""
    if not sys.platform.startswith("linux"):
        return 0
    with contextlib.suppress(OSError, AttributeError):
        return max(int(ctypes.CDLL(None).syscall(_CREATE, None, 0, 1)), 0)
    return 0


def restrict(writable: Iterable[str], network: bool) -> bool:
    """Allow this process to write below some folders only; without ``network`` also no TCP. Say whether that is so now.

    Folders that do not exist are left out. What is open already stays open.
    """
    offered = version()
    if offered == 0:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    files = _WRITE_FILE | _REMOVE_AND_MAKE | (_REFER if offered >= 2 else 0) | (_TRUNCATE if offered >= 3 else 0)
    rules = _Ruleset(files, 0 if network else _TCP, _SCOPES)
    size = 8 if offered < 4 else 16 if offered < 6 else 24  # older kernels know fewer of the fields
    ruleset = libc.syscall(_CREATE, ctypes.byref(rules), ctypes.c_size_t(size), 0)
    if ruleset < 0:
        return False
    try:
        for path in writable:
            with contextlib.suppress(OSError):
                folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
                allowed = files if os.path.isdir(path) else files & (_WRITE_FILE | _TRUNCATE)  # noqa: PTH112
                libc.syscall(_ADD, ruleset, _PATH_BENEATH, ctypes.byref(_Beneath(allowed, folder)), 0)
                os.close(folder)
        _drop_capabilities(libc)
        libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        return bool(libc.syscall(_RESTRICT, ruleset, 0) == 0)
    finally:
        os.close(ruleset)


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    """Give up what root may do beyond files; nothing changes for any other user, who has no capabilities."""
    if os.geteuid() != 0:
        return
    for number in range(_LAST_CAPABILITY + 1):
        if not _FILE_CAPABILITIES >> number & 1:
            libc.prctl(_DROP_FROM_BOUNDING_SET, number, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    kept = _FILE_CAPABILITIES
    libc.capset(header, (ctypes.c_uint32 * 6)(kept, kept, 0, 0, 0, 0))  # effective, permitted, inheritable, twice
