"""Responses drawn by an inference engine, vLLM, from what the decoder reads at layer 0.

1. The prompt goes as token ids, with one placeholder for each picture, which vLLM expands again.
2. Each picture goes as its embeddings at the input of layer 0, with an intervention's tokens added: the engine's weights stay
   as they are, and its vision tower is not loaded (Qwen3-VL's is: without it vLLM has no place for the features of later
   layers). Plain models get the same without tokens.
3. vLLM draws the samples with its own random streams: greedy answers are those of the in-process decoder beyond rounding,
   sampled ones are other draws from the same distribution.

What vLLM expects was read from its documentation ("Multimodal Inputs", embedding inputs) and from the schemas in the source of
version 0.30.0, the newest that goes with transformers 5.23: ``multi_modal_data`` of its ``TokensPrompt``, the
``ImageEmbeddingInputs`` of each model, ``SamplingParams`` and ``MultiModalConfig``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.decoding.stops import Stops
from workbench.errors import InputError, install
from workbench.models.anatomy import Anatomy
from workbench.models.batches import problem_seed
from workbench.models.checkpoints import read_config
from workbench.models.identity import fingerprint
from workbench.models.pairs import ModelPair
from workbench.models.prompts import EncodedPrompt, TokenKind
from workbench.tracing.edits import Intervention
from workbench.tracing.residuals import read_calls

Model = Literal["base", "rlvr"]

_GRIDS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")  # take pictures of any shape, with their grids
_REFUSED = {
    **dict.fromkeys(
        ("llava_onevision", "internvl"),
        "it wants equally many embeddings for every image of a batch, and this family's images differ",
    ),
    **dict.fromkeys(
        ("idefics3", "smolvlm"), "it counts placeholders by an image's size, which its embeddings don't tell"
    ),
    "gemma3": "its Gemma 3 takes no image embeddings",
}
_NEVER = -100.0  # the lowest logit bias that vLLM takes
_SHARE = 0.5  # of the GPU memory that is free when an engine starts


@dataclass(frozen=True)
class Request:
    """What vLLM is handed for one prompt."""

    prompt: dict[str, Any] = field(repr=False)
    """Its ``TokensPrompt``: ``prompt_token_ids``, and ``multi_modal_data`` where there are pictures."""
    sampling: dict[str, Any]
    """The arguments of its ``SamplingParams``."""
    samples: int
    """Responses asked for. Greedy ones are all the same, and vLLM draws one of them."""


def vllm_request(
    anatomy: Anatomy,
    prompt: EncodedPrompt,
    stops: Stops,
    *,
    intervention: Intervention | None = None,
    samples: int = 1,
    temperature: float = 0.0,
    seed: int = 0,
    max_new_tokens: int = 256,
) -> Request:
    """What vLLM has to be handed so that it answers as `decode` would.

    Raises:
        InputError: a family or a video whose layer 0 vLLM can't be given unchanged, an intervention that is not tokens at
            the pictures of layer 0, or a temperature that vLLM does not honour.
    """
    if 0 < temperature < 0.01:
        raise InputError(
            f"`temperature` is {temperature}; vLLM draws at 0.01 instead: decode(..., temperature=0) for greedy answers"
        )
    visual, ids = prompt.kinds == TokenKind.VISUAL, prompt.input_ids
    if visual.any():
        _check_family(anatomy, prompt)
    begins = torch.cat([visual[:1], prompt.image_index[1:] != prompt.image_index[:-1]])
    payload: dict[str, Any] = {"prompt_token_ids": ids[~visual | begins].tolist()}
    if visual.any() or intervention is not None:
        hidden = _layer_zero(anatomy, prompt, intervention)
        if visual.any():
            payload["multi_modal_data"] = _multi_modal_data(anatomy, prompt, hidden)
    greedy = temperature == 0
    sampling = {
        "n": 1 if greedy else samples,
        "temperature": float(temperature),
        "seed": problem_seed(seed, prompt.problem_id),
        "max_tokens": max_new_tokens,
        "stop": [*stops.strings],
        "include_stop_str_in_output": True,
        "stop_token_ids": stops.ends,
        "logit_bias": dict.fromkeys(stops.forbidden, _NEVER),
    }
    return Request(payload, sampling, samples)


class VllmEngine:
    """One checkpoint in vLLM: loaded at its first response, then kept.

    Args:
        checkpoint: hub id or folder, with the files of its processor.
        settings: of ``vllm.LLM``: ``revision``, ``dtype``, ``gpu_memory_utilization``, ``tensor_parallel_size``, ... Without
            ``gpu_memory_utilization`` the engine takes half of what is free when it starts.

    Raises:
        InputError: vLLM is not installed.
    """

    def __init__(self, checkpoint: str | Path, **settings: Any) -> None:
        if find_spec("vllm") is None:
            raise InputError(
                f"`engine` needs vLLM, which is not installed: {install('vllm')} on Linux, or leave `engine` out to decode "
                "in process"
            )
        self.checkpoint, self.settings = str(checkpoint), settings

    def __repr__(self) -> str:
        return f"VllmEngine({self.checkpoint!r})"

    def generate(self, requests: Sequence[Request]) -> list[list[list[int]]]:
        """Token ids of every sample of every request, up to the end of the response."""
        from vllm import SamplingParams

        params = [SamplingParams(**request.sampling) for request in requests]
        results = self._llm.generate([request.prompt for request in requests], params, use_tqdm=False)
        ids = [[[*output.token_ids] for output in result.outputs] for result in results]
        return [rows * (request.samples // len(rows)) for request, rows in zip(requests, ids, strict=True)]

    @cached_property
    def _llm(self) -> Any:
        import vllm

        family = read_config("checkpoint", self.checkpoint, revision=self.settings.get("revision")).model_type
        settings = {
            "enable_mm_embeds": True,
            "limit_mm_per_prompt": _limits(family),
            **self.settings,
        }
        if torch.cuda.is_available():
            free, total = torch.cuda.mem_get_info()
            settings.setdefault("gpu_memory_utilization", round(_SHARE * free / total, 3))
        try:
            return vllm.LLM(model=self.checkpoint, **settings)
        except Exception as error:
            if (why := _not_imported(family)) is None:
                raise
            raise InputError(
                f"`engine` vLLM {vllm.__version__} beside transformers {version('transformers')} can't import its own {family} "
                f"({why}), so it can't answer for {self.checkpoint!r}. Decode in process: decode(..., engine=None)"
            ) from error


def _limits(family: str) -> dict[str, int]:
    """Pictures a prompt that vLLM takes as pixels; embeddings don't count where it is 0.

    vLLM drops the vision tower where all limits are 0, and Qwen3-VL's buffers for later layers with it. One movie, which is
    never sent, keeps both, and images still don't count.
    """
    return {"image": 0, "video": int(family == "qwen3_vl")}


def _not_imported(family: str) -> str | None:
    """Why vLLM can't import its model of a family, which it names as transformers does; it says so in a log alone."""
    try:
        import_module(f"vllm.model_executor.models.{family}")
    except ImportError as error:
        unknown = isinstance(error, ModuleNotFoundError) and str(error.name).startswith("vllm")
        return None if unknown else str(error)
    return None


