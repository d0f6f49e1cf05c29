"""One thing changed in both models: entropy and not the norm, the norm and not entropy; KL of later layers by an oracle."""

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

import workbench as wb
from workbench.errors import InputError
from workbench.experiments import causes as module
from workbench.experiments.causes import Cause, causes
from workbench.replay.disturbances import covered
from workbench.tracing.both_models import compare_residuals
from workbench.tracing.model_heads import lens_heads


@pytest.fixture(scope="module")
def pair():
    return wb.load_pair("shapes")


@pytest.fixture(scope="module")
def problems():
    return wb.load_problems("shapes", limit=16)


@pytest.fixture(scope="module")
def moved(pair, problems):
    return causes(pair, problems, layer=1, null_draws=1, resamples=50)


def test_each_cause_moves_what_it_says(moved):
    table = moved.table.set_index("cause")
    steered, others = ["sharpen 0.3", "flatten 0.3"], ["scale 2", "scale 0.5", "cover"]
    controls = [f"{kind} like {cause}" for cause in steered for kind in ("turn", "reword")]
    assert [*table.index] == [*steered, *controls, *others]
    there = table["entropy_there"]
    assert there["sharpen 0.3"] < 0 < there["flatten 0.3"]
    assert abs(there[["scale 2", "scale 0.5"]]).max() < 1e-5
    for cause in steered:
        turn, reword = (f"{kind} like {cause}" for kind in ("turn", "reword"))
        assert table["angle"][turn] == pytest.approx(table["angle"][cause], rel=1e-4)
        assert table["angle"][reword] == pytest.approx(table["angle"][cause], rel=0.05)
        assert 0 < table["angle"][cause] < 0.3
        assert abs(there[reword]) < 5e-3
        # A random turn is hardly read; other words are.
        assert table["moved_there"][reword] > 2 * table["moved_there"][turn] > 0
    assert table["moved_there"]["scale 2"] == pytest.approx(0, abs=1e-5)
    assert (table["problems"] == 16).all()
    for control in ("turn", "reword"):
        for measure, beside in (
            ("factor", f"beside_{control}"),
            ("over_null", f"over_null_beside_{control}"),
        ):
            assert table[beside].notna().tolist() == [True, True, *[False] * 7]
            for cause in steered:
                wanted = table[measure][cause] / table[measure][f"{control} like {cause}"]
                assert table[beside][cause] == pytest.approx(wanted)
    assert len(moved.claims) == 8
    assert len(moved.plot().data) == 2
    assert np.isfinite(table[["factor_low", "factor_high"]].to_numpy()).all()


def test_a_turn_of_nothing_changes_nothing(pair, problems):
    table = causes(pair, problems[:8], causes=[Cause("turn", 1e-6)], resamples=20).table
    assert table["factor"].iloc[0] == pytest.approx(1, abs=1e-3)
    assert table["over_null"].iloc[0] == pytest.approx(1, abs=1e-3)


def test_shift_of_scaled_cells_is_that_of_a_forward_by_hand(pair, problems):
    problem = problems[0]
    prompt = pair.encode(problem)
    _, here = module._places(prompt, 0)
    run = module._Run(pair, lens_heads(pair), 2, 1, 0)
    there = run.there(prompt, here)
    double_them = run.change(prompt, there, Cause("scale", 2.0))
    sums = run.sums(prompt, here, there, double_them(there), double_them)

    def double(hidden):
        factor = torch.ones(hidden.shape[1], 1)
        factor[here] = 2.0
        return hidden * factor

    # KL by full log probabilities, in a model whose layer 3 receives the doubled residuals.
    wanted = 0.0
    heads = lens_heads(pair)
    read = compare_residuals(
        pair,
        [prompt],
        lambda layer, base, rlvr: (base.clone(), rlvr.clone()),
        write={3: double},
        write_base={3: double},
    )
    for layer in range(3, pair.depth - 1):
        log_p, log_q = (
            head.logits(h[here]).double().log_softmax(-1) for head, h in zip(heads, read[layer], strict=True)
        )
        wanted += float((log_p.exp() * (log_p - log_q)).sum())
    assert sums[0] == pytest.approx(wanted, rel=1e-3)
    assert sums[6] == len(here) * (pair.depth - 1 - 3)


def test_turns_leave_the_change_at_their_layer(pair, problems):
    prompt = pair.encode(problems[1])
    _, here = module._places(prompt, 0)
    run = module._Run(pair, lens_heads(pair), 2, 1, 0)
    edit = module.written(here, run.change(prompt, run.there(prompt, here), Cause("sharpen", 0.3)))
    hidden = [torch.randn(1, len(prompt), pair.base.unembedding.weight.shape[1]) for _ in range(2)]
    changes = [edit(h) - h for h in hidden]
    torch.testing.assert_close(*changes, rtol=1e-4, atol=1e-5)
    others = torch.ones(len(prompt), dtype=torch.bool)
    others[here] = False
    assert (changes[0][0, others] == 0).all()
    assert (changes[0][0, here].norm(dim=-1) > 0).all()


def test_covered_places_have_the_mean_colour_and_no_others(pair, problems):
    problem = problems[0]
    prompt = pair.encode(problem)
    visual = (prompt.kinds == 1).nonzero().flatten()[[0, 5]]
    picture = np.array(problem.images[0])
    hidden = np.array(covered(problem, prompt, visual).images[0])
    mean = picture.reshape(-1, 3).mean(0).round()
    _, rows, columns = prompt.grids[0]
    height, width = picture.shape[0] // rows, picture.shape[1] // columns
    wanted = picture.copy()
    for place in visual.tolist():
        _, row, column = prompt.grid[place].tolist()
        wanted[row * height : (row + 1) * height, column * width : (column + 1) * width] = mean
    assert (hidden == wanted).all()
    assert isinstance(problem.images[0], Image.Image)
    with pytest.raises(InputError, match="does not stand for one place of a whole picture"):
        covered(problem, prompt, torch.tensor([0]))


def test_text_pairs_have_text_positions_and_nothing_to_cover():
    text = tiny.pair("llama", torch.float32, num_hidden_layers=4)
    problems = [tiny.problem("llama", seed=seed) for seed in range(3)]
    table = causes(text, problems, layer=0, null_draws=1, resamples=20).table
    assert set(table["kind"]) == {"text"}
    assert "cover" not in set(table["cause"])
    assert table.set_index("cause")["entropy_there"]["sharpen 0.3"] < 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"causes": []}, "`causes` is []; expected some"),
        ({"causes": [Cause("turn"), Cause("turn")]}, "holds the same more than once"),
        ({"layer": 6}, "`layer` is 6; expected 0 to 5"),
        ({"null_draws": 0}, "`null_draws` is 0; expected at least 1"),
    ],
)
def test_bad_settings_are_refused(pair, problems, settings, words):
    with pytest.raises(InputError) as caught:
        causes(pair, problems, **settings)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "strength"), [("turn", 0.0), ("sharpen", 2.0), ("scale", -1.0), ("wobble", 0.3)]
)
def test_bad_causes_are_refused(kind, strength):
    with pytest.raises(InputError, match=r"expected .*Cause\("):
        Cause(kind, strength)


@pytest.mark.parametrize(("kind", "like"), [("scale", Cause("sharpen")), ("turn", Cause("scale"))])
def test_only_turns_are_like_steered_ones(kind, like):
    with pytest.raises(InputError, match=r"expected a turn or reword like .*Cause\("):
        Cause(kind, like=like)
