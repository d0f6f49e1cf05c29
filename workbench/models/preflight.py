"""What would break a comparison of two models position by position, found before any forward.

1. Both decoders have the same family, depth and hidden size, and turn a picture into the same visual tokens.
2. A token id means the same to both. Where one unembedding has more rows than the other, the surplus must be
   padding that no token of the tokenizer uses; distributions are then taken over the rows that both have
   (``ModelPair.vocab_size``), because a KL between different supports is none.
3. Both processors write the same text for the same conversation (with a system prompt and turns too), cut it into the same
   tokens, and make the same pixels of a picture. Both models read one encoding, so a difference would not misalign
   positions, but it would show one of them a format that it was not trained on.
4. The processor writes the placeholders and cuts the patches that the models read.
5. Every weight is finite.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jinja2 import TemplateError

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
    marks = [part.image_token_id for part in parts if getattr(part, "image_token_id", None) is not None]
    if anatomy.visual_token_ids and marks and anatomy.image_token_id not in marks:
        raise InputError(
            f"`processor` marks images with token {marks[0]}, the models with "
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


def check_processors(base: Any, rlvr: Any, *, templates: bool = True) -> list[str]:
    """Refuse two processors that would encode the same problem differently; returns what differs without harm.

    Args:
        base: the processor or tokenizer beside the base model.
        rlvr: that beside the RLVR model.
        templates: whether their chat templates matter; no, where one was chosen.

    Raises:
        InputError: tokenizers, how pictures become patches, or what the chat templates write differ.
    """
    left, right = (tokenizer_of(processor).get_vocab() for processor in (base, rlvr))
    differing = [token for token in left.keys() | right.keys() if left.get(token) != right.get(token)]
    if differing:
        token = min(differing, key=lambda t: (left.get(t, right.get(t, 0)), t))
        raise InputError(
            f"`base` and `rlvr` have tokenizers that differ in {len(differing)} tokens, such as {token!r}: "
            f"id {left.get(token)} and {right.get(token)}; {_PAIR}, or choose one tokenizer with "
            '`processor="FOLDER"`'
        )
    ids = [tokenizer_of(processor)(_WORDS)["input_ids"] for processor in (base, rlvr)]
    if ids[0] != ids[1]:
        raise InputError(
            f"`base` and `rlvr` have tokenizers of one vocabulary that cut {_WORDS!r} into {len(ids[0])} and {len(ids[1])} "
            'tokens, not the same ones; choose one tokenizer with `processor="FOLDER"`'
        )
    remarks = []
    for name, (mine, its) in _differences(base, rlvr).items():
        if name.endswith(_BUDGETS) and getattr(base.image_processor, "merge_size", None) is not None:
            remarks.append(
                f"`base` and `rlvr` have processors that differ in {name}: {mine} and {its}; both read pictures as the base's "
                "makes them: set it for both with `image_pixels=` and `frame_pixels=`"
            )
            continue
        kind = "visual geometry, " if name.split(".")[-1] in _CUT else ""
        raise InputError(
            f"`base` and `rlvr` have processors that differ in {kind}{name.removeprefix('image_processor.')}: {mine} and {its}; "
            'choose the right one with `processor="FOLDER"`'
        )
    if templates:
        remarks += _check_templates(base, rlvr)
    return remarks


_WORDS = "How many? 12+3.5 = x\n\n  Ünïcode 漢字 <think>so</think> <answer>B</answer>"
_CUT = ("patch_size", "merge_size", "temporal_patch_size")
_BUDGETS = (".size", ".min_pixels", ".max_pixels")
_SILENT = ("do_sample_frames", "return_metadata", "min_frames", "max_frames", "max_video_tokens", "fps")
_TOOL = {
    "type": "function",
    "function": {"name": "zoom", "description": "Zooms.", "parameters": {"type": "object", "properties": {}}},
}


def _differences(base: Any, rlvr: Any) -> dict[str, tuple[Any, Any]]:
    """What two processors would do differently to a picture: settings that both have, with both values."""
    left, right = (dict(_settings(processor)) for processor in (base, rlvr))
    return {
        name: (left[name], right[name])
        for name in left
        if name in right and None not in (left[name], right[name]) and left[name] != right[name]
    }


def _settings(processor: Any) -> Iterator[tuple[str, Any]]:
    """Settings of a processor and its parts by name, in comparable form; those that change no picture are left out."""
    if processor is tokenizer_of(processor):
        return
    for part in ("image_processor", "video_processor"):
        inner = getattr(processor, part, None)
        for name, value in {} if inner is None else inner.to_dict().items():
            if not name.endswith(("_type", "_class", "auto_map")) and name not in _SILENT:
                yield f"{part}.{name}", _plain(value)
    for name, value in vars(processor).items():
        if isinstance(value, int | str) and name != "chat_template" and not name.startswith("_"):
            yield name, value


def _plain(value: Any) -> Any:
    """A setting as it is written, whatever type the file and the code give it."""
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items() if one is not None}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return round(value, 6) if isinstance(value, float) else int(value) if isinstance(value, int) else value


def _check_templates(base: Any, rlvr: Any) -> list[str]:
    """Refuse chat templates of which one is missing, or that write different texts."""
    has = [getattr(processor, "chat_template", None) is not None for processor in (base, rlvr)]
    choose = 'choose one with `chat_template="base"`, `chat_template="rlvr"`, `chat_template="FILE"` or `processor="FOLDER"`'
    if has[0] != has[1]:
        one, other = ("base", "rlvr") if has[0] else ("rlvr", "base")
        raise InputError(
            f"`{one}` has a chat template and `{other}` has none, but both models must read the same text: {choose}"
        )
    for what, turns in _CONVERSATIONS.items() if has[0] else ():
        texts = [_written(processor, **turns) for processor in (base, rlvr)]
        if texts[0] == texts[1]:
            continue
        when = f" when {what}" if what else ""
        parts = " and ".join(repr(_around(text, texts)) for text in texts)
        if "tools" in turns:
            return [
                f"`base` and `rlvr` have chat templates that differ{when}, which nothing here does, {parts}"
            ]
        raise InputError(
            f"`base` and `rlvr` have chat templates that differ{when}, {parts}, but both models must read the same text; {choose}"
        )
    return []


_CONVERSATIONS: dict[str, dict[str, Any]] = {
    "": {"system": False},
    "a system prompt is given": {"system": True},
    "turns follow": {"system": False, "turns": True},
    "turns follow a system prompt": {"system": True, "turns": True},
    "tools are given": {"system": False, "tools": True},
}


def _written(processor: Any, **what: bool) -> str | None:
    """What a chat template writes; None where it refuses."""
    try:
        return rendered(processor, **what)
    except TemplateError:
        return None


def rendered(processor: Any, *, system: bool, turns: bool = False, tools: bool = False) -> str:
    """What a processor's chat template makes of a small conversation, with a picture where it reads pictures.

    Raises:
        TemplateError: it refuses the conversation.
    """

    def content(text: str) -> Any:
        return text if tokenizer_of(processor) is processor else [{"type": "text", "text": text}]

    question: Any = content("Q")
    if getattr(processor, "image_processor", None) is not None:
        question = [{"type": "image"}, *question]
    messages = [{"role": "system", "content": content("S")}] * system + [
        {"role": "user", "content": question}
    ]
    if turns:
        messages += [
            {"role": "assistant", "content": content("<think>T</think> A")},
            {"role": "user", "content": question},
        ]
    options: dict[str, Any] = {"tools": [_TOOL]} if tools else {}
    return processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)


def _around(text: str | None, texts: Sequence[str | None]) -> str:
    """A text near where the two begin to differ; whole if it is short."""
    if text is None:
        return "(refused)"
    if len(text) <= 160 or None in texts:
        return text[:160]
    pairs = enumerate(zip(*(one or "" for one in texts), strict=False))
    same = next((i for i, (left, right) in pairs if left != right), len(text))
    return text[max(0, same - 40) : same + 120]


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
