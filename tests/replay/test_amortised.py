"""Amortised replay: an untrained adapter changes nothing, training pays on other prompts, interruptions lose nothing."""

import json
from dataclasses import replace

import pytest
import tiny
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from workbench.decoding.decode import decode
from workbench.decoding.vllm_engine import export_visual_embeddings
from workbench.errors import InputError
from workbench.experiments.ablation import ablate
from workbench.experiments.agent import run_agent
from workbench.interventions import Replay
from workbench.models.loading import load_pair
from workbench.models.pairs import weights_of
from workbench.models.prompts import TokenKind
from workbench.problems.problem import load_problems
from workbench.replay import adapter_training
from workbench.replay.adapter_training import train_adapter
from workbench.replay.adapters import Adapter, load_adapter
from workbench.replay.amortised import embeddings, losses_beside, predict_many, predict_tokens
from workbench.replay.replay import learn_many, objective
from workbench.tracing.residuals import read_logits
from workbench.views.replay_figures import loss_against_steps

REPLAY = Replay(tau=0.4, threshold="quantile", alpha=30.0, layers=2, iterations=3, top_v=20)
TRAINING = {"width": 8, "rates": (3e-3, 1e-2), "epochs": 3, "batch_size": 4}


@pytest.fixture(scope="module")
def problems():
    return [tiny.problem(seed=i, images=1 + i % 2) for i in range(16)]


@pytest.fixture(scope="module")
def trained(tiny_pair, problems):
    return train_adapter(tiny_pair, problems[:12], REPLAY, validation=problems[12:14], **TRAINING)


def untrained(pair, width=8):
    return Adapter.untrained(pair.base.hidden_size, width, REPLAY, {"name": "tiny", **weights_of(pair)})


# --- use ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [0, 8])
def test_an_untrained_adapter_is_the_plain_model_bit_for_bit(tiny_pair, problems, width):
    prompt = tiny_pair.encode(problems[0])
    made = predict_tokens(tiny_pair, prompt, untrained(tiny_pair, width))
    assert not made.tokens.any()
    plain = read_logits(tiny_pair.rlvr, prompt.model_inputs, last=len(prompt))
    written = read_logits(
        tiny_pair.rlvr, prompt.model_inputs, last=len(prompt), write={0: lambda h: made.apply(0, h)}
    )
    assert torch.equal(plain, written)


def test_prediction_is_the_network_on_both_models_embeddings(tiny_pair, trained, problems):
    prompt = tiny_pair.encode(problems[15])
    made = predict_tokens(tiny_pair, prompt, trained)
    swapped = replace(tiny_pair, base=tiny_pair.rlvr, rlvr=tiny_pair.base)
    rlvr, base = (torch.cat(export_visual_embeddings(p, prompt)) for p in (tiny_pair, swapped))
    visual = prompt.kinds == TokenKind.VISUAL
    sizes = torch.tensor(prompt.grids)[prompt.visual_index[visual].long()]
    inputs = torch.cat([base, rlvr - base, prompt.grid[visual] / sizes], 1).double()
    w = {name: value.double() for name, value in trained.weights.items()}
    z = (inputs - w["centre"]) / w["scale"]
    inner = torch.nn.functional.gelu(z @ w["first"] + w["first_bias"])
    torch.testing.assert_close(made.tokens.double(), inner @ w["last"] + w["last_bias"], rtol=1e-3, atol=1e-5)
    assert made.tokens.any()
    assert (made.losses.numel(), made.mask.any().item(), made.stopped) == (0, False, None)
    assert (made.replay, made.provenance["adapter"]) == (REPLAY, trained.digest)


def test_batched_equals_solo(tiny_pair, trained, problems):
    prompts = [tiny_pair.encode(problem) for problem in problems[:4]]
    together = predict_many(tiny_pair, prompts, trained, batch_size=4)
    for one, prompt in zip(together, prompts, strict=True):
        alone = predict_tokens(tiny_pair, prompt, trained)
        torch.testing.assert_close(one.tokens, alone.tokens, rtol=1e-4, atol=1e-6)


def test_decode_takes_what_it_predicts(tiny_pair, trained, problems):
    prompt = tiny_pair.encode(problems[15])
    made = predict_tokens(tiny_pair, prompt, trained)
    (with_tokens,) = decode(tiny_pair, prompt, intervention=made, max_new_tokens=6)
    (empty,) = decode(tiny_pair, prompt, intervention=replace(made, tokens=made.tokens * 0), max_new_tokens=6)
    (plain,) = decode(tiny_pair, prompt, max_new_tokens=6)
    assert (empty.text, with_tokens.problem_id) == (plain.text, prompt.problem_id)
    assert "no iteration" in made._repr_html_()
    made.plot()


