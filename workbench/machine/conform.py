"""`conform`: run this implementation on recorded reference cases, and say how far from them it lands.

A case is a folder: ``case.json`` (its ``kind`` and settings), ``base/`` and ``rlvr/`` (tiny checkpoints),
``inputs.safetensors`` (one encoded prompt) and ``expected.safetensors`` (what the reference computed).

1. Load the pair in the wanted dtype and encode the prompt from its tensors.
2. Compute every quantity that the case records: the lens of both models, and by kind masks, losses, learnt tokens,
   and the logits at the last position with the intervention in place.
3. Compare. Lens quantities conform if no element is further off than the tolerance; what comes after many layers
   or iterations, if it is not further off than ten times the tolerance, relative to the largest value; ids and
   masks, if none differs.

The default tolerance of 1e-6 is for float64: the models' own RMSNorm computes in float32 even there.
"""

import json
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from workbench.errors import InputError
from workbench.interventions import Patch, Replay
from workbench.lens.fused import compare
from workbench.machine.cases import kind_of
from workbench.models.loading import load_pair
from workbench.models.pairs import ModelPair
from workbench.models.prompts import EncodedPrompt
from workbench.replay.patching import prepare_patch
from workbench.replay.replay import learn_tokens
from workbench.tracing.model_heads import lens_heads
from workbench.tracing.residuals import read_logits
from workbench.tracing.trace import compare_residuals
from workbench.views import markup


@dataclass(frozen=True)
class Deviation:
    """How far one recorded quantity of one case is off."""

    case: str
    quantity: str
    absolute: float
    """Largest absolute deviation of an element; for ids, how many differ."""
    relative: float
    """Largest deviation of an element relative to its own expected value; for ids, the share that differs."""
    within: bool


@dataclass(frozen=True)
class ConformReport:
    """Every deviation found."""

    deviations: tuple[Deviation, ...]
    dtype: str
    device: str
    tolerance: float

    @property
    def exit_code(self) -> int:
        """0: all within tolerance. 1: something deviates."""
        return int(not all(deviation.within for deviation in self.deviations))

    @property
    def verdict(self) -> str:
        """One line."""
        off = [f"{d.quantity} of {d.case}" for d in self.deviations if not d.within]
        setting = f"tolerance {self.tolerance:g}, {self.dtype} on {self.device}"
        if off:
            return f"{len(off)} of {len(self.deviations)} quantities deviate ({setting}): {', '.join(off)}"
        if not self.deviations:
            return "nothing was compared"
        return f"all {len(self.deviations)} quantities conform ({setting})"

    def to_dataframe(self) -> pd.DataFrame:
        """One row per case and quantity: largest absolute and relative deviation, and whether it conforms."""
        return pd.DataFrame(
            [asdict(deviation) for deviation in self.deviations], columns=list(Deviation.__annotations__)
        )

    def __repr__(self) -> str:
        return f"ConformReport({self.verdict})"

    def __str__(self) -> str:
        table = [self.to_dataframe().to_string(index=False, float_format="{:.2e}".format)] * bool(
            self.deviations
        )
        return "\n".join([*table, self.verdict])

    def _repr_html_(self) -> str:
        return markup.paragraph(self.verdict, strong=True) + markup.table(self.to_dataframe())


def conform(
    folders: str | Path | Iterable[str | Path],
    *,
    dtype: str = "float64",
    device: str = "cpu",
    tolerance: float = 1e-6,
) -> ConformReport:
    """Run the recorded cases in ``folders`` and compare.

    Args:
        folders: one case's folder, or several.
        dtype: what both models are cast to.
        device: where they run.
        tolerance: largest absolute deviation of an element of a lens quantity that still conforms; ten times it,
            relative to the largest value, for losses, tokens and logits.

    Raises:
        InputError: no folders, a folder that holds no complete case, or an unknown kind.
    """
    cases = [Path(f) for f in ([folders] if isinstance(folders, str | Path) else folders)]
    if not cases:
        raise InputError(
            "`folders` is empty; name at least one recorded case, `conform(['tests/parity/lens'])`"
        )
    if not tolerance >= 0:
        raise InputError(
            f"`tolerance` is {tolerance}, expected 0 or more: `conform(folders, tolerance=1e-6)`"
        )
    kinds = [kind_of(folder) for folder in cases]
    deviations: list[Deviation] = []
    for folder, kind in zip(cases, kinds, strict=True):
        pair = load_pair(base=folder / "base", rlvr=folder / "rlvr", dtype=dtype, device=device)
        prompt = EncodedPrompt.from_tensors(
            pair, problem_id=folder.name, **_tensors(folder / "inputs.safetensors")
        )
        expected = _tensors(folder / "expected.safetensors")
        results = _lens(pair, prompt) | _KINDS[kind](pair, prompt, _Settings(folder), expected)
        deviations += [_deviation(folder, name, expected, results[name], tolerance) for name in results]
    return ConformReport(tuple(deviations), dtype, device, tolerance)


def _lens(pair: ModelPair, prompt: EncodedPrompt) -> dict[str, Tensor]:
    """Logit lens of both models at every layer's output, (layers, positions) each."""
    heads = lens_heads(pair)
    by_layer = compare_residuals(pair, [prompt], lambda _, base, rlvr: compare(base, rlvr, *heads, top_k=1))
    stats = list(by_layer.values())
    return {
        "entropy_base": torch.stack([s.entropy_base for s in stats]),
        "entropy_rlvr": torch.stack([s.entropy_rlvr for s in stats]),
        "kl": torch.stack([s.kl for s in stats]),
        "top1_base": torch.stack([s.top_ids_base[:, 0] for s in stats]),
        "top1_rlvr": torch.stack([s.top_ids_rlvr[:, 0] for s in stats]),
    }


