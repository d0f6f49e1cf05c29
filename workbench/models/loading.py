"""Load a pair: from hub ids, local folders, presets or modules in memory; checked before any forward.

1. Load both (``checkpoints``).
2. Preflight (``preflight``, ``comparability``): refuse what would break a comparison position by position.
3. Probe each model with two text tokens (``anatomy``): its lens must reproduce its own logits.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from workbench.errors import InputError
from workbench.models.adapter_files import find_adapter
from workbench.models.anatomy import Anatomy, dissect, probe
from workbench.models.chat import pixel_budget, tokenizer_of, within_budget
from workbench.models.checkpoints import Placement, load_model
from workbench.models.comparability import check_precisions, remarks_on, with_one_set_of_ends
from workbench.models.identity import config_digest, fingerprint, processor_digest
from workbench.models.lora import apply_change
from workbench.models.pairs import ModelPair
from workbench.models.preflight import check_pair, check_processor, check_processors, check_weights
from workbench.models.presets import ROLES, PairPreset, check_budget, named_pair
from workbench.models.settling import Settled, settle
from workbench.models.weight_deltas import read_delta

Source = str | Path | nn.Module
"""A hub id, a local folder, or a transformers module in memory."""

_CALL = 'load_pair(base="Qwen/Qwen2.5-VL-7B-Instruct", rlvr="TIGER-Lab/VL-Rethinker-7B")'


def load_pair(
    name: str | None = None,
    *,
    seed: int = 0,
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
            ``"FILE.yaml:NAME"``, one of yours. Its revisions, processor, chat template, dtype and pixel budgets hold
            unless given here; its system prompt and wording go into what `encode` makes of a problem. Leave it out to give
            ``base`` and ``rlvr``.
        seed: of a bundled pair, another run of its training: ``load_pair("shapes", seed=1)``, also called ``"shapes@1"``.
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
    preset = None if name is None and not seed else named_pair(_with_seed(name, seed), base, rlvr)
    request = _Asked(checkpoint, processor, chat_template, image_pixels, frame_pixels, trust_remote_code)
    if preset is not None:
        base = preset.source("base")
        rlvr = preset.source("rlvr") if checkpoint in (None, preset.steps) else base
        dtype = preset.dtype if dtype is None else dtype
        revision = tuple(map(preset.revision.get, ROLES)) if revision is None else revision
        attn_implementation = attn_implementation or preset.attention
        request = request.by(preset)
    sources, revisions = _both(base, rlvr, revision)
    placement = {
        "dtype": dtype,
        "device": device,
        "device_map": device_map,
        "attn_implementation": attn_implementation,
    }
    return _load(sources, revisions, placement, request, preset)


def _with_seed(name: str | None, seed: int) -> str:
    if name is None:
        raise InputError(
            f'`seed` {seed} is of a bundled pair, and `name` is missing: load_pair("shapes", seed={seed})'
        )
    return f"{name}@{seed}" if seed else name


@dataclass(frozen=True)
class _Asked:
    """The arguments of `load_pair` that say how two models are read."""

    checkpoint: int | str | None
    processor: Any | None
    chat_template: str | Path | None
    image_pixels: tuple[int, int] | None
    frame_pixels: tuple[int, int] | None
    trust_remote_code: bool

    def by(self, preset: PairPreset) -> "_Asked":
        """The request, with the preset's settings where it has none of its own."""
        own = None if preset.processor is None else preset.source(preset.processor)
        chat = None if preset.chat_template is None else preset.source(preset.chat_template)
        return replace(
            self,
            chat_template=chat if self.processor is self.chat_template is None else self.chat_template,
            processor=own if self.processor is None else self.processor,
            image_pixels=self.image_pixels or preset.image_pixels,
            frame_pixels=self.frame_pixels or preset.frame_pixels,
        )

    @property
    def budgets(self) -> list[tuple[int, int] | None]:
        """Least and most pixels of an image and of a frame, once they are known to be such."""
        return [
            None if value is None else check_budget(f"`{name}`", value)
            for name, value in (("image_pixels", self.image_pixels), ("frame_pixels", self.frame_pixels))
        ]


