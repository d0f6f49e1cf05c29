"""What would break a comparison of two models position by position, found before any forward.

1. Both decoders have the same family, depth and hidden size, and turn a picture into the same visual tokens.
2. A token id means the same to both. Where one unembedding has more rows than the other, the surplus must be
   padding that no token of the tokenizer uses; distributions are then taken over the rows that both have
   (``ModelPair.vocab_size``), because a KL between different supports is none.
3. Both processors write the same text for the same conversation. Both models read one encoding, so a
   difference would not misalign positions, but it would show one of them a format that it was not trained on.
4. The processor writes the placeholders and cuts the patches that the models read.
5. Every weight is finite.
"""

from typing import Any

import torch

from workbench.errors import InputError
from workbench.models.anatomy import Anatomy
from workbench.models.chat import tokenizer_of

_PAIR = "give a base model and a model post-trained from it"


def check_pair(base: Anatomy, rlvr: Anatomy, tokenizer: Any | None = None) -> None:
    """Refuse two models that cannot be compared position by position.

    Raises:
        InputError: family, depth, hidden size, placeholder ids, visual geometry or vocabulary differ.
    """
    facts = [
        ("model families", base.family, rlvr.family),
        ("depths (decoder layers)", base.depth, rlvr.depth),
        ("hidden sizes", base.hidden_size, rlvr.hidden_size),
        ("image placeholder ids", base.image_token_id, rlvr.image_token_id),
        ("video placeholder ids", base.video_token_id, rlvr.video_token_id),
    ]
    for key in sorted({*base.geometry, *rlvr.geometry}):
        facts.append((f"visual geometry, {key}", base.geometry.get(key), rlvr.geometry.get(key)))
    for what, left, right in facts:
        if left != right:
            raise InputError(f"`base` and `rlvr` differ in {what}: {left!s:.80} and {right!s:.80}; {_PAIR}")
    rows = min(base.vocab_size, rlvr.vocab_size)
    sizes = f"vocabularies of {base.vocab_size} and {rlvr.vocab_size} rows"
    if tokenizer is None:
        if base.vocab_size != rlvr.vocab_size:
            raise InputError(
                f"`base` and `rlvr` have {sizes}, and without a tokenizer it is unknown whether the surplus "
                "is padding; give `processor=<folder or hub id>`"
            )
        return
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= rows:
        raise InputError(
            f"`base` and `rlvr` have {sizes}, but the tokenizer's ids reach {highest}; give the pair's own "
            "tokenizer with `processor=`, or give both models that many rows: "
            f"`model.resize_token_embeddings({highest + 1})`"
        )


def check_processor(processor: Any, anatomy: Anatomy) -> None:
    """Refuse a processor that writes other placeholders or cuts other patches than the models read.

    Raises:
        InputError: it is another model's processor.
    """
    parts: list[Any] = [processor, tokenizer_of(processor)]
    written = [part.image_token_id for part in parts if getattr(part, "image_token_id", None) is not None]
    if anatomy.visual_token_ids and written and anatomy.image_token_id not in written:
        raise InputError(
            f"`processor` marks images with token {written[0]}, the models with "
            f"{anatomy.image_token_id}; give the pair's own processor"
        )
    image_processor = getattr(processor, "image_processor", None)
    for name, key in (
        ("patch_size", "patch_size"),
        ("merge_size", "spatial_merge_size"),
        ("temporal_patch_size", "temporal_patch_size"),
    ):
        cuts, reads = getattr(image_processor, name, None), anatomy.geometry.get(f"vision_config.{key}")
        if None not in (cuts, reads) and cuts != reads:
            raise InputError(
                f"`processor` has {name} {cuts}, the models' vision_config.{key} is {reads}; give the "
                "pair's own processor"
            )


def check_processors(base: Any, rlvr: Any) -> None:
    """Refuse two processors that would encode the same problem differently.

    Raises:
        InputError: tokenizers, patch geometry, or what the chat templates write differ.
    """
    left, right = (tokenizer_of(processor).get_vocab() for processor in (base, rlvr))
    differing = [token for token in left.keys() | right.keys() if left.get(token) != right.get(token)]
    if differing:
        token = min(differing, key=lambda t: (left.get(t, right.get(t, 0)), t))
        raise InputError(
            f"`base` and `rlvr` have tokenizers that differ in {len(differing)} tokens, such as {token!r}: "
            f"id {left.get(token)} and {right.get(token)}; {_PAIR}, or choose one tokenizer with "
            "`processor=`"
        )
    for name in ("patch_size", "merge_size", "temporal_patch_size"):
        sizes = [getattr(getattr(p, "image_processor", None), name, None) for p in (base, rlvr)]
        if None not in sizes and sizes[0] != sizes[1]:
            raise InputError(
                f"`base` and `rlvr` have processors that differ in visual geometry, {name}: {sizes[0]} and "
                f"{sizes[1]}; choose the right one with `processor=`"
            )
    texts = [_rendered(processor) for processor in (base, rlvr)]
    if None not in texts and texts[0] != texts[1]:
        raise InputError(
            f"`base` and `rlvr` have chat templates that differ, {texts[0]!r} and {texts[1]!r}, but both "
            "models must read the same text; choose one with `processor=<folder or hub id>`"
        )


def _rendered(processor: Any) -> str | None:
    """What a processor makes of a small conversation; None without a chat template."""
    if getattr(processor, "chat_template", None) is None:
        return None
    content: Any = [{"type": "text", "text": "Q"}]
    if tokenizer_of(processor) is processor:
        content = "Q"
    elif getattr(processor, "image_processor", None) is not None:
        content = [{"type": "image"}, *content]
    messages = [{"role": "user", "content": content}]
    return processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def check_weights(role: str, anatomy: Anatomy) -> None:
    """Refuse a model with NaN or infinite weights: one pass over them, no copy.

    Raises:
        InputError: naming the parameter.
    """
    # `aminmax` passes NaN on and shows infinities, so two numbers a weight tell all. Weights that accelerate
    # keeps on disk (meta) cannot be looked at.
    named = [
        (name, weight.detach() if weight.element_size() > 1 else weight.detach().float())  # no fp8 `aminmax`
        for name, weight in anatomy.model.named_parameters()
        if weight.numel() and weight.is_floating_point() and not weight.is_meta
    ]
    extremes = [torch.stack(weight.aminmax()).cpu() for _, weight in named]
    for (name, _), extreme in zip(named, extremes, strict=True):
        if not bool(torch.isfinite(extreme).all()):
            raise InputError(
                f"`{role}`: the weight {name!r} holds NaN or infinite values, so the checkpoint is damaged "
                "or its training diverged; fetch it again, or take an earlier training step"
            )
