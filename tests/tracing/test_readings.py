"""Readings: identity is the logit lens, published translators do what their card says, and none reads another model."""

import json
import pickle
from dataclasses import replace

import pandas as pd
import pytest
import tiny
import torch
from safetensors.torch import save_file

import workbench as wb
from workbench.errors import InputError
from workbench.tracing.fidelity import reading_fidelity
from workbench.tracing.lens_trace import AXES
from workbench.tracing.readings import LogitLens, TunedLens
from workbench.tracing.tuned_lens import Translators

FAMILY = "qwen2_5_vl"
LAYERS, WIDTH = tiny.LAYERS, tiny.HIDDEN


@pytest.fixture(scope="module")
def problem():
    return tiny.problem(FAMILY)


def random_translators(seed: int, **provenance) -> Translators:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(LAYERS, WIDTH, WIDTH, generator=generator) * 0.3 / WIDTH**0.5
    return Translators(weight, torch.randn(LAYERS, WIDTH, generator=generator) * 0.1, provenance=provenance)


def stage_files(ending: str) -> dict[str, dict]:
    """Stages of a tiny checkpoint as the model card of DivyG007/vlm-mcqa lays them out."""
    generator = torch.Generator().manual_seed(5)
    names = {}
    for stage in range(LAYERS):
        linear = {
            "weight": torch.randn(WIDTH, WIDTH, generator=generator) * 0.05,
            "bias": torch.randn(WIDTH, generator=generator) * 0.1,
        }
        names[f"translator_stage_{stage:02d}.{ending}"] = linear
    return names


def write_stages(folder, ending: str = "pt") -> dict[str, dict]:
    (folder / "translators").mkdir(parents=True)
    states = stage_files(ending)
    for name, state in states.items():
        if ending == "pt":
            torch.save(
                {"state": state, "summary": {"kl": 0.1, "history": [1.0]}}, folder / "translators" / name
            )
        else:
            save_file(state, folder / "translators" / name)
    return states


def test_identity_translators_are_the_logit_lens_bit_for_bit(tiny_pair, problem):
    plain = wb.trace(tiny_pair, [problem], top_k=4, null_draws=2)
    identity = TunedLens(Translators.identity(LAYERS, WIDTH), Translators.identity(LAYERS, WIDTH))
    tuned = wb.trace(tiny_pair, [problem], top_k=4, null_draws=2, reading=identity)
    assert all(torch.equal(getattr(plain, name), getattr(tuned, name)) for name in AXES)
    assert (plain.reading, tuned.reading) == ("logit lens", "tuned lens")
    same = wb.trace(tiny_pair, [problem], top_k=4, null_draws=2, reading=LogitLens())
    assert same.provenance == plain.provenance


def naive(pair, problem, base: Translators, rlvr: Translators) -> tuple[torch.Tensor, ...]:
    """Entropy of the base and KL by hand, from transformers' own hidden states; without the last layer, which these norm."""
    logs = []
    for anatomy, translators in ((pair.base, base), (pair.rlvr, rlvr)):
        states = anatomy.model(**pair.encode(problem).model_inputs, output_hidden_states=True).hidden_states
        rows = []
        for layer in range(LAYERS - 1):
            hidden = states[layer + 1][0].double()
            moved = hidden + hidden @ translators.weight[layer].double().T + translators.bias[layer].double()
            normed = anatomy.norm(moved.float())
            rows.append((normed @ anatomy.unembedding.weight.T).double().log_softmax(-1))
        logs.append(torch.stack(rows))
    entropy = -(logs[0].exp() * logs[0]).sum(-1)
    return entropy, (logs[0].exp() * (logs[0] - logs[1])).sum(-1)