def _load(
    sources: Mapping[str, Source],
    revisions: Mapping[str, str | None],
    placement: Mapping[str, Any],
    request: _Asked,
    preset: PairPreset | None,
) -> ModelPair:
    """Both models, checked, with their processor."""
    budgets = request.budgets
    anatomies = _models(sources, revisions, placement, request.trust_remote_code)
    settled = settle(
        sources,
        revisions,
        anatomies["base"],
        processor=request.processor,
        chat_template=request.chat_template,
        trust_remote_code=request.trust_remote_code,
    )
    reader, remarks = _checked(anatomies, settled, budgets, templates=request.chat_template is None)
    if request.checkpoint is not None:
        _advance(anatomies["rlvr"].model, request.checkpoint, preset)
    *both, ends_remarks = with_one_set_of_ends(anatomies["base"], anatomies["rlvr"], tokenizer_of(reader))
    remarks += [*ends_remarks, *remarks_on(*both)]
    for remark in remarks:
        warnings.warn(remark, UserWarning, stacklevel=3)
    for anatomy in both:
        probe(anatomy)
    title = preset.name if preset else " -> ".join(_short(source) for source in sources.values())
    ids = {role: preset.id_of(role) if preset else source for role, source in sources.items()}
    provenance = {
        "pair": title,
        **{
            role: facts_of(ids[role], revisions[role], anatomy)
            for role, anatomy in zip(ROLES, both, strict=True)
        },
        **({} if request.checkpoint is None else {"checkpoint": request.checkpoint}),
        **_reading(reader),
        **({} if preset is None or not preset.in_words() else {"asked": preset.in_words()}),
        **({} if preset is None or preset.matmul is None else {"matmul": preset.matmul}),
        **({} if settled.template is None else {"chat_template": settled.template}),
        **({"remarks": remarks} if remarks else {}),
        "libraries": {p: version(p) for p in ("torch", "transformers", "tokenizers", "safetensors")},
    }
    return ModelPair(title, both[0], both[1], reader, provenance, preset)


def _both(
    base: Source | None, rlvr: Source | None, revision: str | Sequence[str | None] | None
) -> tuple[dict[str, Source], dict[str, str | None]]:
    """Sources and revisions by role."""
    if base is None or rlvr is None:
        absent = [f"`{role}`" for role, source in (("base", base), ("rlvr", rlvr)) if source is None]
        raise InputError(f'{" and ".join(absent)} missing: call `load_pair("shapes")` or `{_CALL}`')
    revisions = (revision, revision) if revision is None or isinstance(revision, str) else tuple(revision)
    if len(revisions) != 2:
        raise InputError(
            f"`revision` has {len(revisions)} entries, expected one for both models or (base's, rlvr's)"
        )
    return {"base": base, "rlvr": rlvr}, dict(zip(ROLES, revisions, strict=True))


def _models(
    sources: Mapping[str, Source],
    revisions: Mapping[str, str | None],
    placement: Mapping[str, Any],
    trust_remote_code: bool,
) -> dict[str, Anatomy]:
    """Both models, loaded where they are not in memory."""
    anatomies: dict[str, Anatomy] = {}
    for role, source in sources.items():
        if isinstance(source, PreTrainedModel):
            _refuse_settings(role, {**placement, "revision": revisions[role]})
            anatomies[role] = dissect(source.eval())
        elif isinstance(source, (str, Path)):
            base = sources["base"]
            beside = base if role == "rlvr" and isinstance(base, (str, Path)) else None
            hub = {"revision": revisions[role], "trust_remote_code": trust_remote_code}
            anatomies[role] = dissect(load_model(role, source, Placement(**placement), beside=beside, **hub))
        else:
            anatomies[role] = dissect(source)  # says what is wrong with it
    return anatomies


def _checked(
    anatomies: Mapping[str, Anatomy],
    settled: Settled,
    budgets: Sequence[tuple[int, int] | None],
    *,
    templates: bool,
) -> tuple[Any | None, list[str]]:
    """The processor within its budgets, and remarks on the two models; whatever can be refused is checked first."""
    reader, remarks = settled.processor, list[str]()
    check_pair(anatomies["base"], anatomies["rlvr"], tokenizer_of(reader))
    check_precisions(anatomies["base"], anatomies["rlvr"])
    if reader is not None:
        check_processor(reader, anatomies["base"])
        reader = within_budget(reader, anatomies["base"], *budgets)
    if len(settled.beside) == 2 and None not in settled.beside.values():
        remarks += check_processors(*settled.beside.values(), templates=templates)
    for role, anatomy in anatomies.items():
        check_weights(role, anatomy)
    return reader, remarks


def _reading(processor: Any | None) -> dict[str, Any]:
    """What provenance says of the processor."""
    return {
        "processor": None if processor is None else type(processor).__name__,
        "reads": None if processor is None else processor_digest(processor),
        "pixels": {
            part: pixel_budget(getattr(processor, f"{part}_processor", None)) for part in ("image", "video")
        },
    }


def _advance(model: nn.Module, checkpoint: int | str, preset: PairPreset | None) -> None:
    """Add a bundled pair's saved difference to its base model, in place; of the last step the model is there already."""
    saved = {} if preset is None else preset.changes
    if preset is not None and checkpoint == preset.steps:
        return
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


def facts_of(source: Source, revision: str | None, anatomy: Anatomy) -> dict[str, Any]:
    """What provenance says of one model: where it is from, its kind, precision and place, and digests of weights and config."""
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
