"""What a model and its processor are, as digests: equal ones give equal numbers, and what differs in a bit differs here.

They stand in a pair's provenance, and with it name every kept result (`digests`).
"""

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from workbench.digests import digest_of

_BLOCK = 2**24  # values at a time: 64 MiB in float32
_NAMES_AND_PLACES = frozenset(
    {
        "_name_or_path",
        "name_or_path",
        "_commit_hash",
        "transformers_version",
        "dtype",
        "torch_dtype",
        "architectures",
        "_attn_implementation",
        "_attn_implementation_autoset",
        "_from_model_config",
        "processor_class",
        "auto_map",
    }
)


def fingerprint(model: nn.Module) -> str:
    """16 hexadecimal digits that stand for a model's weights: every name, shape and value.

    The values count, not their type: an exact copy in a wider type has the same digits.
    """
    state = model.state_dict()
    with ThreadPoolExecutor(max_workers=max(1, torch.get_num_threads())) as threads:
        parts = [*threads.map(_tensor_digest, state.values())]
    whole = hashlib.sha256()
    for (name, tensor), part in zip(state.items(), parts, strict=True):
        whole.update(f"{name} {tuple(tensor.shape)} ".encode() + part)
    return whole.hexdigest()[:16]


@torch.no_grad()
def recorded_weights(provenance: Mapping[str, Any], model: str) -> Any:
    """The fingerprint of a model's weights that a provenance holds under a name such as ``base``; None where it holds none."""
    about = provenance.get(model)
    return about.get("weights") if isinstance(about, Mapping) else None


def _tensor_digest(tensor: Tensor) -> bytes:
    digest, flat = hashlib.sha256(), tensor.detach().reshape(-1)
    for start in range(0, len(flat), _BLOCK):
        block = flat[start : start + _BLOCK].cpu()
        if block.is_floating_point():
            single = block.float()
            same = block.dtype != torch.float64 or torch.equal(single.double(), block)
            block = single if same else block
        digest.update(block.contiguous().view(torch.uint8).numpy().data)
    return digest.digest()


def config_digest(model: nn.Module) -> str:
    """16 hexadecimal digits that stand for a model's config and generation config, without names, places and types."""
    parts = (getattr(model, name, None) for name in ("config", "generation_config"))
    return digest_of([None if part is None else _plain(part.to_dict()) for part in parts])


def processor_digest(processor: Any) -> str:
    """16 hexadecimal digits that stand for all of a processor or tokenizer that changes a prompt.

    Vocabulary, special tokens, chat template, and how pictures are resized, normalised and cut.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content: dict[str, Any] = {
        "templates": [getattr(part, "chat_template", None) for part in (processor, tokenizer)],
        "special": getattr(tokenizer, "special_tokens_map", None),
        "tokenizer": backend.to_str() if backend is not None else getattr(tokenizer, "get_vocab", dict)(),
    }
    for name in ("image_processor", "video_processor", "feature_extractor"):
        part = getattr(processor, name, None)
        if part is not None:
            content[name] = _plain(part.to_dict())
    content["own"] = {
        k: v for k, v in vars(processor).items() if isinstance(v, int | float | str | bool | None)
    }
    return digest_of(_plain(content))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items() if k not in _NAMES_AND_PLACES}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
