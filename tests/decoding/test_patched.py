"""A patch while decoding: nothing chosen is RLVR's own, everything the base's, and the rest a naive loop's."""

import pytest
import tiny
import torch

import workbench as wb
from workbench.decoding import decode as decoding
from workbench.errors import InputError
from workbench.models.pairs import ModelPair
from workbench.replay.patching import PreparedPatch
from workbench.sweeps.costs import Prompt, Shape, cell_cost, memory
from workbench.sweeps.spec import parse_sweep
from workbench.tracing.residuals import read_calls, read_logits

GREEDY = {"max_new_tokens": 8}
SAMPLED = {"samples": 3, "temperature": 1.0, "seed": 4, "max_new_tokens": 8}
DEPTH = 3
ALL = wb.Patch(select="all", layers=DEPTH, positions="all", when="both")
NONE = wb.Patch(threshold="quantile", tau=0.0, layers=DEPTH, when="decoding")


def ids(responses):
    return [[r.ids for r in rows] for rows in responses]


def ending_alike(family: str) -> ModelPair:
    """A pair whose last layer, final norm and unembedding are the same: what these receive is all that differs."""
    pair = tiny.pair(family)
    pair.rlvr.layers[-1].load_state_dict(pair.base.layers[-1].state_dict())
    pair.rlvr.norm.load_state_dict(pair.base.norm.state_dict())
    with torch.no_grad():
        pair.rlvr.unembedding.weight.copy_(pair.base.unembedding.weight)
    return pair


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_all_of_prompt_and_response_is_the_base_and_nothing_is_rlvr(family):
    pair = ending_alike(family)
    problems = [tiny.problem(family, images=1 + i % 2, seed=3 * i) for i in range(3)]
    for how in (GREEDY, SAMPLED):
        base, rlvr = (wb.decode_many(pair, problems, model=model, **how) for model in ("base", "rlvr"))
        assert ids(base) != ids(rlvr)
        assert ids(wb.decode_many(pair, problems, interventions=ALL, **how)) == ids(base)
        nothing = wb.decode_many(pair, problems, interventions=NONE, **how)
        assert ids(nothing) == ids(rlvr)
        assert not any(r.cells for rows in nothing for r in rows)


@pytest.mark.parametrize("family", ["qwen3_vl", "gemma3", "qwen2"])
def test_with_all_layers_patched_the_next_token_is_the_bases_whatever_the_prompt_left(family):
    pair = ending_alike(family)
    for anatomy in (pair.base, pair.rlvr):  # a last layer that looks at no earlier position
        anatomy.layers[-1].self_attn.o_proj.weight.zero_()
    prompt = pair.encode(tiny.problem(family, seed=1))
    patch = wb.Patch(select="all", layers=DEPTH, when="decoding")
    (patched,) = wb.decode(pair, prompt, intervention=patch, max_new_tokens=8)
    said = list(patched.ids)
    (own,) = wb.decode(pair, prompt, max_new_tokens=1)
    assert said[:1] == list(own.ids)  # the prompt's own prediction
    for step in range(1, len(said)):
        logits = read_logits(pair.base, prompt.continued(torch.tensor(said[:step])).model_inputs)[0, -1]
        logits[sorted(pair.rlvr.visual_token_ids)] = -torch.inf
        assert said[step] == int(logits.argmax())


# --- a naive loop --------------------------------------------------------------------------------------------


def entropies(pair, anatomy, calls, patch):
    """(layers, positions) in float64, from the logits whole."""
    rows = []
    for layer in patch.patched:
        logits = anatomy.unembedding(anatomy.norm(calls[layer].output[0]))[:, : pair.vocab_size].double()
        if anatomy.softcap:
            logits = anatomy.softcap * torch.tanh(logits / anatomy.softcap)
        log_p = logits.log_softmax(-1)
        rows.append(-(log_p.exp() * log_p).sum(-1))
    return torch.stack(rows)


