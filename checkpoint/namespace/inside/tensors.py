"""torch tensors in the memory of this machine: elements out of band, shared memory kept shared.

torch's own pickling copies every tensor whole into the stream, takes two views of one storage
apart, and drops gradients without a word. Tensors of other devices and layouts are left to it.
"""

from __future__ import annotations

import ctypes
import pickle
import sys
from collections.abc import Callable
from typing import Any

from . import rebuild


def reducer_for(kind: type) -> Callable[[Any, Any], Any] | None:
    """The rule for objects of type ``kind``, or None."""
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "UntypedStorage"):
        return None
    if kind in (torch.Tensor, torch.nn.Parameter):
        return _tensor
    return _storage if kind is torch.UntypedStorage else None


def _tensor(pickler: Any, tensor: Any) -> Any:
    torch, leaf = sys.modules["torch"], tensor.is_leaf
    if (
        tensor.device.type != "cpu"
        or tensor.layout is not torch.strided
        or tensor.is_quantized
        or tensor.is_conj()
        or tensor.is_neg()
        or tensor.is_nested
    ):
        if leaf and tensor.grad is not None:
            pickler.degrade(tensor, "its gradient is not kept")
        return NotImplemented
    if not leaf:
        pickler.degrade(tensor, "how it was computed is not kept, so it takes no gradient")
    if tensor._backward_hooks:
        pickler.degrade(tensor, "its hooks are not kept")
    storage = tensor.untyped_storage()
    if not storage.resizable():
        pickler.degrade(tensor, "its memory was another object's, as of a numpy array; now its own")
    # The same object for the same memory, so that it is saved once: torch may make a new one.
    storage = pickler.storages.setdefault(storage.data_ptr() or id(tensor), storage)
    args = (
        type(tensor) is torch.nn.Parameter,
        storage,
        str(tensor.dtype).removeprefix("torch."),
        tensor.storage_offset(),
        tuple(tensor.shape),
        tensor.stride(),
        tensor.requires_grad and leaf,
    )
    state = {"grad": tensor.grad if leaf else None, "dict": vars(tensor)}
    return rebuild.tensor, args, state, None, None, rebuild.set_tensor


def _storage(_pickler: Any, storage: Any) -> Any:
    if storage.device.type != "cpu":
        return NotImplemented
    size = storage.nbytes()
    if not size:
        return rebuild.tensor_storage, (b"",)
    memory = (ctypes.c_char * size).from_address(storage.data_ptr())
    memory.owner = storage  # lives as long as somebody reads it
    return rebuild.tensor_storage, (pickle.PickleBuffer(memory),)
