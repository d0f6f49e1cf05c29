"""A cell's numbers: those of `ablate`, whatever was computed before it, with what is shared computed once."""

import json
import random

import pytest
import tiny

from workbench.cache import Reuse, bytes_of
from workbench.experiments import run_condition
from workbench.experiments.ablation import ablate
from workbench.experiments.drift import Reference
from workbench.models.loading import load_pair
from workbench.models.prompts import TokenKind
from workbench.problems.problem import load_problems
from workbench.replay import prepared
from workbench.sweeps import costs
from workbench.sweeps.cells import plan_cells
from workbench.sweeps.spec import PairSource
from workbench.sweeps.worker import COLUMNS, Bench, Job


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A tiny pair and two problems on disk."""
    pair, home = tiny.pair("qwen2_5_vl"), tmp_path_factory.mktemp("sweep")
    for name, anatomy in (("base", pair.base), ("rlvr", pair.rlvr)):
        anatomy.model.save_pretrained(home / name)
    pair.processor.save_pretrained(home / "base")
    lines = []
    for i in range(2):
        tiny.image(seed=i).save(home / f"{i}.png")
        lines.append(json.dumps({"id": f"q{i}", "question": "How many?", "answer": "3", "image": f"{i}.png"}))
    (home / "mine.jsonl").write_text("\n".join(lines))
    return home


@pytest.fixture(scope="module")
def job(home) -> Job:
    text = f"""
pairs: [{{base: {home}/base, rlvr: {home}/rlvr}}]
problems: [{home}/mine.jsonl]
interventions:
  t: {{replay: {{tau: [0.3, 0.5], alpha: [100, 500], threshold: quantile, layers: 2, iterations: 2}}}}
  r: {{replay: {{direction: [reverse, self], select: all, layers: 2, iterations: 1}}}}
  p: {{patch: {{layers: 2, select: [low, random], threshold: quantile}}}}
  z: {{own: {{of: "zeroed:Zeroed", layer: [0, 1]}}}}
  none: {{replay: {{tau: 0.0001, threshold: quantile, layers: 2}}}}
samples: 2
max_new_tokens: 3
seeds: [0, 1]
device: cpu
"""
    return Job(text, "cpu", 10**9, 1)


@pytest.fixture(scope="module")
def found(job):
    """Every cell with its outcome, in order, with everything kept."""
    bench = Bench(job)
    cells = plan_cells(bench.sweep, "cpu")
    return cells, {cell.key: bench.run(cell) for cell in cells}, bench


def test_a_cell_is_what_ablate_finds(home, found):
    cells, outcomes, bench = found
    pair = bench._loaded["pair"][1][0]
    conditions = bench.sweep.conditions(bench.sweep.pairs[0], pair.depth)
    name = "t tau=0.5 alpha=100.0"
    settings = {"samples": 2, "max_new_tokens": 3, "seed": 1, "batch_size": 1, "resamples": 20}
    own = ablate(pair, load_problems(str(home / "mine.jsonl")), {name: conditions[name]}, **settings)
    (cell,) = [c for c in cells if (c.intervention, c.seed, c.problem) == (name, 1, "mine/q1")]
    rows = own.responses[(own.responses["intervention"] == name) & (own.responses["problem"] == "mine/q1")]
    result = outcomes[cell.key].result
    assert result["responses"] == rows[list(COLUMNS["responses"])].to_numpy().tolist()


def test_neither_order_nor_the_cache_changes_a_cell(job, found):
    cells, outcomes, _ = found
    bench = Bench(Job(job.text, "cpu", 0, 1))
    for cell in random.Random(0).sample(cells, 10):
        assert json.dumps(bench.run(cell).result) == json.dumps(outcomes[cell.key].result)


def test_a_condition_of_ones_own_is_a_cell_like_any_other(found):
    cells, outcomes, _ = found
    own = [outcomes[cell.key] for cell in cells if cell.intervention.startswith("z layer=")]
    assert len(own) == 8  # two layers, problems and seeds
    for outcome in own:
        assert not outcome.reason
        assert any(row[2] != row[3] for row in outcome.result["drift"])  # before, and with it


def test_what_fails_is_told_and_the_rest_is_done(found):
    cells, outcomes, _ = found
    for cell in cells:
        reason = outcomes[cell.key].reason
        assert ("selects no visual position" in reason) == (cell.intervention == "none"), reason


def test_base_targets_are_taken_once_for_a_problem(job, monkeypatch):
    calls = {"aims": 0, "reference": 0, "readings": 0}
    take, read, of = prepared.aims_of, prepared.Readings.of, Reference.of

    def counted(name, make):
        def call(*args, **kwargs):
            calls[name] += 1
            return make(*args, **kwargs)

        return call

    monkeypatch.setattr(prepared, "aims_of", counted("aims", take))
    monkeypatch.setattr(prepared.Readings, "of", counted("readings", read))
    monkeypatch.setattr(run_condition.Reference, "of", counted("reference", of))
    bench = Bench(job)
    for cell in plan_cells(bench.sweep, "cpu"):
        if cell.problem == "mine/q0" and cell.intervention != "none":
            assert bench.run(cell).result is not None
    assert calls == {"aims": 2, "reference": 2, "readings": 1}  # two directions; one depth of patches


def test_files_that_changed_since_the_plan_are_refused(home, job, found):
    cells, _, _ = found
    file = home / "rlvr" / "generation_config.json"
    before = file.read_bytes()
    try:
        file.write_bytes(before + b"\n")
        outcome = Bench(job).run(cells[0])
        assert "are not those of the plan" in outcome.reason
        assert outcome.stale
    finally:
        file.write_bytes(before)


def test_a_pair_that_cannot_be_loaded_fails_its_cells(home, job, found):
    cells, _, _ = found
    file = home / "base" / "model.safetensors"
    before = file.read_bytes()
    try:
        file.write_bytes(before[:-100])
        bench = Bench(job)
        reasons = {bench.run(cell).reason for cell in cells[:3]}
        assert len(reasons) == 1
        assert "base" in reasons.pop()
    finally:
        file.write_bytes(before)


def test_reuse_drops_what_was_not_used_for_longest():
    import torch

    reuse = Reuse(limit=40 * 4)
    for name in ("a", "b"):
        reuse.of(name, lambda: torch.zeros(20))
    reuse.of("a", lambda: pytest.fail("made again"))
    reuse.of("c", lambda: {"x": [torch.zeros(20)]})
    assert (reuse.found, reuse.made, reuse.held) == (1, 3, 160)
    reuse.of("a", lambda: pytest.fail("made again"))
    made = []
    reuse.of("b", lambda: made.append(1) or torch.zeros(20))
    assert made == [1]
    reuse.of("large", lambda: torch.zeros(1000))
    assert reuse.held <= 160
    assert bytes_of((torch.zeros(2, dtype=torch.float64), "text", None)) == 16


@pytest.mark.parametrize("source", ["shapes", "shapes-video", "shapes-agent", "easy-vqa"])
def test_a_plan_counts_the_visual_tokens_that_prompts_have(source):
    pair, problems = load_pair("shapes"), load_problems(source, limit=3)
    true = [int((pair.encode(problem).kinds == TokenKind.VISUAL).sum()) for problem in problems]
    assert costs._visual(PairSource(name="shapes"), problems) == sum(true) / 3
