"""One checkpoint: a hub id or a folder becomes a model or a processor, and nothing in it is taken on trust.

Safetensors only (other formats can run code), no remote code unless asked, and every weight accounted for: a
weight that is missing or misshapen would otherwise be left random without a word.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from workbench.errors import InputError, install
from workbench.models.adapter_files import base_of, find_adapter
from workbench.models.anatomy import Anatomy, dissect
from workbench.models.checkpoint_files import located, snapshot_of
from workbench.models.gguf import packaged, unpacked
from workbench.models.lora import merge
from workbench.models.weight_files import check_one_set, repository_files

_PROCESSOR_FILES = (
    "processor_config.json",
    "preprocessor_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
)


@dataclass(frozen=True)
class Placement:
    """How models are loaded and where to; checked when built. The arguments are those of `load_pair`."""

    dtype: str | torch.dtype | None = None
    device: str | torch.device | None = None
    device_map: Any | None = None
    attn_implementation: str | None = None

    def __post_init__(self) -> None:
        dtype, device, device_map = self.dtype, self.device, self.device_map
        if isinstance(dtype, str) and dtype != "auto":
            dtype = getattr(torch, dtype, "unknown")
        if dtype not in (None, "auto") and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise InputError(f'`dtype` {self.dtype!r} is not a floating-point dtype; try dtype="bfloat16"')
        if device is not None and device_map is not None:
            raise InputError('`device` and `device_map` were both given; give one, e.g. device_map="auto"')
        if device == "auto":
            device, device_map = None, "auto"
        if device_map is not None and find_spec("accelerate") is None:
            raise InputError(
                f"`device_map` {device_map!r} needs a package that is missing: {install('gpu')}, which "
                'brings accelerate; or name one device: device="cuda"'
            )
        if self.attn_implementation == "flash_attention_2" and find_spec("flash_attn") is None:
            raise InputError(
                "`attn_implementation` 'flash_attention_2' needs a package that is missing: pip install flash-attn; or leave "
                "it out for sdpa"
            )
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise InputError(
                f'`device` {str(device)!r} does not work here ({_told(error)}); try device="cpu"'
            ) from error
        object.__setattr__(self, "dtype", dtype or "auto")
        object.__setattr__(self, "device", torch.device(device))
        object.__setattr__(self, "device_map", device_map)


def load_model(
    role: str,
    source: str | Path,
    placement: Placement,
    *,
    revision: str | None,
    trust_remote_code: bool,
    layers: int | None = None,
    beside: str | Path | None = None,
) -> PreTrainedModel:
    """Load a checkpoint in eval mode with frozen weights; an adapter merged into its base.

    Args:
        role: the argument's name, for messages.
        source: folder or hub id.
        placement: dtype, device, attention kernel.
        revision: hub revision.
        trust_remote_code: run Python code found in the checkpoint.
        layers: load only the first so many decoder layers, with final norm and unembedding; all when None.
        beside: the model that an adapter was given with.

    Raises:
        InputError: missing, corrupt, two sets of weights, or weights that do not fit the config; out of memory.
    """
    here = f"`{role}` {str(source)!r}"
    if (adapter := find_adapter(role, source, revision)) is not None:
        if layers is not None:
            raise InputError(f"{here} is an adapter, and `layers` is for whole models; leave `layers` out")
        own = None if beside is None else find_adapter("base", beside)
        body = base_of(role, adapter, beside if own is None else own.base)
        options = {"revision": None, "trust_remote_code": trust_remote_code}
        merged = merge(role, adapter, load_model(role, body, placement, **options))
        merged.adapter_of = str(body)  # for provenance
        return merged
    where = located(role, unpacked(source))
    hub: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    spread = {} if placement.device_map is None else {"device_map": placement.device_map}
    try:
        config = transformers.AutoConfig.from_pretrained(where, **hub)
        _check_snapshot(role, where, getattr(config, "_commit_hash", None) or revision)
        if layers is not None:
            _truncate(config, layers)
        multimodal = type(config) in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        auto = transformers.AutoModelForImageTextToText if multimodal else transformers.AutoModelForCausalLM
        with _without_its_report():
            loaded: Any = auto.from_pretrained(
                where,
                config=config,
                dtype=placement.dtype,
                attn_implementation=placement.attn_implementation,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # so that the report names them
                output_loading_info=True,
                **spread,
                **hub,
            )
        model, report = loaded
        if not spread:
            model = model.to(placement.device)
    except InputError:
        raise
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"{here} does not fit in the memory of {placement.device}; "
            'try dtype="bfloat16", device_map="auto", or device="cpu"'
        ) from error
    except Exception as error:  # transformers raises its own, torch's, tokenizers' and the hub's, of any type
        raise InputError(
            f"{here} could not be loaded: {_told(error)} (expected a transformers checkpoint, in a folder "
            "or on the hub: config.json and safetensors)"
        ) from error
    if away := [name for name, parameter in model.named_parameters() if parameter.is_meta]:
        raise InputError(
            f"{here} does not fit in the memory of the devices in `device_map` {placement.device_map!r}: {len(away)} weights "
            f'such as {away[0]} would be left on CPU or disk; try dtype="bfloat16", more devices, or device="cpu"'
        )
    _check_report(here, report, dissect(model), truncated=layers is not None)
    return model.eval().requires_grad_(False)


def _check_snapshot(role: str, where: str, revision: str | None) -> None:
    """The same of a hub repository as of a folder, before its weights are fetched."""
    if not Path(where).is_dir() and (snapshot := snapshot_of(where, revision)) is not None:
        check_one_set(role, where, snapshot, repository_files(where, revision))


@contextmanager
def _without_its_report() -> Iterator[None]:
    """Transformers prints which weights did not fit; `_check_report` says it, and knows which layers were left out."""
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(before)


def read_depth(role: str, source: str | Path, *, revision: str | None, trust_remote_code: bool) -> int:
    """Decoder layers of a checkpoint, from its config alone.

    Raises:
        InputError: there is no readable config.
    """
    where = located(role, unpacked(source))
    config = read_config(role, where, revision=revision, trust_remote_code=trust_remote_code)
    return config.get_text_config(decoder=True).num_hidden_layers


def read_config(
    role: str, source: str | Path, *, revision: str | None = None, trust_remote_code: bool = False
) -> Any:
    """A checkpoint's config; it needs no weights.

    Raises:
        InputError: there is no readable config.
    """
    if (adapter := find_adapter(role, source, revision)) is not None:
        source, revision = base_of(role, adapter), None
    source = unpacked(source)
    where = str(Path(source).expanduser()) if Path(source).expanduser().is_dir() else str(source)
    try:
        return transformers.AutoConfig.from_pretrained(
            where, revision=revision, trust_remote_code=trust_remote_code
        )
    except Exception as error:
        raise InputError(
            f"`{role}` {str(source)!r}: its config can't be read ({_told(error)}); give a folder with a config.json, or "
            "the id of a model that is in the local cache or can be fetched"
        ) from error


def _truncate(config: Any, layers: int) -> None:
    text = config.get_text_config(decoder=True)
    if layers > text.num_hidden_layers:
        raise InputError(f"`layers` is {layers}, but the checkpoint has {text.num_hidden_layers}")
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]


def load_processor(
    role: str, source: str | Path, anatomy: Anatomy, *, revision: str | None, trust_remote_code: bool
) -> Any | None:
    """The processor of a checkpoint, or its tokenizer for a text-only model; None where it has none.

    Raises:
        InputError: there are processor files, but they cannot be loaded.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        if not any((folder / name).is_file() for name in _PROCESSOR_FILES):
            adapter = find_adapter(role, source)
            if adapter is None or adapter.base is None:
                return None
            return load_processor(
                role, adapter.base, anatomy, revision=None, trust_remote_code=trust_remote_code
            )
        source = folder
    elif packaged(source):
        source = folder = Path(unpacked(source))
    auto = transformers.AutoProcessor if anatomy.visual_token_ids else transformers.AutoTokenizer
    try:
        return auto.from_pretrained(str(source), revision=revision, trust_remote_code=trust_remote_code)
    except Exception as error:
        if not folder.is_dir() and isinstance(error, OSError):
            return None
        raise InputError(
            f"`{role}` {str(source)!r}: its processor could not be loaded ({_told(error)}); mend its files, "
            'or give a processor with `processor="FOLDER"`'
        ) from error


def _check_report(here: str, report: Mapping[str, Any], anatomy: Anatomy, *, truncated: bool) -> None:
    mismatched = [key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]]
    # Layers beyond the config's depth are dropped silently, and the model is not the one that was saved.
    surplus = [key for key in report["unexpected_keys"] if key.startswith(f"{anatomy.layers_path}.")]
    surplus = [] if truncated else surplus
    for keys, what in (
        (report["missing_keys"], "lacks"),
        (mismatched, "has another shape than its config.json says for"),
        (surplus, "has more layers than its config.json says, with"),
    ):
        if keys:
            names = ", ".join([*sorted(keys)[:3], *["..."][: len(keys) - 3]])
            raise InputError(
                f"{here} {what} {len(keys)} weights: {names}; config.json and weights must come from the "
                "same checkpoint: fetch or save it again"
            )


def _told(error: BaseException) -> str:
    """What an error says, on one line of at most 300 characters."""
    return (" ".join(str(error).split()) or type(error).__name__)[:300]
