"""`divergence`: the numbers of whole logits, the tables and claims of what is known, and what is refused."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import torch

import workbench as wb
from workbench.analysis.response_divergence import (
    FAR,
    NEAR,
    claims_of,
    headline,
    heaviest_tokens,
    place_of,
    summarise,
)
from workbench.errors import InputError
from workbench.estimates import share
from workbench.models.batches import collate
from workbench.models.chat import Message
from workbench.models.pairs import ModelPair
from workbench.models.prompts import EncodedPrompt

FEW = {"resamples": 20}
FAMILIES = (
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "llava",
    "llava_onevision",
    "internvl",
    "gemma3",
    "smolvlm",
    "llama",
)


def naive(pair: ModelPair, prompt: EncodedPrompt, ids: list[int]) -> dict[str, torch.Tensor]:
    """From the models' own logits of prompt and response in one forward."""
    whole = collate([pair.encode(prompt, response=ids)], pair.pad_id)
    both = []
    for anatomy in (pair.base, pair.rlvr):
        with torch.no_grad():
            logits = anatomy.model(**anatomy.placed(whole), use_cache=False).logits[0]
        both.append(logits[-len(ids) - 1 : -1, : pair.vocab_size].double().log_softmax(-1))
    (log_p, log_q), drawn = both, torch.tensor(ids)[:, None]
    p, q = (x.exp() for x in both)
    middle = ((p + q) / 2).log()
    of_drawn = [x.gather(1, drawn)[:, 0] for x in both]
    return {
        "jensen_shannon": ((p * (log_p - middle)).sum(-1) + (q * (log_q - middle)).sum(-1)) / 2,
        "kl": (p * (log_p - log_q)).sum(-1),
        "kl_reverse": (q * (log_q - log_p)).sum(-1),
        "entropy_base": -(p * log_p).sum(-1),
        "entropy_rlvr": -(q * log_q).sum(-1),
        "log_p_base": of_drawn[0],
        "log_p_rlvr": of_drawn[1],
        "dlogp": of_drawn[1] - of_drawn[0],
        "rank_base": 1 + (log_p > of_drawn[0][:, None]).sum(-1),
        "rank_rlvr": 1 + (log_q > of_drawn[1][:, None]).sum(-1),
    }


def prompts_of(pair: ModelPair, family: str) -> list[EncodedPrompt]:
    """Text after pictures, of one and of two; several turns, with a picture in between; a video where the family knows any."""
    problems = [tiny.problem(family, seed=0), tiny.problem(family, seed=2, images=2)]
    prompts = [pair.encode(problem) for problem in problems]
    reply: tuple[Any, ...] = ("Look: ",) if family in tiny.TEXT_ONLY else ("Look: ", tiny.image(32, 48, 5))
    turns = [Message("assistant", ("Show me more",)), Message("user", reply)]
    prompts.append(pair.encode(tiny.problem(family, seed=3), turns))
    if family in tiny.VIDEO:
        prompts.append(pair.encode(tiny.problem(family, seed=4, images=0, frames=2)))
    return prompts


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_what_whole_logits_give(family):
    pair = tiny.pair(family, torch.float64)
    prompts = prompts_of(pair, family)
    drawn = wb.decode_many(pair, prompts, samples=2, temperature=1.0, max_new_tokens=6)
    found = wb.divergence(pair, prompts, responses=drawn, batch_size=2, **FEW)
    for prompt, responses in zip(prompts, drawn, strict=True):
        for response in responses:
            own = found.positions
            own = own.loc[(own["problem"] == prompt.problem_id) & (own["sample"] == response.sample)]
            assert own["token"].tolist() == [pair.decode_token(i) for i in response.ids]
            for name, expected in naive(pair, prompt, [*response.ids]).items():
                np.testing.assert_allclose(own[name], expected, atol=1e-6, rtol=0, err_msg=name)
    turns = found.positions.groupby("problem")["turn"].unique()
    assert [turns[prompt.problem_id].tolist() for prompt in prompts[:3]] == [[0], [0], [1]]


def test_drawn_and_given_responses_are_the_same(tiny_pair):
    problems = [tiny.problem(seed=seed) for seed in range(3)]
    how: dict[str, Any] = {"samples": 2, "temperature": 1.0, "seed": 3, "max_new_tokens": 5}
    for model in ("rlvr", "base"):
        drawn = wb.decode_many(tiny_pair, problems, model=model, **how)
        given = wb.divergence(tiny_pair, problems, responses=drawn, drawn_by=model, seed=3, **FEW)
        own = wb.divergence(tiny_pair, problems, drawn_by=model, **how, **FEW)
        pd.testing.assert_frame_equal(given.positions, own.positions)
        rank = [claim for claim in own.claims if claim.key["test"] == "reranking"]
        assert len(rank) == 4
        assert all(("drawn by base" in (claim.obstacle or "")) == (model == "base") for claim in rank)


