"""A base model and the RLVR model post-trained from it: load, check, place.

1. Load both from hub ids, local folders (``checkpoints``) or modules in memory.
2. Preflight (``preflight``), before any forward: refuse what would break a comparison position by position.
3. Probe each model with two text tokens (``anatomy``): its lens must reproduce its own logits.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from workbench.errors import InputError
from workbench.interventions import Patch, Replay, default_matrix
from workbench.models.adapter_files import find_adapter
from workbench.models.anatomy import Anatomy, dissect, probe
from workbench.models.chat import Message, pixel_budget, tokenizer_of, within_budget
from workbench.models.checkpoints import Placement, load_model
from workbench.models.comparability import check_precisions, remarks_on, with_one_set_of_ends
from workbench.models.identity import config_digest, fingerprint, processor_digest
from workbench.models.lora import apply_change
from workbench.models.pair_html import pair_html
from workbench.models.preflight import check_pair, check_processor, check_processors, check_weights
from workbench.models.presets import NO_PRESET, ROLES, PairPreset, check_budget, named_pair
from workbench.models.prompts import EncodedPrompt, encode, show_token
from workbench.models.settling import settle
from workbench.models.weight_deltas import read_delta
from workbench.problems.problem import Problem

Source = str | Path | nn.Module
"""A hub id, a local folder, or a transformers module in memory."""

_CALL = 'load_pair(base="Qwen/Qwen2.5-VL-7B-Instruct", rlvr="TIGER-Lab/VL-Rethinker-7B")'


@dataclass(frozen=True, eq=False)
class ModelPair:
    """Two models that read the same encoded prompt, position by position."""

    name: str
    base: Anatomy
    rlvr: Anatomy
    processor: Any | None = field(repr=False)
    """A transformers processor, or a tokenizer for text-only pairs; with None only `from_tensors` encodes."""
    provenance: Mapping[str, Any] = field(repr=False)
    """What was loaded (ids, revisions, dtype, device, attention kernel) and the library versions."""
    preset: PairPreset | None = field(default=None, repr=False)
    """What it was loaded by, where it was loaded by name."""

    def __repr__(self) -> str:
        return (
            f"ModelPair({self.name!r}, {self.base.family}, {self.depth} layers, hidden "
            f"{self.base.hidden_size}, vocabulary {self.vocab_size}, {self.dtype}, {self.device})"
        )

    def _repr_html_(self) -> str:
        return pair_html(self)

    @property
    def device(self) -> torch.device:
        """Where a prompt has to be: the device of the base model's input embedding."""
        return self.base.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the base model's unembedding."""
        return self.base.dtype

    @property
    def depth(self) -> int:
        """Decoder layers of each model."""
        return self.base.depth

    @property
    def vocab_size(self) -> int:
        """Unembedding rows that both models have; any further ones are padding that no token uses."""
        return min(self.base.vocab_size, self.rlvr.vocab_size)

    @property
    def tokenizer(self) -> Any | None:
        """The processor's tokenizer; None without one."""
        return tokenizer_of(self.processor)

    @property
    def pad_id(self) -> int:
        """Token id for padded positions: masked, so any id serves that stands for no picture."""
        pad = getattr(self.tokenizer, "pad_token_id", None)
        if pad is not None and pad not in self.base.visual_token_ids:
            return pad
        return next(i for i in range(self.vocab_size) if i not in self.base.visual_token_ids)

    def encode(self, problem: Problem | EncodedPrompt, turns: Sequence[Message] = ()) -> EncodedPrompt:
        """Encode a problem, and the turns after it, for both models, on the CPU; raises what `prompts.encode` raises.

        A pair loaded by name is asked in its preset's words. What is encoded already stays as it is.
        """
        if isinstance(problem, EncodedPrompt):
            if turns:
                raise InputError(
                    "`turns` follow a problem, and `problem` is encoded already: pair.encode(problem, turns)"
                )
            return problem
        if not isinstance(problem, Problem):
            raise InputError(
                f"`problem` is a {type(problem).__name__}; expected a Problem: "
                "pair.encode(load_problems('shapes', limit=1)[0])"
            )
        asked = problem if self.preset is None else self.preset.asked(problem)
        return encode(self.processor, self.base, asked, turns)

    def replay(self, **changes: Any) -> Replay:
        """A `Replay` with the settings that suit the pair, its preset's or the paper's, but for ``changes``.

        Raises:
            InputError: what `Replay` refuses.

        Example:
            >>> wb.load_pair("shapes").replay(select="high").layers
            5
        """
        mid = changes.get("site") == "mid_tokens"
        own = {name: value for name, value in self._default.replay.items() if not (mid and name == "layers")}
        return Replay(**own | changes)

    def patch(self, **changes: Any) -> Patch:
        """A `Patch` with the settings that suit the pair, but for ``changes``.

        Raises:
            InputError: what `Patch` refuses.
        """
        suits = self._default.matrix(changes)
        shared = {name: suits[name] for name in ("tau", "threshold") if name in suits}
        layers = len(Replay(layers=suits.get("layers")).loss_layers(self.depth))
        return Patch(**{"layers": layers, **shared, **suits.get("patch", {}), **changes})

    def matrix(self, **changes: Any) -> dict[str, Replay | Patch]:
        """`default_matrix` with the settings that suit the pair, but for ``changes`` (arguments of `default_matrix`).

        Raises:
            InputError: what `Replay` and `Patch` refuse.
        """
        settings = {**self._default.matrix(changes), "pictures": self.reads_pictures, **changes}
        return default_matrix(self.depth, **settings)

    @property
    def reads_pictures(self) -> bool:
        """Whether the models have visual tokens."""
        return bool(self.base.visual_token_ids)

    @property
    def _default(self) -> PairPreset:
        return self.preset or NO_PRESET

    def decode_token(self, token_id: int) -> str:
        """Display string of a token id; ``"#17"`` when there is no tokenizer."""
        return show_token(self.tokenizer, token_id)


