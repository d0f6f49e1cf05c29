"""What was read of other prompts, pictures or models is refused wherever it would be joined cell by cell."""

from dataclasses import replace

import pytest
from PIL import ImageOps

import workbench as wb
from workbench.analysis.cell_names import naming_claims
from workbench.analysis.cell_table import cell_table
from workbench.analysis.control_claims import control_claims
from workbench.analysis.neighbour_shift import neighbour_shift
from workbench.analysis.weight_nulls import weight_nulls
from workbench.errors import InputError
from workbench.models.bundled import controls_of
from workbench.problems.shapes_contents import contents
from workbench.studies.explore import Explorer
from workbench.tracing.latent_lens import LatentLens
from workbench.tracing.lens_trace import LensTrace
from workbench.tracing.same_prompts import check_same_prompts

REFUSED = (
    "holds other prompts, or these in another order: prompt 1 'shapes/test/0/1' has other pictures than there"
)
FAST = {"resamples": 50, "seed": 0}


@pytest.fixture(scope="module")
def pair():
    return wb.load_pair("shapes")


@pytest.fixture(scope="module")
def problems():
    return wb.load_problems("shapes", split="test", limit=4)


@pytest.fixture(scope="module")
def turned(problems):
    """The same words, one picture upside down."""
    (picture,) = problems[1].images
    return [problems[0], replace(problems[1], images=[ImageOps.flip(picture)]), *problems[2:]]


@pytest.fixture(scope="module")
def traced(pair, problems):
    return wb.trace(pair, problems, top_k=3, null_draws=1)


@pytest.fixture(scope="module")
def otherwise(pair, turned):
    return wb.trace(pair, turned, top_k=3, null_draws=1)


@pytest.fixture(scope="module")
def states(pair):
    chains = [problem.metadata["chain"] for problem in wb.load_problems("shapes", split="train", limit=8)]
    return LatentLens.build(pair, chains)


def test_one_prompt_has_one_fingerprint_whatever_it_was_read_with(pair, problems, traced, tmp_path):
    held = [info.fingerprint for info in traced.prompts]
    assert held == [pair.encode(problem).fingerprint for problem in problems]
    assert len({*held}) == len(problems)
    alone = wb.trace(pair, problems[1:2], null_draws=0)
    assert alone.prompts[0].fingerprint == held[1] == traced.select(prompt=1).prompts[0].fingerprint
    assert [info.fingerprint for info in LensTrace.load(traced.save(tmp_path / "t")).prompts] == held
    said = wb.trace(pair, problems[:1], null_draws=0, responses={problems[0].id: "<answer> 3</answer>"})
    whole = pair.encode(problems[0], response="<answer> 3</answer>")
    assert said.prompts[0].fingerprint == whole.fingerprint != held[0]


def test_another_picture_has_the_same_shape_and_is_refused_at_every_door(
    pair, problems, turned, traced, otherwise, states
):
    assert otherwise.kl.shape == traced.kl.shape
    assert otherwise.token_id.tolist() == traced.token_id.tolist()
    near = wb.read_neighbours(pair, turned, states, k=2)
    followed = wb.follow(pair, turned, otherwise, tokens=2)
    assert followed.select(prompt=1).fingerprints == (otherwise.prompts[1].fingerprint,)
    shown = {problem.id: contents(problem.id) for problem in problems}
    doors = {
        "follow": lambda: wb.follow(pair, turned, traced, tokens=2),
        "neighbour_shift": lambda: neighbour_shift(near, traced, **FAST),
        "its controls": lambda: neighbour_shift(
            wb.read_neighbours(pair, problems, states, k=2), traced, controls={"sft": near}, **FAST
        ),
        "cell_table": lambda: cell_table(pair, problems, traced=otherwise),
        "weight_nulls": lambda: weight_nulls(pair, problems, traced=otherwise, draws=1),
        "its others": lambda: weight_nulls(
            pair, problems, traced=traced, kinds=(), others={"sft": otherwise}, draws=1
        ),
        "control_claims": lambda: control_claims(traced, {"sft": otherwise}, **FAST),
        "naming_claims": lambda: naming_claims({"logit lens": traced, "latent lens": near}, shown, **FAST),
        "explorer": lambda: Explorer(traced, neighbours=near),
    }
    for door, enter in doors.items():
        with pytest.raises(InputError) as refused:
            enter()
        assert REFUSED in str(refused.value), door
    with pytest.raises(InputError, match="`followed` is of"):
        Explorer(traced, followed)
    assert Explorer(otherwise, followed, neighbours=near).html()


