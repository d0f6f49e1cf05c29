"""How much memory a computation takes at its peak, counted on the meta device, where nothing is computed or allocated.

1. Every tensor that an operation makes is counted until it is freed, so what autograd keeps for its backward counts too.
2. There are no values: whoever asks for one is told 0, or False.
3. Fused attention has no meta kernel: a stand-in keeps for its backward what the fused kernels keep.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Meter(TorchDispatchMode):
    """Bytes of the tensors made while it is entered: those still alive, and the most at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return 0
        result = func(*args, **(kwargs or {}))
        arguments = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
                if key not in self._known and key not in arguments:  # a view of what was there is nothing new
                    self._known[key] = weakref.finalize(storage, self._freed, key, size)
                    self.live += size
                    self.peak = max(self.peak, self.live)
        return result

    def _freed(self, key: int, size: int) -> None:
        self.live -= size
        self._known.pop(key, None)


@contextmanager
def metered() -> Iterator[Meter]:
    """Count what is made meanwhile, attention being the stand-in."""
    meter = Meter()
    with _FusedAttention(), meter:
        yield meter


class _FusedAttention(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            mask = kwargs.get("attn_mask")
            if mask is not None and mask.dtype == torch.bool:
                mask = mask.to(args[0].dtype)  # as every fused kernel does
            return _Attention.apply(*args[:3], mask)
        return func(*args, **kwargs)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        output = query.new_empty(*query.shape[:-1], value.shape[-1])
        logsumexp = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, logsumexp, *([] if mask is None else [mask]))
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        query, key, value = ctx.saved_tensors[:3]
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None