def load_pair(
    name: str | None = None,
    *,
    checkpoint: int | str | None = None,
    base: Source | None = None,
    rlvr: Source | None = None,
    processor: Any | None = None,
    chat_template: str | Path | None = None,
    revision: str | Sequence[str | None] | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    device_map: Any | None = None,
    attn_implementation: str | None = None,
    image_pixels: tuple[int, int] | None = None,
    frame_pixels: tuple[int, int] | None = None,
    trust_remote_code: bool = False,
) -> ModelPair:
    """Load a pair by name, or any two checkpoints or modules of the same family.

    Args:
        name: a preset: ``"shapes"``, the bundled pair, ``"vl-rethinker-7b"``, ... (`workbench pairs list`), or
            ``"FILE.yaml:NAME"``, one of yours. Its revisions, processor, dtype and pixel budgets hold unless given
            here; its system prompt and wording go into what `encode` makes of a problem. Leave it out to give
            ``base`` and ``rlvr``.
        checkpoint: of a bundled pair, what plays the RLVR model instead: the step of GRPO that it was saved at, or
            ``"sft"``, the base trained on for 125 steps without RL, or ``"random"``, GRPO with a reward by lot.
        base: hub id, local folder, or transformers module in memory (which is put in eval mode).
        rlvr: the model post-trained from it, likewise.
        processor: processor or tokenizer, or its hub id or folder. Default: the base's, else the RLVR
            model's, else none.
        chat_template: whose both models read, where the two differ: ``"base"``, ``"rlvr"``, or a file with a Jinja template.
        revision: hub revision of both, or (base's, rlvr's).
        dtype: such as ``"bfloat16"``. Default: as stored, or the preset's.
        device: default: the GPU where there is one, else the CPU. ``"auto"`` spreads each model over all GPUs, for those
            larger than one (needs accelerate). Modules in memory stay where they are.
        device_map: how to spread each model over devices, as in transformers; ``"auto"`` is the same as for ``device``.
        attn_implementation: ``"sdpa"``, ``"eager"``, ``"flash_attention_2"`` (needs flash-attn and half precision), ...
        image_pixels: least and most pixels that an image is resized to (Qwen-VL). Default: as the processor is
            configured.
        frame_pixels: the same for a frame of a video.
        trust_remote_code: run Python code found in checkpoints. Off: only models that transformers knows.

    Returns:
        The pair: both models ready to run, in eval mode, with their processor. It is checked: two prompts' positions are the same
        positions in both, and each lens reproduces its model's own logits.

    Raises:
        InputError: unknown name; missing, corrupt or ill-fitting checkpoint; NaN or infinite weights; a pair
            that cannot be compared position by position, or is in two precisions, or reads two texts.

    Warns:
        UserWarning: equal weights, or what makes the two comparable only in part (also in ``provenance["remarks"]``).

    Example:
        >>> pair = wb.load_pair("shapes")
        >>> pair.name, pair.depth, pair.vocab_size
        ('shapes', 8, 532)
        >>> wb.load_pair("shapes", checkpoint="sft").provenance["checkpoint"]  # a control in the RLVR model's place
        'sft'
    """
    preset = None if name is None else named_pair(name, base, rlvr)
    if preset is not None:
        base, rlvr = preset.source("base"), preset.source("rlvr" if checkpoint is None else "base")
        dtype = preset.dtype if dtype is None else dtype
        attn_implementation = attn_implementation or preset.attention
        revision = tuple(map(preset.revision.get, ROLES)) if revision is None else revision
        image_pixels, frame_pixels = image_pixels or preset.image_pixels, frame_pixels or preset.frame_pixels
    if base is None or rlvr is None:
        absent = [f"`{role}`" for role, source in (("base", base), ("rlvr", rlvr)) if source is None]
        raise InputError(f'{" and ".join(absent)} missing: call `load_pair("shapes")` or `{_CALL}`')
    revisions = (revision, revision) if revision is None or isinstance(revision, str) else tuple(revision)
    if len(revisions) != 2:
        raise InputError(
            f"`revision` has {len(revisions)} entries, expected one for both models or (base's, rlvr's)"
        )
    budgets = [
        None if value is None else check_budget(f"`{what}`", value)
        for what, value in (("image_pixels", image_pixels), ("frame_pixels", frame_pixels))
    ]
    if preset is not None and processor is None and preset.processor is not None:
        processor = preset.source(preset.processor)
    settings = {
        "dtype": dtype,
        "device": device,
        "device_map": device_map,
        "attn_implementation": attn_implementation,
    }
    anatomies: dict[str, Anatomy] = {}
    for role, source, commit in zip(("base", "rlvr"), (base, rlvr), revisions, strict=True):
        if isinstance(source, PreTrainedModel):
            _refuse_settings(role, {**settings, "revision": commit})
            anatomies[role] = dissect(source.eval())
        elif isinstance(source, (str, Path)):
            hub = {"revision": commit, "trust_remote_code": trust_remote_code}
            beside = base if role == "rlvr" and isinstance(base, (str, Path)) else None
            anatomies[role] = dissect(load_model(role, source, Placement(**settings), beside=beside, **hub))
        else:
            anatomies[role] = dissect(source)  # says what is wrong with it
    settled = settle(
        {"base": base, "rlvr": rlvr},
        dict(zip(ROLES, revisions, strict=True)),
        anatomies["base"],
        processor=processor,
        chat_template=chat_template,
        trust_remote_code=trust_remote_code,
    )
    chosen, remarks = settled.processor, list[str]()
    check_pair(anatomies["base"], anatomies["rlvr"], tokenizer_of(chosen))
    check_precisions(anatomies["base"], anatomies["rlvr"])
    if chosen is not None:
        check_processor(chosen, anatomies["base"])
        chosen = within_budget(chosen, anatomies["base"], *budgets)
    if len(settled.beside) == 2 and None not in settled.beside.values():
        remarks += check_processors(*settled.beside.values(), templates=chat_template is None)
    for role, anatomy in anatomies.items():
        check_weights(role, anatomy)
    if checkpoint is not None:
        _advance(anatomies["rlvr"].model, checkpoint, preset)
    *both, said = with_one_set_of_ends(anatomies["base"], anatomies["rlvr"], tokenizer_of(chosen))
    anatomies = dict(zip(ROLES, both, strict=True))
    remarks += [*said, *remarks_on(*both)]
    for remark in remarks:
        warnings.warn(remark, UserWarning, stacklevel=2)
    for anatomy in both:
        probe(anatomy)
    title = preset.name if preset else " -> ".join(_short(source) for source in (base, rlvr))
    provenance = {
        "pair": title,
        "base": _describe(preset.id_of("base") if preset else base, revisions[0], anatomies["base"]),
        "rlvr": _describe(preset.id_of("rlvr") if preset else rlvr, revisions[1], anatomies["rlvr"]),
        **({} if checkpoint is None else {"checkpoint": checkpoint}),
        "processor": None if chosen is None else type(chosen).__name__,
        "reads": None if chosen is None else processor_digest(chosen),
        "pixels": {
            part: pixel_budget(getattr(chosen, f"{part}_processor", None)) for part in ("image", "video")
        },
        **({} if preset is None or not preset.in_words() else {"asked": preset.in_words()}),
        **({} if preset is None or preset.matmul is None else {"matmul": preset.matmul}),
        **({} if settled.template is None else {"chat_template": settled.template}),
        **({"remarks": remarks} if remarks else {}),
        "libraries": {p: version(p) for p in ("torch", "transformers", "tokenizers", "safetensors")},
    }
    return ModelPair(title, anatomies["base"], anatomies["rlvr"], chosen, provenance, preset)