def engine_for(pair: ModelPair, model: Model, engine: VllmEngine | str | None) -> VllmEngine | None:
    """The engine that an argument means: itself, None, or by the name ``"vllm"`` that of one model's own checkpoint.

    Engines by name are kept, one at a time: asking for another checkpoint ends the one before.

    Raises:
        InputError: an unknown engine, or a model that is no longer what its checkpoint holds.
    """
    if engine is None or isinstance(engine, VllmEngine):
        return engine
    if engine != "vllm":
        raise InputError(
            f"`engine` is {engine!r}; expected None, 'vllm' or a VllmEngine: decode(pair, prompt, engine='vllm')"
        )
    anatomy, metadata = getattr(pair, model), pair.provenance[model]
    source = metadata["id"] if pair.preset is None else str(pair.preset.source(model))
    in_memory = source.endswith(" in memory")
    advanced = model == "rlvr" and "checkpoint" in pair.provenance
    if in_memory or advanced or fingerprint(anatomy.model) != metadata["weights"]:
        raise InputError(
            f"`pair` {pair.name!r}: no checkpoint holds the weights that its {model} model has now; save it with its "
            "processor, and give the folder: decode(pair, prompt, engine=VllmEngine(folder))"
        )
    return _engine(source, metadata["revision"], metadata["dtype"])


@lru_cache(maxsize=1)
def _engine(checkpoint: str, revision: str | None, dtype: str) -> VllmEngine:
    return VllmEngine(checkpoint, revision=revision, tokenizer_revision=revision, dtype=dtype)


def export_visual_embeddings(
    pair: ModelPair, prompt: EncodedPrompt, intervention: Intervention | None = None
) -> list[Float[Tensor, "visual hidden"]]:
    """The visual embeddings that the RLVR model's decoder reads, one tensor an image, with learnt tokens added.

    Raises:
        InputError: an intervention elsewhere than at the pictures of layer 0, which no embedding can express.
    """
    hidden = _layer_zero(pair.rlvr, prompt, intervention)
    visual = prompt.kinds == TokenKind.VISUAL
    pictures = prompt.image_index[visual]
    return [hidden[visual][pictures == picture] for picture in pictures.unique().tolist()]


