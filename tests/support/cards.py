"""A pretend GPU: tensors that say they are on a card, are computed on the CPU, and refuse what real devices refuse.

    python tests/support/cards.py [--narrow] [FAMILY ... | all]

puts pairs on the card, wholly and spread over it and the CPU, and checks that all work (`card_work`) gives what it gives on the
CPU alone; one family, ``qwen2_5_vl``, if none is named. An operation on tensors of two devices fails, but for indices on the
CPU, which CUDA lets pass too. With ``--narrow`` the card refuses float64, as Apple's GPUs do. The card is registered for the
whole process, so `test_devices` starts one of its own.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate.hooks import attach_align_device_hook_on_blocks
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend as register

sys.path.insert(0, str(Path(__file__).parent))
import card_work
import tiny

from workbench.models.pairs import ModelPair

CARD = "card:0"
NARROW = "--narrow" in sys.argv
ATEN = torch.ops.aten
MOVING = (ATEN._to_copy.default, ATEN.copy_.default)
INDEXING = (ATEN.index.Tensor, ATEN.index_put.default, ATEN.index_put_.default, ATEN._index_put_impl_.default)


class OnCard(Tensor):
    """A tensor that says it is on the card."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "OnCard":
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=CARD,
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})

    def tolist(self) -> Any:
        return self.inner.tolist()

    def __repr__(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return f"OnCard({tuple(self.shape)}, {self.dtype})"


class Cards(TorchDispatchMode):
    """Makes tensors on the card where a device is named."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    moving, indexing = func in MOVING, func in INDEXING
    on_card = isinstance(args[0], OnCard) if indexing else any(isinstance(t, OnCard) for t in given)
    if on_card and not moving:
        met = [args[0], *args[2:3]] if indexing else given
        stray = [t for t in met if isinstance(t, Tensor) and not isinstance(t, OnCard) and t.ndim]
        if stray:
            raise RuntimeError(f"{func}: expected all tensors on the same device, found card:0 and cpu")
    target = kwargs.get("device")
    if target is not None:
        on_card = torch.device(target).type == "card"
        kwargs = {**kwargs, "device": torch.device("cpu"), **({"non_blocking": False} if moving else {})}
    elif func is ATEN.copy_.default:
        on_card = isinstance(args[0], OnCard)
    bare = tree_map(lambda t: t.inner if isinstance(t, OnCard) else t, (args, kwargs))
    result = func(*bare[0], **bare[1])
    same = {
        id(t.inner): t for t in given if isinstance(t, OnCard)
    }  # what works in place returns its argument

    def wrap(t: Any) -> Any:
        if not isinstance(t, Tensor) or not on_card:
            return t
        if NARROW and t.dtype == torch.float64:
            raise TypeError(f"{func}: the card has no float64")
        return same.get(id(t)) if id(t) in same else OnCard(t)

    return tree_map(wrap, result)


@contextmanager
def cards() -> Iterator[None]:
    """Meanwhile there is a card."""
    with (
        torch.autograd.set_multithreading_enabled(False),  # a thread of its own would look for the card
        Cards(),
    ):
        yield


def put_on_card(module: torch.nn.Module) -> None:
    """Move a module's parameters and buffers there."""
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                part._parameters[name] = torch.nn.Parameter(OnCard(weight.data), requires_grad=False)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = OnCard(buffer)


@torch.library.impl("aten::empty_strided", "PrivateUse1")
def _empty(size: Any, stride: Any, dtype: Any = None, **_: Any) -> Tensor:
    """What `torch.tensor` makes, which no mode sees."""
    return OnCard(torch.zeros(size, dtype=dtype).as_strided(size, stride))


@torch.library.impl("aten::_copy_from", "PrivateUse1")
def _copy(source: Tensor, to: Any, non_blocking: bool = False) -> Tensor:
    to.inner.copy_(source)
    return to


@torch.library.impl("aten::_local_scalar_dense", "PrivateUse1")
def _number(tensor: Any) -> Any:
    """What `item` reads, outside of the mode too."""
    return tensor.inner.item()


def spread(model: torch.nn.Module, on_card: set[str]) -> None:
    """Some modules of a model on the card and the others on the CPU, with the hooks that a device map leaves."""
    places = ["", *on_card]
    attach_align_device_hook_on_blocks(
        model, execution_device=dict.fromkeys(places, "cpu"), offload=dict.fromkeys(places, False)
    )
    for name in on_card:
        part = model.get_submodule(name)
        put_on_card(part)
        for module in part.modules():
            hook = getattr(module, "_hf_hook", None)
            for one in getattr(hook, "hooks", [hook]):
                if one is not None:
                    one.execution_device = CARD


def same(found: Any, expected: Any) -> None:
    """Fail unless two results agree: numbers to a thousandth, all else exactly; a table column by column, but for times."""
    if isinstance(expected, Tensor):
        assert found.device.type == "cpu"
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6, equal_nan=True)
    elif isinstance(expected, pd.DataFrame):
        for column in [name for name in expected if "seconds" not in str(name)]:
            same(found[column].to_numpy(), expected[column].to_numpy())
    elif isinstance(expected, np.ndarray) and expected.dtype.kind == "f":
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    elif isinstance(expected, list | tuple | np.ndarray):
        for one, other in zip(found, expected, strict=True):
            same(one, other)
    elif isinstance(expected, float):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    else:
        assert found == expected, f"{found!r} is not {expected!r}"


def check(family: str, pair: ModelPair, works: list[str], where: str, expected: dict[str, Any]) -> list[str]:
    """Names of the works that fail on the card or give something else there."""
    failed = []
    for name in works:
        try:
            with cards():
                found = card_work.WORKS[name](pair, family)
            same(found, expected[name])
        except Exception as error:
            print(f"{family} {where} {name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            failed.append(name)
    return failed


def try_family(family: str) -> list[str]:
    begun, text = time.perf_counter(), tiny.pair(family).base.layers_path.rpartition(".")[0]
    whole, one, other = (tiny.pair(family) for _ in range(3))
    works = card_work.fitting(family)
    expected = {name: card_work.WORKS[name](tiny.pair(family), family) for name in works}
    for anatomy in (whole.base, whole.rlvr):
        put_on_card(anatomy.model)
    failed = check(family, whole, works, "on the card", expected)
    head = {"lm_head"} if hasattr(whole.base.model, "lm_head") else set()
    for pair, places in (
        (one, {f"{text}.layers.1", whole.base.norm_path}),
        (other, {f"{text}.embed_tokens", f"{text}.rotary_emb", f"{text}.layers.2", *head}),
    ):
        for anatomy in (pair.base, pair.rlvr):
            spread(anatomy.model, places)
        failed += check(family, pair, [w for w in works if w in card_work.SPREAD], "spread", expected)
    print(
        f"{family}: {len(works)} kinds of work, {len(failed)} fail, {time.perf_counter() - begun:.0f} s",
        flush=True,
    )
    return failed


def main(families: list[str]) -> bool:
    """Whether all work of the families gives on the card what it gives on the CPU."""
    register("card")
    return not any([try_family(family) for family in families])


if __name__ == "__main__":
    named = [word for word in sys.argv[1:] if not word.startswith("--")]
    sys.exit(not main([*tiny.FAMILIES] if named == ["all"] else named or ["qwen2_5_vl"]))