def naive(pair, prompt, patch: wb.Patch, steps: int):
    """Greedy, every step whole forwards of both models, without any cache; and how many cells are overwritten."""
    said, chosen, length, last = [], [], len(prompt), patch.patched[-1] + 1
    start: PreparedPatch = wb.prepare(patch, pair, [prompt])[0]
    forbidden = sorted(pair.rlvr.visual_token_ids)
    while True:
        whole = prompt.continued(torch.tensor(said, dtype=torch.int64)) if said else prompt
        base = read_calls(pair.base, whole.model_inputs, last)
        if said:
            base_entropy = entropies(pair, pair.base, base, patch)[:, length:]
            limits = {
                "max_fraction": lambda e: patch.tau * e.max(1).values,
                "quantile": lambda e: e.sort(1).values[:, max(round(patch.tau * e.shape[1]), 1) - 1],
                "fixed": lambda e: torch.tensor(patch.levels or ()).double() - 1e-12,
            }
            low = base_entropy[:, -1] <= limits[patch.threshold](base_entropy)
            if patch.threshold == "quantile" and round(patch.tau * base_entropy.shape[1]) == 0:
                low[:] = False
            if patch.only_where_base_lower:
                rlvr = read_calls(pair.rlvr, whole.model_inputs, last)
                low &= base_entropy[:, -1] < entropies(pair, pair.rlvr, rlvr, patch)[:, -1]
            chosen.append({"low": low, "high": ~low, "all": torch.ones_like(low)}[patch.select])

        def edit(hidden, row, layer, base=base):
            hidden = start.apply(layer, hidden) if layer in start.sites else hidden.clone()
            for place, cells in enumerate(chosen):
                if cells[row]:
                    hidden[:, length + place] = base[layer].hidden[:, length + place]
            return hidden

        write = {
            layer: (lambda h, row=row, layer=layer: edit(h, row, layer))
            for row, layer in enumerate(patch.patched)
        }
        logits = read_logits(pair.rlvr, whole.model_inputs, write=write)[0, -1]
        logits[forbidden] = -torch.inf
        said.append(int(logits.argmax()))
        if said[-1] == 258 or len(said) == steps:  # the tiny families' end
            return said, sum(int(cells.sum()) for cells in chosen)


PATCHES = {
    "low": wb.Patch(threshold="quantile", tau=0.5, layers=2, when="decoding"),
    "high": wb.Patch(select="high", tau=0.99, layers=(1, 2), when="decoding"),
    "both": wb.Patch(tau=0.99, layers=(0, 2), positions="all", when="both"),
    "fixed": wb.Patch(
        threshold="fixed", levels=(4.9, 4.7), only_where_base_lower=True, layers=2, when="decoding"
    ),
    "all": wb.Patch(select="all", layers=(1,), when="decoding"),
}


@pytest.mark.parametrize("name", PATCHES)
@pytest.mark.parametrize("family", ["qwen2_5_vl", "gemma3", "qwen2"])
def test_it_does_what_a_naive_loop_without_a_cache_does(family, name):
    pair, patch = tiny.pair(family), PATCHES[name]
    with torch.no_grad():  # models far apart, so that a patch changes what is said
        other = tiny.model(family, 5)
        for weight, start in zip(pair.base.model.parameters(), other.parameters(), strict=True):
            weight.copy_(start)
    prompt = pair.encode(tiny.problem(family, seed=1))
    expected, cells = naive(pair, prompt, patch, 14)
    (response,) = wb.decode(pair, prompt, intervention=patch, max_new_tokens=14)
    assert list(response.ids) == expected
    assert response.cells == cells
    if name != "fixed":
        assert cells > 0
        assert cells < (len(expected) - 1) * len(patch.patched) or name == "all"
        (own,) = wb.decode(pair, prompt, max_new_tokens=14)
        assert response.ids != own.ids


def test_random_takes_as_many_as_are_low_and_of_its_own_seed(tiny_pair):
    prompt = tiny_pair.encode(tiny.problem())
    how = {"samples": 12, "temperature": 2.0, "max_new_tokens": 40}

    def counts(**changes):
        patch = wb.Patch(threshold="quantile", tau=0.3, layers=3, when="decoding", **changes)
        return [(r.cells, r.tokens) for r in wb.decode(tiny_pair, prompt, intervention=patch, **how)]

    shares = []
    for select in ("low", "random"):
        found = counts(select=select)
        shares.append(sum(cells for cells, _ in found) / sum(3 * (tokens - 1) for _, tokens in found))
    assert shares[1] == pytest.approx(shares[0], abs=0.05)
    assert counts(select="random") == counts(select="random") != counts(select="random", seed=1)


def test_neither_batch_nor_samples_nor_dropping_changes_a_response(pair_of, monkeypatch):
    pair = pair_of("qwen2_5_vl")
    ends = [*range(0, tiny.VOCAB, 8)]
    prompts = [pair.encode(tiny.problem(seed=3 * i)) for i in range(3)]
    how = {"temperature": 2.0, "max_new_tokens": 16}
    monkeypatch.setattr(pair.rlvr.model.generation_config, "eos_token_id", ends)
    for select in ("low", "random"):
        patch = wb.Patch(select=select, threshold="quantile", tau=0.5, layers=3, when="decoding")
        many = wb.decode_many(pair, prompts, interventions=patch, samples=4, **how)
        assert len({r.tokens for rows in many for r in rows}) > 2
        with monkeypatch.context() as patched:
            patched.setattr(decoding, "DROP_AT", 2.0)
            undropped = wb.decode_many(pair, prompts, interventions=patch, samples=4, **how)
        alone = [wb.decode(pair, prompt, intervention=patch, samples=2, **how) for prompt in prompts]
        assert ids(many) == ids(undropped)
        assert [rows[:2] for rows in many] == alone
        assert [[r.cells for r in rows[:2]] for rows in many] == [[r.cells for r in rows] for rows in alone]


