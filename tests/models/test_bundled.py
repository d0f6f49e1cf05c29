"""The pair that ships: whole, small enough, loadable like any checkpoint, and able to answer in its format."""

import hashlib

import pandas as pd
import pytest
import torch

from workbench import decode_many, load_pair, load_problems, stratified_shift, trace
from workbench.models.presets import pair_preset
from workbench.models.weight_deltas import read_delta
from workbench.organism.recipes import WEIGHTS
from workbench.problems import answers


@pytest.fixture(scope="module")
def pair():
    return load_pair("shapes", device="cpu")


def megabytes(paths) -> float:
    return sum(p.stat().st_size for p in paths) / 1e6


def test_files_are_as_listed_and_small():
    listed = dict(reversed(line.split()) for line in (WEIGHTS / "SHA256SUMS").read_text().splitlines())
    assert set(listed) == {p.relative_to(WEIGHTS).as_posix() for p in WEIGHTS.rglob("*.safetensors")}
    for name, digest in listed.items():
        assert hashlib.sha256((WEIGHTS / name).read_bytes()).hexdigest() == digest
    assert megabytes(WEIGHTS / m / "model.safetensors" for m in ("base", "rlvr")) < 25
    deltas = list((WEIGHTS / "deltas").glob("*.safetensors"))
    assert len([key for key in pair_preset("shapes").changes if isinstance(key, int)]) >= 6
    assert megabytes([*deltas, *(WEIGHTS / "control").glob("*.safetensors")]) < 30


def test_deltas_lead_from_the_base_to_the_rlvr_model(pair):
    """Ever closer in direction up to the step that was kept, which validated best; later ones lead on from there."""
    curves = pd.read_csv(WEIGHTS / "curves.csv")
    validation = curves[(curves["stage"] == "validation") & (curves["step"] > 0)]
    kept = validation.groupby("step")["value"].sum().idxmax()
    base, rlvr = pair.base.model.state_dict(), pair.rlvr.model.state_dict()
    change = {name: rlvr[name] - tensor for name, tensor in base.items()}
    cosines = {}
    for path in sorted((WEIGHTS / "deltas").glob("*.safetensors")):
        delta = read_delta(path)
        assert delta.keys() == base.keys()
        dot = sum((delta[n].float() * change[n]).sum() for n in base)
        norms = [torch.sqrt(sum(d.float().pow(2).sum() for d in c.values())) for c in (delta, change)]
        cosines[int(path.stem)] = float(dot / (norms[0] * norms[1]))
    before = [cosine for step, cosine in cosines.items() if step <= kept]
    assert len(before) >= 3
    assert before == sorted(before)
    assert before[-1] > 0.8
    assert min(cosine for step, cosine in cosines.items() if step > kept / 2) > 0.5


def test_the_last_step_is_the_rlvr_model(pair):
    last = load_pair("shapes", checkpoint=125, device="cpu")
    assert last.provenance["rlvr"]["weights"] == pair.provenance["rlvr"]["weights"]
    assert last.provenance["checkpoint"] == 125


@pytest.mark.parametrize("checkpoint", [100, "sft", "random"])
def test_a_checkpoint_can_play_the_rlvr_model(pair, checkpoint):
    other = load_pair("shapes", checkpoint=checkpoint, device="cpu")
    home = "deltas/0100" if checkpoint == 100 else f"control/{checkpoint}"
    delta = read_delta(WEIGHTS / f"{home}.safetensors")
    base, found = other.base.model.state_dict(), other.rlvr.model.state_dict()
    assert all(torch.equal(base[name], tensor) for name, tensor in pair.base.model.state_dict().items())
    assert all(torch.equal(found[name], base[name] + change.float()) for name, change in delta.items())
    assert other.provenance["rlvr"]["weights"] != other.provenance["base"]["weights"]
    assert other.provenance["base"] == pair.provenance["base"]


def test_the_control_has_learnt_no_more_than_the_base(pair):
    """Of RLVR's gain in accuracy, as many steps of SFT give nothing: what RL did is not any further training."""
    problems = load_problems("shapes", split="validation", limit=60)
    right = {}
    for name, tried in (("base", pair), ("sft", load_pair("shapes", checkpoint="sft", device="cpu"))):
        model = "base" if name == "base" else "rlvr"
        said = decode_many(
            tried, [tried.encode(p) for p in problems], model=model, max_new_tokens=64, batch_size=30
        )
        right[name] = sum(
            answers.verify(r[0].text, p.answer or "").correct for r, p in zip(said, problems, strict=True)
        )
    assert abs(right["sft"] - right["base"]) <= 6


def test_both_models_answer_in_their_format(pair):
    problems = load_problems("shapes", limit=20)
    for model in ("base", "rlvr"):
        responses = decode_many(pair, [pair.encode(p) for p in problems], model=model, max_new_tokens=64)
        assert sum(answers.extract(r.text)[0] is not None for rs in responses for r in rs) >= 19


def test_the_pair_sees(pair):
    """Where a question is answered by looking, far above the best constant answer, which is about a fifth."""
    problems = [p for p in load_problems("shapes", limit=250) if p.family in ("lookup", "compare")]
    responses = decode_many(pair, [pair.encode(p) for p in problems], model="base", max_new_tokens=64)
    right = [
        answers.verify(rs[0].text, p.answer or "").correct for rs, p in zip(responses, problems, strict=True)
    ]
    assert sum(right) / len(right) > 0.45


def test_tracing_it_finds_a_shift(pair):
    table = stratified_shift(
        trace(pair, load_problems("shapes", limit=4), null_draws=1), bins=2, resamples=20
    )
    assert (table.table["kl"] > 0).all()
    assert "claim" in table.verdict