class _Settings:
    """What `case.json` says, with a clear error for what it lacks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.values: dict[str, Any] = json.loads((folder / "case.json").read_text(encoding="utf-8"))

    def __getitem__(self, name: str) -> Any:
        if name not in self.values:
            raise InputError(
                f"`folders`: {str(self.folder)!r}: case.json lacks {name!r}; copy the recorded case again"
            )
        return self.values[name]


def _learned(pair: ModelPair, prompt: EncodedPrompt, replay: Replay, rows: int) -> dict[str, Tensor]:
    with (
        warnings.catch_warnings()
    ):  # the recorded settings are what they are, also where their steps raise the loss
        warnings.simplefilter("ignore", UserWarning)
        learned = learn_tokens(pair, prompt, replay)
    anatomy = pair.base if replay.direction == "reverse" else pair.rlvr
    mask = learned.mask
    if rows != len(mask):  # a mid-layer case may record the masks of all layers up to its own
        mask = learn_tokens(
            pair, prompt, replace(replay, site="tokens", layer=None, layers=rows, iterations=0)
        ).mask
    logits = read_logits(
        anatomy, prompt.model_inputs, write={learned.layer: lambda h: learned.apply(learned.layer, h)}
    )
    return {"mask": mask, "losses": learned.losses, "tokens": learned.tokens, "logits_last": logits[0, -1]}


def _replay_of(case: _Settings, **changes: Any) -> Replay:
    settings: dict[str, Any] = {
        "tau": case["tau"],
        "alpha": case["lr"],
        "iterations": case["iterations"],
        "top_v": case["top_v"],
        "normalize": case["normalize"],
        "alignment": case["alignment"],
    }
    return Replay(**settings | changes)


def _token_replay(
    pair: ModelPair, prompt: EncodedPrompt, case: _Settings, expected: dict[str, Tensor]
) -> dict[str, Tensor]:
    return _learned(pair, prompt, _replay_of(case, layers=case["layers"]), len(expected["mask"]))


def _reverse_replay(
    pair: ModelPair, prompt: EncodedPrompt, case: _Settings, expected: dict[str, Tensor]
) -> dict[str, Tensor]:
    replay = _replay_of(case, layers=case["layers"], direction="reverse")
    return _learned(pair, prompt, replay, len(expected["mask"]))


def _mid_replay(
    pair: ModelPair, prompt: EncodedPrompt, case: _Settings, expected: dict[str, Tensor]
) -> dict[str, Tensor]:
    replay = _replay_of(case, site="mid_tokens", layer=case["layer"])
    return _learned(pair, prompt, replay, len(expected["mask"]))


def _cross_model(
    pair: ModelPair, prompt: EncodedPrompt, case: _Settings, expected: dict[str, Tensor]
) -> dict[str, Tensor]:
    patch = Patch(
        layers=case["layers"],
        threshold="fixed",
        levels=tuple(case["thresholds"]),
        only_where_base_lower=True,
        positions="all",
    )
    prepared = prepare_patch(pair, prompt, patch)
    write = {layer: (lambda h, layer=layer: prepared.apply(layer, h)) for layer in prepared.sites}
    logits = read_logits(pair.rlvr, prompt.model_inputs, write=write)
    return {"mask": prepared.mask, "logits_last": logits[0, -1]}


_KINDS: dict[str, Callable[[ModelPair, EncodedPrompt, _Settings, dict[str, Tensor]], dict[str, Tensor]]] = {
    "lens": lambda *_: {},
    "token_replay": _token_replay,
    "mid_replay": _mid_replay,
    "reverse_replay": _reverse_replay,
    "cross_model": _cross_model,
}
_ABSOLUTE = ("entropy_base", "entropy_rlvr", "kl")


def _deviation(
    folder: Path, quantity: str, expected: dict[str, Tensor], found: Tensor, tolerance: float
) -> Deviation:
    where = f"`folders`: {str(folder / 'expected.safetensors')!r}"
    if quantity not in expected:
        raise InputError(
            f"{where} lacks {quantity!r}, it holds {sorted(expected)}; copy the recorded case again"
        )
    reference, found = expected[quantity], found.cpu()
    if reference.shape != found.shape:
        raise InputError(
            f"{where} holds {quantity!r} of shape {tuple(reference.shape)}, but inputs and models make "
            f"{tuple(found.shape)}; copy the recorded case again"
        )
    if not reference.is_floating_point():
        differ = (reference != found).double()
        return Deviation(folder.name, quantity, differ.sum().item(), differ.mean().item(), not differ.any())
    reference, found = reference.double(), found.double()
    off = (reference - found).abs()
    relative = torch.where(off == 0, 0.0, off / reference.abs())
    bound = tolerance if quantity in _ABSOLUTE else 10 * tolerance * reference.abs().max()
    # Written so that a NaN does not conform.
    return Deviation(
        folder.name, quantity, off.max().item(), relative.max().item(), bool((off <= bound).all())
    )


def _tensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"`folders`: {str(file)!r} is damaged ({error}); copy the recorded case again"
        ) from error