# --- together with the rest ----------------------------------------------------------------------------------


def test_conditions_of_all_kinds_stand_in_one_call_and_under_a_mixture(tiny_pair):
    problems = [tiny.problem(seed=i) for i in range(4)]
    given = [PATCHES["low"], None, PATCHES["both"], wb.Patch(layers=2)]
    found = wb.decode_many(tiny_pair, problems, interventions=given, **GREEDY)
    for problem, condition, responses in zip(problems, given, found, strict=True):
        assert responses == wb.decode(tiny_pair, problem, intervention=condition, **GREEDY)
    expected = wb.decode_many(tiny_pair, problems, interventions=PATCHES["both"], **SAMPLED)
    never = wb.CrossSample("rlvr", "divergence", threshold=float("inf"), under=PATCHES["both"])
    under = wb.decode_many(tiny_pair, problems, interventions=never, **SAMPLED)
    assert ids(under) == ids(expected)
    assert [[r.cells for r in rows] for rows in under] == [[r.cells for r in rows] for rows in expected]


def test_ablate_names_it_and_counts_its_cells(pair_of):
    for family in ("qwen2_5_vl", "qwen2"):
        pair = pair_of(family)
        problems = [tiny.problem(family, seed=i) for i in range(2)]
        ablation = wb.ablate(pair, problems, [PATCHES["low"], PATCHES["both"]], samples=2, max_new_tokens=8)
        responses = ablation.responses.set_index("intervention")
        assert {"patch while decoding, low", "patch in prompt and response, low"} <= {*responses.index}
        low = responses.loc["patch while decoding, low"]
        assert 0 < low["cells"].sum() <= 2 * (low["tokens"] - 1).sum()
        assert (low["cells_visual"] == 0).all()
        drift = ablation.drift.query("intervention == 'patch while decoding, low'")
        assert (
            drift["kl"].isna() | (drift["kl"] == drift["before"])
        ).all()  # of the prompt, which is as it was


def test_the_agent_says_how_much_was_overwritten(tiny_pair):
    transcript = wb.run_agent(
        tiny_pair, tiny.problem(), intervention=PATCHES["low"], turns=2, max_new_tokens=6
    )
    turns = transcript.to_dataframe()
    assert (turns["overwritten"] > 0).all()
    plain = wb.run_agent(tiny_pair, tiny.problem(), turns=1, max_new_tokens=6).to_dataframe()
    assert (plain["overwritten"] == 0).all()


SWEEP = """
pairs: [shapes]
problems: [{source: shapes, limit: 2}]
interventions:
  spoken: {patch: {when: [decoding, both], layers: 2, select: [low, high]}}
"""


def test_a_sweeps_file_names_it_and_its_cost_has_the_base_beside():
    sweep = parse_sweep(SWEEP)
    conditions = sweep.conditions(sweep.pairs[0], 8)
    name = "spoken select=high when=decoding"
    assert conditions[name].when == "decoding"
    shape = Shape(28, 3584, 233_000_000, 152_064, 0, 1024)
    prefill, beside = (
        cell_cost(shape, Prompt(0), wb.Patch(layers=14, when=when)) for when in ("prefill", "decoding")
    )
    alone = cell_cost(shape, Prompt(0), "rlvr")
    two, one = (memory(shape, shape, Prompt(0), [wb.Patch(when=when)]) for when in ("both", "prefill"))
    assert two - one == one - memory(shape, shape, Prompt(0, samples=0))
    assert 0.4 < (beside.bytes - prefill.bytes) / alone.bytes < 0.6  # half of the layers


def test_a_given_text_is_not_decoded(tiny_pair):
    prompt = tiny_pair.encode(tiny.problem())
    made = wb.prepare_patch(tiny_pair, prompt, PATCHES["both"])
    mixed = wb.prepare(wb.Extrapolate(1.0, under=PATCHES["low"]), tiny_pair, [prompt])[0]
    for one in (made, mixed):
        with pytest.raises(InputError, match="overwrites a response as it is decoded, and here a given text"):
            wb.trace(tiny_pair, [prompt], interventions=[one])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: wb.Patch(when="later"), "`when` is 'later'; expected one of prefill, decoding, both"),
        (
            lambda: wb.Patch(when="both", cells=lambda prompt: prompt.kinds == 1),
            "`cells` are chosen of a prompt",
        ),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_a_recording_of_a_prompt_is_no_source_of_a_response(tiny_pair):
    prompt = tiny_pair.encode(tiny.problem())
    source = wb.prepare_patch(tiny_pair, prompt, wb.Patch(layers=2)).source
    with pytest.raises(InputError, match="`source` is recorded on a prompt"):
        wb.prepare_patch(tiny_pair, prompt, PATCHES["low"], source=source)