def test_traces_of_earlier_versions_are_known_by_problem_and_tokens(traced, otherwise, problems):
    def old(one: LensTrace) -> LensTrace:
        return replace(one, prompts=tuple(replace(info, fingerprint="") for info in one.prompts))

    check_same_prompts("`traced`", old(otherwise), traced, "f()")  # what it lacks can't be held against it
    said = replace(old(traced), token_id=traced.token_id.flip(0))
    with pytest.raises(InputError, match=r"prompt 0 .* has other tokens than there; .*: f\(\)"):
        check_same_prompts("`traced`", said, traced, "f()")
    with pytest.raises(InputError, match="`x` has 1 prompts, expected the same 4: f"):
        check_same_prompts("`x`", traced.select(prompt=0), traced, "f()")
    check_same_prompts("`x`", traced.select(prompt=0), traced, "f()", leading=True)
    with pytest.raises(InputError, match="`x` has 4 prompts, expected the same 1"):
        check_same_prompts("`x`", traced, traced.select(prompt=0), "f()", leading=True)


def test_another_pair_s_trace_is_refused(pair, problems, traced):
    def of(model: str) -> LensTrace:
        own = traced.provenance | {model: traced.provenance[model] | {"weights": "theirs"}}
        return replace(traced, provenance=own)

    for model in ("base", "rlvr"):
        theirs = f"is of other models: its {model} model has weights theirs"
        with pytest.raises(InputError, match=theirs):
            wb.follow(pair, problems, of(model), tokens=2)
        with pytest.raises(InputError, match=theirs):
            cell_table(pair, problems, traced=of(model))
        with pytest.raises(InputError, match=theirs):
            weight_nulls(pair, problems, traced=of(model), draws=1)
    with pytest.raises(InputError, match="`others`: 'sft' has another base than `pair`"):
        weight_nulls(pair, problems, traced=traced, kinds=(), others={"sft": of("base")}, draws=1)
    with pytest.raises(InputError, match="`controls`: 'sft' is of other models: its base"):
        control_claims(traced, {"sft": of("base")}, **FAST)


def test_controls_are_read_and_held_as_the_pair_is(pair, problems, traced):
    (control,) = controls_of(pair).values()
    sft = wb.trace(control, problems, top_k=3, null_draws=1)
    assert control_claims(traced, {"sft": sft}, **FAST)
    exchanged = wb.trace(control, problems, top_k=3, null_draws=1, null="exchanged")
    with pytest.raises(InputError, match="'sft' was held against exchanged, expected noise, as the pair"):
        control_claims(traced, {"sft": exchanged}, **FAST)
    some = wb.trace(control, problems, top_k=3, null_draws=1, layers=[0, 7])
    with pytest.raises(InputError, match=r"'sft' has layers \(0, 7\), expected \(0, 1"):
        control_claims(traced, {"sft": some}, **FAST)
    tuned = wb.TunedLens(wb.Translators.identity(pair.depth, pair.base.hidden_size))
    read = wb.trace(pair, problems, top_k=3, null_draws=1, reading=tuned)
    with pytest.raises(InputError, match="'sft' was read through the tuned lens, expected logit lens"):
        control_claims(traced, {"sft": read}, **FAST)
    with pytest.raises(InputError, match="the trace was read by"):
        weight_nulls(pair, problems, traced=traced, kinds=(), others={"sft": read}, draws=1)
    with pytest.raises(InputError, match="the trace was read by"):
        cell_table(pair, problems, traced=read)
