"""Memory of another process, copied once: `/proc/<pid>/mem` copies each page twice."""

from __future__ import annotations

import ctypes
import os

from checkpoint.criu.pagemap import U8


class _Stretch(ctypes.Structure):
    _fields_ = (("start", ctypes.c_void_p), ("length", ctypes.c_size_t))


_readv = ctypes.CDLL(None, use_errno=True).process_vm_readv
_readv.restype = ctypes.c_ssize_t
_readv.argtypes = (
    ctypes.c_int,
    ctypes.POINTER(_Stretch),
    ctypes.c_ulong,
    ctypes.POINTER(_Stretch),
    ctypes.c_ulong,
    ctypes.c_ulong,
)


def read(pid: int, address: int, into: U8) -> int:
    """Fill `into` with what is at `address` of a process: how many bytes, fewer where something is
    not mapped. Raises `OSError` (process_vm_readv(2)).
    """
    here = _Stretch(into.ctypes.data, len(into))
    there = _Stretch(address, len(into))
    done = int(_readv(pid, here, 1, there, 1, 0))
    if done < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return done