def test_ablate_takes_an_adapter_beside_replay(tiny_pair, trained, problems, tmp_path):
    settings = {"samples": 1, "max_new_tokens": 3, "resamples": 20, "keep": tmp_path}
    found = ablate(tiny_pair, problems[12:16], [REPLAY, trained, untrained(tiny_pair)], **settings)
    names = ["base", "rlvr", "tokens, low", "amortised, low", "amortised, low (2)"]
    assert list(dict.fromkeys(found.responses["intervention"])) == names
    texts = found.responses.pivot_table(
        index=["problem", "sample"], columns="intervention", values="text", aggfunc="first"
    )
    assert (texts["amortised, low (2)"] == texts["rlvr"]).all()  # and it is not what the other one kept
    low = found.drift.query("stratum == 'low' and scope == 'without last layer'").set_index("intervention")
    assert low["kl"]["amortised, low (2)"] == low["kl"]["rlvr"]
    assert low["kl"]["amortised, low"] != low["kl"]["rlvr"]
    assert found.settings["interventions"]["amortised, low"]["adapter"] == trained.digest


def test_an_agent_predicts_anew_at_every_turn():
    pair, adapter = load_pair("shapes"), load_adapter("shapes")
    (problem,) = load_problems("shapes-agent", split="validation", limit=1, seed=0)
    transcript = run_agent(pair, problem, intervention=adapter, turns=2, max_new_tokens=48)
    assert all(turn.made["stopped"] is None for turn in transcript.turns)
    assert transcript.settings["intervention"][1]["adapter"] == adapter.digest


# --- training -----------------------------------------------------------------------------------------


def test_training_lowers_replays_loss_on_problems_it_has_not_seen(tiny_pair, trained, problems):
    others = [tiny_pair.encode(problem) for problem in problems[12:]]
    tokens = [made.tokens for made in predict_many(tiny_pair, others, trained)]
    plain = objective(tiny_pair, others, REPLAY, [None] * len(others))
    assert (objective(tiny_pair, others, REPLAY, tokens) < plain).all()
    curves = trained.curves
    assert list(curves.columns) == ["rate", "epoch", "train", "validation", "seconds"]
    first, best = curves.loc[curves["epoch"] == 0, "validation"].iloc[0], curves["validation"].min()
    assert best == trained.training["validation_loss"] < 0.9 * first
    assert plain[:2].mean().item() == pytest.approx(first, rel=1e-5)
    assert curves.loc[curves["validation"].idxmin(), "rate"] == trained.training["rate"]


def test_the_objective_is_the_loss_that_replay_descends_on(tiny_pair, problems):
    prompts = [tiny_pair.encode(problem) for problem in problems[:3]]
    short, longer = (
        learn_many(tiny_pair, prompts, replace(REPLAY, iterations=n), batch_size=3) for n in (2, 3)
    )
    found = objective(tiny_pair, prompts, REPLAY, [made.tokens for made in short], batch_size=3)
    torch.testing.assert_close(found, torch.stack([made.losses[2] for made in longer]), rtol=1e-5, atol=0)


def test_losses_beside_are_those_of_optimisation_of_adapters_and_of_swapped_embeddings(
    tiny_pair, trained, problems
):
    prompts = [tiny_pair.encode(problem) for problem in problems[13:16]]
    table = losses_beside(tiny_pair, prompts, REPLAY, {"mine": trained}, iterations=2)
    wide = table.pivot(index="problem", columns=["name", "iteration"], values="loss").loc[
        [p.problem_id for p in prompts]
    ]
    plain = objective(tiny_pair, prompts, REPLAY, [None] * 3)
    torch.testing.assert_close(torch.tensor(wide["optimised", 0].to_numpy()).float(), plain)
    tokens = [made.tokens for made in predict_many(tiny_pair, prompts, trained)]
    mine = objective(tiny_pair, prompts, REPLAY, tokens)
    torch.testing.assert_close(torch.tensor(wide["mine", 0].to_numpy()).float(), mine)
    same_base = replace(tiny_pair, base=tiny_pair.rlvr)
    none = losses_beside(same_base, prompts, REPLAY, {}, iterations=1).query("name != 'optimised'")
    assert (none["loss"].abs() < 1e-6).all()
    rows = (
        table.groupby(["name", "iteration"], as_index=False)["loss"]
        .mean()
        .rename(columns={"loss": "estimate"})
    )
    figure = loss_against_steps(
        rows.assign(estimate_low=rows["estimate"], estimate_high=rows["estimate"]), subtitle="three problems"
    )
    assert [trace.name for trace in figure.data if trace.name] == [
        "optimised for each prompt",
        "base's embeddings",
        "mine",
    ]