def _advance(model: nn.Module, checkpoint: int | str, preset: PairPreset | None) -> None:
    """Add a bundled pair's saved difference to its base model, in place."""
    saved = {} if preset is None else preset.changes
    if checkpoint not in saved:
        raise InputError(
            f'`checkpoint` is {checkpoint!r}; a bundled pair has {[*saved]}: load_pair("shapes", checkpoint="sft")'
        )
    changes = read_delta(saved[checkpoint])
    adapter = None if preset is None else find_adapter("base", preset.source("base"))
    if adapter is not None:
        apply_change(model, adapter.folder, changes)
        return
    with torch.no_grad():
        for key, change in changes.items():
            model.get_parameter(key).add_(change.to(model.get_parameter(key)))


def _refuse_settings(role: str, settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        if value is not None:
            raise InputError(
                f"`{name}` {value!r} is for checkpoints, and `{role}` is a module in memory: leave `{name}` "
                f"out, and prepare the module yourself, as in `{role}.to('cuda', torch.bfloat16)`"
            )


def _describe(source: Source, revision: str | None, anatomy: Anatomy) -> dict[str, Any]:
    model, config = anatomy.model, anatomy.model.config
    return {
        "id": f"{type(model).__name__} in memory" if isinstance(source, nn.Module) else str(source),
        **({} if (body := getattr(model, "adapter_of", None)) is None else {"adapter_of": body}),
        "revision": revision,
        "commit": getattr(config, "_commit_hash", None),
        "family": anatomy.family,
        "dtype": str(anatomy.dtype).removeprefix("torch."),
        "device": str(anatomy.device),
        "attn_implementation": getattr(config, "_attn_implementation", None),
        "parameters": sum(p.numel() for p in model.parameters()),
        "weights": fingerprint(model),
        "config": config_digest(model),
    }


def _short(source: Source) -> str:
    return type(source).__name__ if isinstance(source, nn.Module) else Path(source).name


def is_bundled(pair: ModelPair) -> bool:
    """Whether the pair ships with the package."""
    return pair.preset is not None and pair.preset.bundled


def longest_answer(pair: ModelPair) -> int:
    """Where `decode` may cut a pair's responses off without loss, in tokens."""
    return (pair.preset or NO_PRESET).longest_answer


def batch_of(pair: ModelPair) -> int:
    """Prompts per forward that suit a pair: many for tiny bundled ones, whose cost is mostly per call."""
    return (pair.preset or NO_PRESET).batch_size


def study_settings(pair: ModelPair) -> dict[str, int]:
    """Draws of matched noise and null models of each kind that suit a pair."""
    return (pair.preset or NO_PRESET).study_settings
