"""What two loaded models differ in beside their training, found before any forward: refused, or said in a remark.

1. Two precisions are refused: what differs by rounding would count as a change.
2. Equal weights, also equal up to rounding, are said to be equal.
3. Configs and rotary tables that compute otherwise (rope, norms, activations) are said: a shift holds them beside the training.
4. Tokens that end a response are made one set for both, which is said.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from workbench.errors import InputError
from workbench.models.anatomy import Anatomy

_NARROW = (torch.bfloat16, torch.float16)
_IDLE = frozenset(
    {"transformers_version", "dtype", "torch_dtype", "architectures", "use_cache", "vocab_size", "model_type"}
) | {
    "max_position_embeddings",
    "initializer_range",
    "initializer_factor",
    "tie_word_embeddings",
    "pretraining_tp",
    "problem_type",
    "max_window_layers",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "id2label",
    "label2id",
    "is_encoder_decoder",
    "chunk_size_feed_forward",
}
"""Config entries that change no number of a forward."""


def check_precisions(base: Anatomy, rlvr: Anatomy) -> None:
    """Refuse two models whose weights are in different precisions.

    Raises:
        InputError: naming the first weight that is, and a precision for both.
    """
    theirs = dict(rlvr.model.named_parameters())
    for name, weight in base.model.named_parameters():
        other = theirs.get(name)
        if other is None or other.dtype == weight.dtype or not weight.is_floating_point():
            continue
        mine, its = (str(dtype).removeprefix("torch.") for dtype in (weight.dtype, other.dtype))
        narrow = min((weight, other), key=Tensor.element_size).dtype
        same = "; apart from that rounding their weights are equal" if _equal(base, rlvr, narrow) else ""
        raise InputError(
            f"`base` is in {mine} and `rlvr` in {its} (first at {name!r}), and what differs by rounding would count as a "
            f"change{same}: load both in one precision, load_pair(..., dtype={str(narrow).removeprefix('torch.')!r}), or "
            "prepare modules in memory with `.to(dtype)`"
        )


def remarks_on(base: Anatomy, rlvr: Anatomy) -> list[str]:
    """What makes the two comparable only in part, a sentence each; none where training is all that differs."""
    remarks = []
    if equal := equality(base, rlvr):
        remarks.append(
            f"`base` and `rlvr` have weights that are {equal}: no shift between them comes from training"
        )
    if different := differing_settings(base.model.config, rlvr.model.config):
        values = "; ".join(f"{name}: {left} and {right}" for name, (left, right) in [*different.items()][:4])
        remarks.append(
            f"`base` and `rlvr` compute differently by their configs ({values}): a shift holds that beside the training"
        )
    elif table := _other_table(base, rlvr):
        remarks.append(
            f"`base` and `rlvr` have rotary tables that differ ({table}) under equal configs; was one cast by `.to(dtype)` after "
            "loading? Load both with `dtype=`"
        )
    return remarks


def equality(base: Anatomy, rlvr: Anatomy) -> str | None:
    """``"equal"``, ``"equal up to rounding to ..."``, or None; a few values a weight decide unless they all agree."""
    for dtype in (None, *_NARROW):
        if _equal(base, rlvr, dtype):
            return (
                "equal" if dtype is None else f"equal up to rounding to {str(dtype).removeprefix('torch.')}"
            )
    return None


def differing_settings(base: Any, rlvr: Any) -> dict[str, tuple[str, str]]:
    """Entries of two configs that change what a forward computes, with both values.

    An entry that only one config has is left out, except of rope: the model's own class does not read it.
    """
    left, right = (dict(_flat(config.to_dict())) for config in (base, rlvr))
    names = [n for n in sorted({*left, *right}) if (n in left and n in right) or "rope_parameters." in n]
    return {
        name: (f"{left.get(name)!s:.60}", f"{right.get(name)!s:.60}")
        for name in names
        if left.get(name) != right.get(name)
    }


def with_one_set_of_ends(
    base: Anatomy, rlvr: Anatomy, tokenizer: Any | None
) -> tuple[Anatomy, Anatomy, list[str]]:
    """Both models with one set of tokens that end a response, and the remarks on that."""
    own = getattr(tokenizer, "eos_token_id", None)
    shared = frozenset[int]() if own is None else frozenset({int(own)})
    mine, its = (ends_of(anatomy) | shared for anatomy in (base, rlvr))
    if mine == its:
        return base, rlvr, []
    both = mine | its
    remark = (
        f"`base` ends a response at tokens {sorted(mine)}, `rlvr` at {sorted(its)} (generation_config.json); both end at any of "
        "them here"
    )
    return replace(base, ends=both), replace(rlvr, ends=both), [remark]


def ends_of(anatomy: Anatomy) -> frozenset[int]:
    """Tokens that end a response by a model's own settings, and by those of its pair."""
    named = getattr(getattr(anatomy.model, "generation_config", None), "eos_token_id", None)
    return frozenset([named] if isinstance(named, int) else named or ()) | anatomy.ends


def _equal(base: Anatomy, rlvr: Anatomy, dtype: torch.dtype | None) -> bool:
    """Whether all weights are equal, or become so by rounding; every value is looked at only if samples are equal."""

    def same(left: Tensor, right: Tensor) -> bool:
        if left.is_meta or right.is_meta:
            return False
        left, right = left.detach(), right.detach().to(left.device)
        if dtype is not None and left.is_floating_point():
            left, right = left.to(dtype), right.to(dtype)
        return left.shape == right.shape and torch.equal(left, right)

    mine, theirs = (dict(anatomy.model.named_parameters()) for anatomy in (base, rlvr))
    if mine.keys() != theirs.keys():
        return False
    sampled = all(same(_sample(weight), _sample(theirs[name])) for name, weight in mine.items())
    return sampled and all(same(weight, theirs[name]) for name, weight in mine.items())


def _sample(weight: Tensor) -> Tensor:
    flat = weight.detach().reshape(-1)
    return flat[:: max(1, len(flat) // 64)]


def _flat(config: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if name in _IDLE or name.startswith("_") or name.endswith(("_token_id", "_token_index", "dropout")):
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", [*value] if isinstance(value, tuple) else value


def _other_table(base: Anatomy, rlvr: Anatomy) -> str | None:
    theirs = dict(rlvr.model.named_buffers())
    for name, table in base.model.named_buffers():
        other = theirs.get(name)
        if not name.endswith("inv_freq") or other is None or table.is_meta or other.is_meta:
            continue
        if not torch.equal(table.float().cpu(), other.float().cpu()):
            return name
    return None
