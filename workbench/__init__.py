"""Replay workbench: what RLVR changes inside a large multimodal model, seen through the logit lens.

    import workbench as wb

    pair = wb.load_pair("shapes")
    problems = wb.load_problems("shapes", split="test", limit=16)
    trace = wb.trace(pair, problems)
    print(wb.stratified_shift(trace).verdict)
    wb.study(pair, problems, out="runs/first")

The main functions: `load_pair` and `load_problems`; `trace`, `stratified_shift` and `explore` (what shifted, and where);
`learn_tokens`, `prepare_patch` and `decode` (pull it back, and answer); `ablate`, `perturb` and `attribute` (does it matter,
and what writes it); `study` (all of it, with a report).

The code lies in rooms, each with a guide:

| room | what it is for |
|---|---|
| `workbench.problems` | questions, pictures, movies, the paper's sets, verified answers |
| `workbench.models` | pairs: families, presets, your checkpoints, devices |
| `workbench.lens` | the mathematics of the logit lens, on tensors alone |
| `workbench.tracing` | both models at every layer; tokens followed; readings: tuned lens, LatentLens |
| `workbench.analysis` | shift, nulls, entropy or a proxy of it, weight changes |
| `workbench.replay` | learnt tokens, patches, adapters that predict tokens |
| `workbench.decoding` | many samples from one prefill; two models together; vLLM |
| `workbench.attribution` | which heads and MLPs write the shift |
| `workbench.experiments` | ablation, perturbation, RL checkpoints, a visual agent |
| `workbench.studies` | the report, the explorer, every figure and table of the paper |
| `workbench.live` | the live bench: select cells, act, see the answer change |
| `workbench.sweeps` | grids from a YAML file that survive any kill; Ray, Slurm |
| `workbench.machine` | doctor, memory forecasts, numerics against the released code |
| `workbench.interfaces` | the command line; lmms-eval and VLMEvalKit |
| `workbench.organism` | how the bundled pair was made |
| `workbench.views` | what is drawn: figures, tables, pages |

Settings of interventions are values in `workbench.interventions`, intervals come from `workbench.estimates`, bad input raises
`InputError`. A *cell* is one layer at one position of a prompt; entropy and KL are in nats.

Every public name is imported on first use, so that ``import workbench`` stays instant.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any


def lazy_names(
    package: str, homes: Mapping[str, str], modules: Mapping[str, str] = MappingProxyType({})
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package that imports its names on first use.

    Args:
        package: ``__name__`` of the package.
        homes: a name and the module, below the package, that defines it.
        modules: a name and the module, below the package, that it stands for.
    """

    def getattribute(name: str) -> Any:
        if name in homes:
            return getattr(import_module(f"{package}.{homes[name]}"), name)
        if name in modules:
            return import_module(f"{package}.{modules[name]}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return getattribute, lambda: sorted(import_module(package).__all__)


__version__ = "0.1.0"

_HOME = {
    "InputError": "errors",
    "Problem": "problems.problem",
    "load_problems": "problems.problem",
    "sample_frames": "problems.video",
    "EncodedPrompt": "models.prompts",
    "TokenKind": "models.prompts",
    "ModelPair": "models.pairs",
    "load_pair": "models.loading",
    "PairPreset": "models.presets",
    "LensHead": "lens.heads",
    "LensStats": "lens.fused",
    "LensTrace": "tracing.lens_trace",
    "trace": "tracing.trace",
    "Followed": "tracing.follow",
    "follow": "tracing.follow",
    "Explorer": "studies.explore",
    "explore": "studies.explore",
    "Bench": "live.session",
    "bench": "live.bench",
    "Mask": "live.mask",
    "Replay": "interventions",
    "LearnedTokens": "replay.learned_tokens",
    "learn_tokens": "replay.replay",
    "learn_many": "replay.replay",
    "prepare": "replay.prepared",
    "learn_problems": "replay.from_checkpoints",
    "Adapter": "replay.adapters",
    "load_adapter": "replay.adapters",
    "train_adapter": "replay.adapter_training",
    "predict_tokens": "replay.amortised",
    "Patch": "interventions",
    "Scale": "replay.cell_edits",
    "Overwrite": "replay.cell_edits",
    "Remove": "replay.cell_edits",
    "prepare_patch": "replay.patching",
    "CrossSample": "mixtures",
    "Extrapolate": "mixtures",
    "record": "replay.patching",
    "decode": "decoding.decode",
    "decode_many": "decoding.decode",
    "export_visual_embeddings": "decoding.vllm_engine",
    "VllmEngine": "decoding.vllm_engine",
    "ablate": "experiments.ablation",
    "Ablation": "experiments.ablation",
    "divergence": "experiments.divergence",
    "Divergence": "experiments.divergence",
    "causes": "experiments.causes",
    "Cause": "experiments.causes",
    "Causes": "experiments.causes",
    "try_replay": "experiments.try_replay",
    "Attempt": "experiments.try_replay",
    "run_agent": "experiments.agent",
    "ZoomTool": "problems.zoom",
    "Transcript": "experiments.transcript",
    "VLMEvalKitModel": "interfaces.vlmevalkit",
    "default_matrix": "interventions",
    "perturb": "experiments.perturbation",
    "Perturbation": "experiments.perturbation",
    "Disturbance": "replay.disturbances",
    "ShiftTable": "analysis.shift",
    "stratified_shift": "analysis.shift",
    "top_prediction_shift": "analysis.shift",
    "study": "studies.study",
    "compare": "studies.compare",
    "Comparison": "studies.compare",
    "run_sweep": "sweeps.driver",
    "resume_sweep": "sweeps.driver",
    "export_sweep": "sweeps.export",
    "conform": "machine.conform",
    "doctor": "machine.doctor",
    "predict_memory": "machine.memory",
    "MemoryBackoff": "backoff",
    "null_pair": "analysis.null_models",
    "weight_nulls": "analysis.weight_nulls",
    "NullShift": "analysis.weight_nulls",
    "change_nulls": "analysis.change_nulls",
    "ChangeNulls": "analysis.change_nulls",
    "attribute": "attribution.attribute",
    "Attribution": "attribution.attribute",
    "contributions": "attribution.attribute",
    "Cells": "attribution.one_prompt",
    "follow_training": "experiments.emergence",
    "Emergence": "experiments.emergence",
    "checkpoints_of": "models.bundled",
    "controls_of": "models.bundled",
    "compare_weights": "analysis.weight_changes",
    "WeightChanges": "analysis.weight_changes",
    "Translators": "tracing.tuned_lens",
    "fit_translators": "tracing.tuned_lens",
    "lens_fidelity": "tracing.fidelity",
    "reading_fidelity": "tracing.fidelity",
    "neighbour_fidelity": "tracing.fidelity",
    "cell_names": "analysis.cell_names",
    "neighbour_shift": "analysis.neighbour_shift",
    "NeighbourShift": "analysis.neighbour_shift",
    "LogitLens": "tracing.readings",
    "TunedLens": "tracing.readings",
    "LatentLens": "tracing.latent_lens",
    "Neighbours": "tracing.neighbours",
    "read_neighbours": "tracing.neighbours",
    "cell_table": "analysis.cell_table",
    "stratified_by": "analysis.covariates",
    "rank_correlations": "analysis.covariates",
}
_MODULES = {
    "anatomy": "models.anatomy",
    "estimates": "estimates",
    "figures": "views.shift_figures",
    "lens": "lens",
    "report": "studies.report",
    "shapes": "problems.shapes",
    "strata": "lens.strata",
    "tracing": "tracing",
}

__all__ = ["__version__", *_HOME, *_MODULES]  # noqa: PLE0604  (lazy names)


__getattr__, __dir__ = lazy_names(__name__, _HOME, _MODULES)