def _layer_zero(
    anatomy: Anatomy, prompt: EncodedPrompt, intervention: Intervention | None
) -> Float[Tensor, "positions hidden"]:
    """What layer 0 reads, on the CPU."""
    if intervention is not None and intervention.sites != (0,):
        raise InputError(
            f"`intervention` writes the input of layers {intervention.sites}; only tokens at layer 0 can be exported as "
            "embeddings: learn_tokens(pair, prompt, Replay(site='tokens'))"
        )
    hidden = read_calls(anatomy, prompt.model_inputs, 1)[0].hidden[0].cpu()
    if intervention is None:
        return hidden
    edited = intervention.apply(0, hidden)
    rest = prompt.kinds != TokenKind.VISUAL
    if not torch.equal(edited[rest], hidden[rest]):
        raise InputError(
            "`intervention` also writes positions that hold no picture, which embeddings of pictures can't carry; decode in "
            "process: decode(..., engine=None)"
        )
    return edited


def _multi_modal_data(anatomy: Anatomy, prompt: EncodedPrompt, hidden: Tensor) -> dict[str, Any]:
    """Embeddings by modality, in the shape that vLLM documents for the family."""
    ids, inputs = prompt.input_ids, prompt.model_inputs
    if anatomy.family == "llava":
        images = len(set(prompt.sources))
        return {"image": hidden[ids == anatomy.image_token_id].view(images, -1, hidden.shape[1])}
    data: dict[str, Any] = {}
    for kind, token in (("image", anatomy.image_token_id), ("video", anatomy.video_token_id)):
        if bool((ids == token).any()):
            grid = inputs[f"{kind}_grid_thw"]
            rows = _with_deepstack(anatomy, prompt, hidden[ids == token])
            data[kind] = {f"{kind}_embeds": rows, f"{kind}_grid_thw": grid}
    if "video" in data and "second_per_grid_ts" in inputs:
        data["video"]["second_per_grid_ts"] = inputs["second_per_grid_ts"].float()
    return data


def _with_deepstack(anatomy: Anatomy, prompt: EncodedPrompt, rows: Tensor) -> Tensor:
    """Qwen3-VL's embeddings of images with the features for later layers beside them, as vLLM wants them."""
    if anatomy.family != "qwen3_vl":
        return rows
    pixels = prompt.model_inputs["pixel_values"].to(anatomy.device, anatomy.model.dtype)
    grid = prompt.model_inputs["image_grid_thw"].to(anatomy.device)
    model: Any = anatomy.model
    with torch.no_grad():
        levels = model.get_image_features(pixels, grid, return_dict=True).deepstack_features
    return torch.cat([rows, *(torch.cat(level).to(rows) for level in levels)], 1)


def _check_family(anatomy: Anatomy, prompt: EncodedPrompt) -> None:
    """Refuse pictures whose embeddings vLLM would not put where the model itself does."""
    family, video = anatomy.family, anatomy.video_token_id in prompt.input_ids.tolist()
    reason = _REFUSED.get(family)
    if family not in (*_GRIDS, "llava"):
        reason = reason or "its documented input of embeddings for this family is not known here"
    elif video and family == "qwen3_vl":
        reason = "it wants the timestamps of a video's frames beside their embeddings, and these are not kept"
    elif video and _outlasts(anatomy, prompt):
        reason = (
            "it counts positions on from a video's last moment, transformers from its longer side, and this video has more "
            "moments than either side has tokens"
        )
    if reason is not None:
        raise InputError(
            f"`engine` vLLM can't answer {prompt.problem_id!r} as {family} does in process: {reason}. Decode in process: "
            "decode(..., engine=None)"
        )


def _outlasts(anatomy: Anatomy, prompt: EncodedPrompt) -> bool:
    """Whether a video spans more position ids in time than in space."""
    vision: Any = getattr(anatomy.model.config, "vision_config", None)
    grids = prompt.model_inputs["video_grid_thw"].tolist()
    seconds = prompt.model_inputs.get("second_per_grid_ts", torch.ones(len(grids))).tolist()
    rate = getattr(vision, "tokens_per_second", 1) if anatomy.family == "qwen2_5_vl" else 1
    return any(
        int((t - 1) * rate * step) >= max(h, w) // anatomy.spatial_merge
        for (t, h, w), step in zip(grids, seconds, strict=True)
    )