def test_predictions_at_a_position_are_both_models_own(tiny_pair):
    problem = tiny.problem()
    response = wb.decode(tiny_pair, problem, temperature=1.0, max_new_tokens=5)[0]
    found = wb.divergence(tiny_pair, [problem], responses=[response], top_k=4, **FEW)
    place = 2
    table = found.predictions(problem.id, place)
    whole = tiny_pair.encode(problem, response=response.ids[:place])
    for model in ("base", "rlvr"):
        anatomy = getattr(tiny_pair, model)
        logits = wb.tracing.read_logits(anatomy, collate([whole], tiny_pair.pad_id))[0, 0].float()
        probs, ids = logits.softmax(-1).topk(4)
        assert table[model].tolist() == [tiny_pair.decode_token(i) for i in ids.tolist()]
        np.testing.assert_allclose(table[f"p_{model}"], probs, atol=1e-5)
    with pytest.raises(InputError, match="`position` 99 of response 0 to 'p0' was not measured"):
        found.predictions("p0", 99)


def test_a_response_is_shown_escaped_and_opens_at_every_token(tiny_pair):
    problem = replace(tiny.problem(), id="<b>p</b>")
    found = wb.divergence(tiny_pair, [problem], responses={problem.id: "<script>x"}, drawn_by="text", **FEW)
    view = found.show()
    html = view._repr_html_()
    assert html.count("<details") == len(tiny_pair.ids_of("<script>x"))
    assert "&lt;" in html
    assert "<script" not in html
    assert "<b>p" not in html
    assert "<script>x" in repr(view)
    with pytest.raises(InputError, match="has no response 3 here"):
        found.show(problem.id, 3)


def test_controls_read_the_same_responses(tiny_pair):
    problems = [tiny.problem(seed=seed) for seed in range(2)]
    controls = {"itself": tiny_pair, "base again": replace(tiny_pair, rlvr=tiny_pair.base)}
    found = wb.divergence(tiny_pair, problems, controls=controls, samples=2, max_new_tokens=4, **FEW)
    parts = {name: part.reset_index(drop=True) for name, part in found.positions.groupby("condition")}
    assert list(dict.fromkeys(found.positions["condition"])) == ["rlvr", *controls]
    pd.testing.assert_frame_equal(
        parts["rlvr"].drop(columns="condition"), parts["itself"].drop(columns="condition")
    )
    assert (parts["base again"]["jensen_shannon"] < 1e-9).all()
    assert parts["base again"]["token"].equals(parts["rlvr"]["token"])
    below = found.summary.set_index(["condition", "measure", "at", "where"])["estimate"]
    assert below["base again", "below", 1e-4, "all"] == 1
    claims = {claim.key.get("control"): claim for claim in found.claims if claim.key["test"] == "sparse"}
    assert claims["itself"].interval.estimate == 0
    assert claims["base again"].interval.estimate <= 0
    figure = found.plot()
    assert {trace.name for trace in figure.data} == {"RLVR", *controls}
    assert figure.data[0].y[0] == pytest.approx((parts["rlvr"]["jensen_shannon"] >= 1e-6).mean())
    assert "tokens that diverge most" in found._repr_html_()


def test_equal_models_are_said_to_agree(tiny_pair):
    same = replace(tiny_pair, rlvr=tiny_pair.base)
    found = wb.divergence(same, [tiny.problem()], samples=1, max_new_tokens=4, **FEW)
    assert "agree to within rounding" in found.verdict
    assert {claim.holds for claim in found.claims} == {None}


# --- what follows from the positions ---------------------------------------------------------------------


def made(problems: int = 24, length: int = 30) -> pd.DataFrame:
    """Positions that diverge at the start and, less, at the end; every fourth draw there is not among the base's first 5."""
    position = np.arange(length)
    place = place_of(position, np.full(length, length))
    rows = []
    for number in range(problems):
        js = np.where(place == "start", 0.3, np.where(place == "end", 0.2, 1e-5 * (1 + number % 3)))
        rank = np.where(js < FAR, 1, np.where((position + number) % 4 == 0, 9, 2))
        rows.append(
            pd.DataFrame(
                {
                    "condition": "rlvr",
                    "problem": f"p{number}",
                    "place": place,
                    "token": np.where(place == "start", "So", "x"),
                    "jensen_shannon": js,
                    "kl": js,
                    "kl_reverse": js,
                    "entropy_base": 1.0,
                    "entropy_rlvr": 0.5,
                    "rank_base": rank,
                    "dlogp": js,
                }
            )
        )
    return pd.concat(rows, ignore_index=True)