@pytest.mark.parametrize("own", [False, True])
def test_a_trace_reads_each_model_through_its_translators(tiny_pair, problem, own):
    base, rlvr = random_translators(1), random_translators(2)
    reading = TunedLens(base, rlvr if own else None)
    traced = wb.trace(tiny_pair, [problem], top_k=3, null_draws=1, reading=reading)
    entropy, kl = naive(tiny_pair, problem, base, rlvr if own else base)
    torch.testing.assert_close(traced.entropy_base[:-1], entropy.float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(traced.kl[:-1], kl.float(), rtol=1e-3, atol=1e-5)
    plain = wb.trace(tiny_pair, [problem], top_k=3, null_draws=1)
    for name in ("cosine", "shift_norm", "base_norm"):
        assert torch.equal(getattr(traced, name), getattr(plain, name))
    assert traced.provenance["reading"]["rlvr"] == (rlvr.digest if own else None)


def test_followed_tokens_are_read_alike(tiny_pair, problem):
    reading = TunedLens(random_translators(1))
    traced = wb.trace(tiny_pair, [problem], top_k=3, null_draws=0, reading=reading)
    curves = wb.follow(tiny_pair, [problem], traced, tokens=3, reading=reading)
    first = traced.top_ids_base[1, :, 0]
    at = (curves.ids == first[:, None]).float().argmax(1)
    found = curves.log_probs_base[1].gather(1, at[:, None])[:, 0].exp()
    here = (curves.ids == first[:, None]).any(1)
    torch.testing.assert_close(found[here], traced.top_probs_base[1, here, 0])
    with pytest.raises(InputError, match="the trace was read by"):
        wb.follow(tiny_pair, [problem], traced, tokens=3)
    page = wb.explore(tiny_pair, [problem], top_k=3, followed=2, reading=reading, max_new_tokens=0)
    assert page.html().count("tuned lens")


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_published_stages_are_applied_as_their_card_says(tiny_pair, problem, tmp_path, ending):
    """h + W h + b at the state that enters layer XX, then the model's own norm and unembedding."""
    states = write_stages(tmp_path, ending)
    lens = TunedLens.load(tmp_path)
    lens.check(tiny_pair)
    hidden_states = tiny_pair.base.model(
        **tiny_pair.encode(problem).model_inputs, output_hidden_states=True
    ).hidden_states
    for name, state in states.items():
        stage = int(name[17:19])
        if stage == 0:
            continue  # the embedding is no layer's output
        linear = torch.nn.Linear(WIDTH, WIDTH)
        linear.load_state_dict(state)
        hidden = hidden_states[stage][0]
        expected = tiny_pair.base.unembedding(tiny_pair.base.norm(hidden + linear(hidden)))
        view = lens.view("base", stage - 1, hidden)
        actual = tiny_pair.base.unembedding(tiny_pair.base.norm(view))
        assert (actual - expected).abs().max() <= 1e-6
    last = torch.randn(3, WIDTH)
    assert torch.equal(lens.view("base", LAYERS - 1, last), last)
    assert lens.base.provenance["stages"] == LAYERS


def test_the_layout_of_the_tuned_lens_package(tmp_path):
    states = {int(name[17:19]): state for name, state in stage_files("pt").items()}
    flat = {f"{stage}.{part}": value for stage, state in states.items() for part, value in state.items()}
    torch.save(flat, tmp_path / "params.pt")
    lens = TunedLens.load(tmp_path)
    assert torch.equal(lens.base.weight[0], states[1]["weight"])
    assert torch.equal(lens.base.bias[1], states[2]["bias"])
    assert not lens.base.weight[2].any()


class Trap:
    """What runs when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("a file ran code",)


def test_a_file_with_code_in_it_is_refused_before_it_runs(tmp_path):
    write_stages(tmp_path)
    file = tmp_path / "translators" / "translator_stage_01.pt"
    torch.save({"state": {"weight": Trap(), "bias": torch.zeros(WIDTH)}}, file)
    with pytest.raises(
        InputError, match=r"translator_stage_01.pt holds more than tensors.*weights_only=True"
    ):
        TunedLens.load(tmp_path)
    file.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(InputError, match=r"translator_stage_01.pt"):
        TunedLens.load(tmp_path)


def test_damaged_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match="holds no translators"):
        TunedLens.load(tmp_path)
    write_stages(tmp_path)
    home = tmp_path / "translators"
    (home / "translator_stage_01.pt").rename(home / "kept")
    with pytest.raises(InputError, match="lacks stage 1"):
        TunedLens.load(tmp_path)
    wrong = {"weight": torch.zeros(WIDTH, WIDTH + 1), "bias": torch.zeros(WIDTH)}
    torch.save({"state": wrong}, home / "translator_stage_01.pt")
    with pytest.raises(InputError, match=r"stage 1 has a weight \(32, 33\)"):
        TunedLens.load(tmp_path)
    torch.save({"state": {"weight": torch.zeros(2)}}, home / "translator_stage_01.pt")
    with pytest.raises(InputError, match=r"holds \['weight'\]; expected"):
        TunedLens.load(tmp_path)
    torch.save([torch.zeros(2)], home / "translator_stage_01.pt")
    with pytest.raises(InputError, match="holds a list"):
        TunedLens.load(tmp_path)
    (home / "translator_stage_01.pt").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"translator_stage_01.pt"):
        TunedLens.load(tmp_path)


ZEROS = {"weight": torch.zeros(WIDTH, WIDTH), "bias": torch.zeros(WIDTH)}
BAD_PARTS = {
    r"weight that is float32 \(\)": {"weight": torch.zeros(())},
    r"bias that is float32 \(32,\), sparse_coo": {"bias": torch.zeros(WIDTH).to_sparse()},
    r"bias that is complex64": {"bias": torch.zeros(WIDTH, dtype=torch.complex64)},
    r"bias that is int64": {"bias": torch.zeros(WIDTH).long()},
}


@pytest.mark.parametrize("message", BAD_PARTS)
@pytest.mark.parametrize("layout", ["params.pt", "stages"])
def test_tensors_of_other_kinds_are_refused_by_the_file_s_name(tmp_path, layout, message):
    part = ZEROS | BAD_PARTS[message]
    if layout == "stages":
        write_stages(tmp_path)
        torch.save({"state": part}, tmp_path / "translators" / "translator_stage_02.pt")
        named = r"translator_stage_02\.pt"
    else:
        torch.save({f"{stage}.{k}": v for stage in range(3) for k, v in part.items()}, tmp_path / "params.pt")
        named = r"params\.pt"
    with pytest.raises(InputError, match=f"{named} has .*{message}"):
        TunedLens.load(tmp_path)


@pytest.mark.parametrize("strange", [0, "²x", "0x.weight", None, (1, 2)])
def test_entries_numbered_in_another_way_are_refused(tmp_path, strange):
    torch.save({strange: torch.zeros(2)}, tmp_path / "params.pt")
    with pytest.raises(
        InputError, match=r"params\.pt holds \[.*\]; expected tensors by the names '0.weight'"
    ):
        TunedLens.load(tmp_path)
    whole = {f"{stage}.{k}": v for stage in range(3) for k, v in ZEROS.items()}
    torch.save(whole | {strange: torch.zeros(2)}, tmp_path / "params.pt")
    with pytest.raises(InputError, match=r"params\.pt holds"):
        TunedLens.load(tmp_path)
    torch.save(whole | {"extra": 1}, tmp_path / "params.pt")
    assert TunedLens.load(tmp_path).base.provenance["stages"] == 3


def test_text_in_the_place_of_tensors_is_refused(tmp_path):
    (tmp_path / "params.pt").write_text("hello")
    with pytest.raises(InputError, match=r"params\.pt can't be read \(KeyError"):
        TunedLens.load(tmp_path)


@pytest.mark.parametrize("held", ["x", None, [1], {"base": "x"}, {"rlvr": None}])
def test_a_provenance_that_says_nothing_readable_is_refused(tmp_path, held):
    random_translators(1).save(tmp_path)
    file = tmp_path / "translators.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"provenance": held}))
    with pytest.raises(InputError, match=r"translators\.json' has the provenance"):
        TunedLens.load(tmp_path)
    with pytest.raises(InputError, match="`rlvr` has the provenance"):
        TunedLens(random_translators(1), replace(random_translators(2), provenance=held))


def test_what_is_no_translators_is_refused():
    with pytest.raises(InputError, match="`base` is a TunedLens, expected Translators"):
        TunedLens(TunedLens(random_translators(1)))
    with pytest.raises(InputError, match="`base` is a NoneType"):
        TunedLens(None)


def test_both_models_translators_come_back(tmp_path):
    both = TunedLens(random_translators(1), random_translators(2))
    again = TunedLens.load(both.save(tmp_path / "lens"))
    assert again.described == both.described
    one = TunedLens.load(TunedLens(random_translators(1)).save(tmp_path / "one"))
    assert one.rlvr is None
    own = TunedLens.load(tmp_path / "one", rlvr=tmp_path / "lens" / "rlvr")
    assert own.described == both.described


def test_translators_of_another_model_are_refused(tiny_pair, problem):
    def trace(reading):
        return wb.trace(tiny_pair, [problem], reading=reading)

    with pytest.raises(InputError, match="`reading`: translators of base have 3 layers of width 8"):
        trace(TunedLens(Translators.identity(LAYERS, 8)))
    with pytest.raises(InputError, match="`reading`: translators of base have 2 layers"):
        trace(TunedLens(Translators.identity(LAYERS - 1, WIDTH)))
    theirs = random_translators(1, base={"weights": "of another"})
    with pytest.raises(InputError, match="`reading`: translators of base were fitted on weights of another"):
        trace(TunedLens(theirs))
    base = replace(theirs, provenance={"base": tiny_pair.provenance["base"]})
    trace(TunedLens(base))
    with pytest.raises(InputError, match="`reading`: translators of rlvr were fitted on weights"):
        trace(
            TunedLens(base, random_translators(2, rlvr={"weights": tiny_pair.provenance["base"]["weights"]}))
        )
    with pytest.raises(InputError, match="of one shape"):
        TunedLens(base, Translators.identity(2, WIDTH))
    with pytest.raises(InputError, match="`reading` is a str, expected one that gives a distribution"):
        trace("tuned lens")
    with pytest.raises(InputError, match="`reading` is the class TunedLens, expected one that gives"):
        trace(TunedLens)
    with pytest.raises(InputError, match="`reading` is the class LogitLens"):
        wb.weight_nulls(tiny_pair, [problem], kinds=["gaussian"], draws=1, reading=LogitLens)


def test_each_model_is_read_by_what_was_fitted_on_it(tiny_pair, tmp_path):
    own = {model: {"weights": tiny_pair.provenance[model]["weights"]} for model in ("base", "rlvr")}
    base, rlvr = (random_translators(1, **{model: own[model]}) for model in own)
    foreign = random_translators(1, pair="other", rlvr={"weights": "theirs"})
    for kept in (TunedLens(base), TunedLens(base, rlvr), TunedLens(random_translators(1))):
        kept.check(tiny_pair)
    refused = {
        "base were fitted on weights theirs, of the rlvr model of 'other'": TunedLens(foreign),
        "rlvr were fitted on weights theirs": TunedLens(base, foreign),
        "base were fitted on .* of the rlvr model": TunedLens(rlvr),
        "base were fitted on .*, of the rlvr model": TunedLens(rlvr, base),
        "rlvr were fitted on .*, of the base model": TunedLens(base, base),
    }
    for number, (message, reading) in enumerate(refused.items()):
        for some in (reading, TunedLens.load(reading.save(tmp_path / str(number)))):
            with pytest.raises(InputError, match=f"`reading`: translators of {message}"):
                some.check(tiny_pair)


@pytest.fixture(scope="module")
def bundled():
    return wb.load_pair("shapes")


@pytest.fixture(scope="module")
def fitted(bundled):
    train, held = (
        wb.load_problems("shapes", split=s, limit=n) for s, n in (("train", 24), ("validation", 8))
    )
    return TunedLens.fit(bundled, train, held, own=True, epochs=3, batch_positions=128)


def test_a_fit_of_both_models_is_more_faithful_than_the_logit_lens(bundled, fitted):
    told, both = [], [LogitLens(), fitted]
    some = wb.load_problems("shapes", limit=12)
    table = reading_fidelity(bundled, some, both, progress=lambda *counts: told.append(counts))
    assert told == [(done, 2 * 2 * 8) for done in range(2 * 2 * 8 + 1)]
    by = table.set_index(["model", "reading", "layer"])["kl"].unstack("reading")
    assert (by["tuned lens"] < by["logit lens"]).drop(index=7, level="layer").all()
    last = table.loc[table["layer"] == 7]
    assert (last["kl"] == 0).all()
    assert (last["top1"] == 1).all()
    assert set(fitted.rlvr.provenance) >= {"rlvr", "train"}
    with pytest.raises(InputError, match="each of another name"):
        reading_fidelity(bundled, wb.load_problems("shapes", limit=1), [fitted, fitted])


def test_shift_claims_and_nulls_say_what_they_were_read_through(bundled, fitted, tmp_path):
    problems = wb.load_problems("shapes", limit=4)
    shared = TunedLens(fitted.base)
    traced = wb.trace(bundled, problems, null_draws=1, reading=shared)
    shift = wb.stratified_shift(traced, resamples=20)
    assert shift.verdict.endswith(", tuned lens.")
    assert all(claim.measured.endswith(", tuned lens") for claim in shift.verdicts)
    again = type(traced).load(traced.save(tmp_path / "trace"))
    assert again.reading == "tuned lens"
    nulls = wb.weight_nulls(
        bundled, problems, kinds=["gaussian"], draws=1, traced=traced, reading=shared, resamples=20
    )
    assert len(nulls.table)
    with pytest.raises(InputError, match="the trace was read by"):
        wb.weight_nulls(bundled, problems, kinds=["gaussian"], draws=1, traced=traced)
    with pytest.raises(InputError, match="which null models and controls have not"):
        wb.weight_nulls(bundled, problems, kinds=["gaussian"], draws=1, reading=fitted)
    with pytest.raises(InputError, match="which null models and controls have not"):
        wb.study(bundled, problems, tmp_path / "run", null_models=1, reading=fitted)


def test_nulls_of_changes_are_read_alike(bundled, fitted):
    problems = wb.load_problems("shapes", limit=3)
    plain, tuned = (
        wb.change_nulls(bundled, problems, draws=1, resamples=20, reading=some) for some in (None, fitted)
    )
    assert tuned.verdict.endswith(", tuned lens.")
    assert "tuned lens" not in plain.verdict
    identity = TunedLens(Translators.identity(8, 160))
    same = wb.change_nulls(bundled, problems, draws=1, resamples=20, reading=identity)
    pd.testing.assert_frame_equal(same.table, plain.table)
    with pytest.raises(InputError, match="which null models and controls have not"):
        wb.change_nulls(bundled, problems, others={"x": bundled}, reading=fitted)


def test_a_study_is_read_through_one(bundled, fitted, tmp_path):
    problems = wb.load_problems("shapes", limit=3)
    run = wb.study(
        bundled, problems, tmp_path / "run", reading=TunedLens(fitted.base), resamples=20, null_draws=1
    )
    assert run.trace.reading == "tuned lens"
    assert all("tuned lens" in claim.measured for claim in run.claims)
    assert not run.skipped
    assert "tuned lens" in run.report.read_text()