def test_it_shows_itself(trained):
    assert trained.digest in repr(trained)
    assert "validation loss, nats" in trained._repr_html_()
    assert len(trained.plot().data) == 4  # two splits, two rates


def test_width_zero_is_one_vector_for_every_token(tiny_pair, problems):
    flat = train_adapter(
        tiny_pair, problems[:4], REPLAY, validation=problems[4:6], **{**TRAINING, "width": 0}
    )
    x = predict_tokens(tiny_pair, tiny_pair.encode(problems[9]), flat).tokens
    assert x.any()
    assert torch.equal(x, x[:1].expand_as(x))
    assert flat.parameters == tiny_pair.base.hidden_size


def test_models_stay_as_they_were(tiny_pair, problems):
    weight = next(iter(tiny_pair.rlvr.model.parameters())).requires_grad_(True)
    before = {name: value.clone() for name, value in tiny_pair.rlvr.model.state_dict().items()}
    try:
        train_adapter(tiny_pair, problems[:2], REPLAY, validation=problems[2:3], **TRAINING)
        assert weight.requires_grad
        assert weight.grad is None
    finally:
        weight.requires_grad_(False)
    assert all(torch.equal(tiny_pair.rlvr.model.state_dict()[k], v) for k, v in before.items())


def test_without_holding_it_learns_the_same(tiny_pair, trained, problems):
    again = train_adapter(
        tiny_pair, problems[:12], REPLAY, validation=problems[12:14], hold=False, **TRAINING
    )
    assert same(again, trained)


def same(one: Adapter, other: Adapter) -> bool:
    return all(torch.equal(one.weights[name], value) for name, value in other.weights.items())


def test_an_interrupted_training_ends_with_the_same_weights(
    tiny_pair, trained, problems, tmp_path, monkeypatch
):
    call = {"validation": problems[12:14], "keep": tmp_path, **TRAINING}

    def stop(done: int, total: int) -> None:
        assert total == 6
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_adapter(tiny_pair, problems[:12], REPLAY, progress=stop, **call)
    passes, whole = [], adapter_training._Run.pass_over
    monkeypatch.setattr(adapter_training._Run, "pass_over", lambda *a: (passes.append(1), whole(*a))[1])
    resumed = train_adapter(tiny_pair, problems[:12], REPLAY, **call)
    assert (len(passes), same(resumed, trained)) == (4, True)
    assert (resumed.curves["validation"] == trained.curves["validation"]).all()
    train_adapter(tiny_pair, problems[:12], REPLAY, **call)
    assert len(passes) == 4  # nothing was left to do
    other = train_adapter(tiny_pair, problems[:12], REPLAY, seed=1, **call)
    assert not same(other, trained)


def test_a_rate_that_fails_loses_to_one_that_does_not(tiny_pair, problems):
    call = {"validation": problems[2:3], **TRAINING}
    found = train_adapter(tiny_pair, problems[:2], REPLAY, **{**call, "rates": (1e37, 1e-2)})
    assert found.training["rate"] == 1e-2
    with pytest.raises(InputError, match=r"`rates` \(1e\+37,\) all led to a loss that is not finite"):
        train_adapter(tiny_pair, problems[:2], REPLAY, **{**call, "rates": (1e37,)})


# --- files --------------------------------------------------------------------------------------------


def test_saved_and_loaded_it_predicts_the_same_bits(tiny_pair, trained, problems, tmp_path):
    trained.save(tmp_path / "adapter.safetensors")
    loaded = load_adapter(tmp_path / "adapter.safetensors")
    assert same(loaded, trained)
    assert (loaded.digest, loaded.replay, loaded.pair) == (trained.digest, trained.replay, trained.pair)
    assert loaded.curves.equals(trained.curves)
    prompt = tiny_pair.encode(problems[15])
    assert torch.equal(
        predict_tokens(tiny_pair, prompt, loaded).tokens, predict_tokens(tiny_pair, prompt, trained).tokens
    )
    assert [p.name for p in tmp_path.iterdir()] == ["adapter.safetensors"]