def test_places_are_tenths_of_whole_tokens():
    assert place_of(np.arange(21), np.full(21, 21)).tolist() == ["start"] * 3 + ["middle"] * 15 + ["end"] * 3
    assert place_of(np.arange(3), np.full(3, 3)).tolist() == ["start", "middle", "end"]
    assert place_of(np.zeros(1, int), np.ones(1, int)).tolist() == ["start"]


def test_summary_and_tokens_are_what_pandas_computes():
    positions = made()
    summary = summarise(positions, **FEW).set_index(["measure", "at", "where"])["estimate"]
    assert summary["below", NEAR, "all"] == pytest.approx(24 / 30)
    assert summary["within", 5.0, "divergent"] == pytest.approx(
        (positions.loc[positions["jensen_shannon"] >= FAR, "rank_base"] <= 5).mean()
    )
    by_place = positions.groupby("place")["jensen_shannon"].mean()
    means = summary.xs("jensen_shannon", level="measure").droplevel("at")
    for place in ("start", "middle", "end"):
        assert means[place] == pytest.approx(by_place[place])
    tokens = heaviest_tokens(positions)
    first = tokens.iloc[0]
    of_token = positions.loc[positions["token"] == "So"]
    assert first["token"] == "So"
    assert first["share"] == pytest.approx(
        of_token["jensen_shannon"].sum() / positions["jensen_shannon"].sum()
    )
    assert tokens["share"].sum() == pytest.approx(1)


def test_claims_hold_where_they_are_made_to():
    positions = made()
    control = positions.assign(condition="sft", jensen_shannon=0.05)
    claims = claims_of(pd.concat([positions, control], ignore_index=True), "rlvr", **FEW)
    found = {(c.key["test"], c.key.get("rank", c.key.get("control"))): c for c in claims}
    assert found["sparse", "sft"].interval.estimate == pytest.approx(24 / 30)
    assert [found[key].holds for key in (("sparse", "sft"), ("start", None), ("end", None))] == [True] * 3
    assert found["sparse", None].interval.estimate == pytest.approx(24 / 30)
    assert found["sparse", None].holds is None  # published are 83%, and every problem has the same share
    assert found["reranking", "1"].holds is False
    assert found["reranking", "3"].holds is found["reranking", "10"].holds is True
    apart = positions.loc[positions["jensen_shannon"] >= FAR]
    within = share(apart["rank_base"] <= 3, apart["problem"])
    assert found["reranking", "3"].interval.columns("x") == pytest.approx(within.columns("x"), nan_ok=True)
    by_place = positions.groupby("place")["jensen_shannon"].mean()
    assert found["start", None].interval.estimate == pytest.approx(by_place["start"] / by_place["middle"])
    assert "80.0% of positions are below 0.001 nats, +80.0 points beside sft" in headline(claims)
    assert all(claim.problems == 24 for claim in claims)
    by_base = claims_of(positions, "base", **FEW)
    assert {c.holds for c in by_base if c.key["test"] == "reranking"} == {None}
    near = claims_of(positions.assign(jensen_shannon=positions["jensen_shannon"] / 10), "rlvr", **FEW)
    assert {c.obstacle for c in near if c.key["test"] == "reranking"} == {
        "no position diverges by 0.1 nats or more"
    }


# --- refused -------------------------------------------------------------------------------------------


def test_bad_arguments(tiny_pair, pair_of):
    problems = [tiny.problem()]
    for arguments, message in (
        ({"drawn_by": "text"}, "`drawn_by` is 'text'; expected 'rlvr' or 'base'"),
        ({"top_k": 0}, "`top_k` is 0; expected a whole number of at least 1"),
        ({"controls": {"rlvr": tiny_pair}}, "`controls` names a pair 'rlvr'"),
        ({"controls": {"other": pair_of("qwen2_vl")}}, "'other' is no pair with the base of"),
        ({"responses": {"q": "3"}}, "has one to 'q', which is not among"),
        ({"responses": {"p0": ""}}, "has no tokens"),
        ({"samples": 0}, "`samples`"),
    ):
        with pytest.raises(InputError, match=message):
            wb.divergence(tiny_pair, problems, **arguments)
    with pytest.raises(InputError, match="`problems` holds 'p0' twice"):
        wb.divergence(tiny_pair, problems * 2)


def test_given_responses_are_nobodys_unless_it_is_said(tiny_pair):
    problems = [tiny.problem(seed=seed, id=f"p{seed}") for seed in range(2)]
    given = {problem.id: "three" for problem in problems}
    found = wb.divergence(tiny_pair, problems, responses=given, **FEW)
    assert found.drawn_by == "text"
    assert all(claim.holds is None for claim in found.claims if "RLVR mostly takes" in claim.claim)