@pytest.mark.parametrize("content", [None, b"not a tensor", "no metadata", "misshapen", "not finite"])
def test_a_file_that_is_no_adapter_is_refused(trained, tmp_path, content):
    path = tmp_path / "other.safetensors"
    weights = dict(trained.weights)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "no metadata":
        save_file(weights, path)
    elif content is not None:
        trained.save(path)
        with safe_open(path, "pt") as stored:
            told = stored.metadata()
        weights["last_bias"] = torch.zeros(3) if content == "misshapen" else weights["last_bias"] * torch.nan
        assert json.loads(told["adapter"])["replay"]["tau"] == 0.4
        save_file(weights, path, metadata=told)
    with pytest.raises(InputError, match=r"holds no adapter|`weights`: last_bias is"):
        load_adapter(path)


def test_the_bundled_adapter_fits_the_bundled_pair():
    pair, adapter = load_pair("shapes"), load_adapter("shapes")
    problems = load_problems("shapes", split="validation", limit=4, seed=0)
    prompts = [pair.encode(problem) for problem in problems]
    tokens = [made.tokens for made in predict_many(pair, prompts, adapter)]
    plain = objective(pair, prompts, adapter.replay, [None] * 4)
    assert (objective(pair, prompts, adapter.replay, tokens) < 0.3 * plain).all()
    with pytest.raises(InputError, match="`adapter` was fitted to 'shapes' with other weights"):
        predict_tokens(load_pair("shapes", checkpoint="sft"), prompts[0], adapter)


# --- what is refused ----------------------------------------------------------------------------------


def test_another_pair_is_refused(tiny_pair, trained, problems):
    other = tiny.pair("qwen2_5_vl", torch.float64)
    prompt = other.encode(problems[0])
    for call in (
        lambda: predict_tokens(other, prompt, trained),
        lambda: ablate(other, problems[:2], [trained], samples=1),
    ):
        with pytest.raises(InputError, match=r"`adapter` was fitted to .* \(base .*, it knows .*train one"):
            call()


def test_a_prompt_without_pictures_is_refused(tiny_pair, trained):
    words = tiny_pair.encode(tiny.problem(images=0))
    with pytest.raises(InputError, match="'p0' has no visual tokens"):
        embeddings(tiny_pair, [words])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": -1}, "`width` is -1; expected a whole number of at least 0"),
        ({"epochs": 0}, "`epochs` is 0"),
        ({"patience": True}, "`patience` is True"),
        ({"batch_size": 0}, "`batch_size` is 0"),
        ({"rates": ()}, r"`rates` is \(\)"),
        ({"rates": (-1.0,)}, "`rates` is"),
        ({"weight_decay": -1.0}, "`weight_decay` is"),
        ({"validation": []}, "`validation` is empty"),
    ],
)
def test_bad_numbers_are_refused_before_anything_runs(tiny_pair, problems, monkeypatch, changes, message):
    monkeypatch.setattr(adapter_training, "prepare", None)
    monkeypatch.setattr(adapter_training, "embeddings", None)
    with pytest.raises(InputError, match=message):
        train_adapter(tiny_pair, problems[:2], REPLAY, **{"validation": problems[2:3], **TRAINING, **changes})


def test_problems_of_which_nothing_is_selected_are_refused_if_they_are_all(tiny_pair):
    some = replace(REPLAY, threshold="max_fraction", tau=0.95)  # of p2 alone
    given = [tiny.problem(seed=i) for i in range(4)]
    settings = {**TRAINING, "rates": (1e-2,), "epochs": 1}
    assert train_adapter(tiny_pair, given[1:3], some, validation=[tiny.problem(seed=2, id="v")], **settings)
    with pytest.raises(InputError, match="selects no visual position of 2 of 2 prompts"):
        train_adapter(tiny_pair, given[2:3], some, validation=given[:2], **settings)


def test_no_problem_may_be_in_both_sets(tiny_pair, problems):
    with pytest.raises(InputError, match="`validation` shares 1 problems with `problems`"):
        train_adapter(tiny_pair, problems[:3], REPLAY, validation=problems[2:4])


@pytest.mark.parametrize(
    "changes", [{"site": "mid_tokens", "layer": 1}, {"direction": "reverse"}, {"positions": "text"}]
)
def test_settings_that_no_adapter_stands_in_for_are_refused(tiny_pair, problems, changes):
    settings = replace(REPLAY, layers=None, **changes)
    with pytest.raises(
        InputError, match="an adapter stands in for visual tokens at the RLVR model's first layer"
    ):
        train_adapter(tiny_pair, problems[:2], settings, validation=problems[2:3])
