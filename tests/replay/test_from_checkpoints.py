"""One model at a time learns exactly what two side by side learn, and the base is truncated and gone before RLVR comes."""

import gc
import weakref

import pytest
import tiny
import torch

from workbench.decoding.decode import decode
from workbench.errors import InputError
from workbench.models.loading import load_pair
from workbench.replay import from_checkpoints as placement
from workbench.replay.from_checkpoints import learn_problems
from workbench.replay.replay import Replay, learn_many

SETTINGS = Replay(layers=2, threshold="quantile", alpha=50.0, iterations=3)


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tiny_pair):
    home = tmp_path_factory.mktemp("pair")
    for role, anatomy in (("base", tiny_pair.base), ("rlvr", tiny_pair.rlvr)):
        anatomy.model.save_pretrained(home / role)
        tiny_pair.processor.save_pretrained(home / role)
    return {"base": home / "base", "rlvr": home / "rlvr", "device": "cpu"}


@pytest.mark.parametrize("settings", [SETTINGS, Replay(site="mid_tokens", layer=1, tau=1.0, iterations=2)])
def test_it_learns_what_two_models_side_by_side_learn(folders, settings, monkeypatch):
    problems = [tiny.problem(seed=i) for i in range(3)]
    pair = load_pair(**folders)
    whole = learn_many(pair, [pair.encode(p) for p in problems], settings)
    loaded = []
    real = placement.load_model

    def watched(role, *args, **kwargs):
        gc.collect()
        assert all(model() is None for _, model, _ in loaded), "the base is still in memory"
        model = real(role, *args, **kwargs)
        loaded.append((role, weakref.ref(model), len(model.get_decoder().layers)))
        return model

    monkeypatch.setattr(placement, "load_model", watched)
    result = learn_problems(problems, settings, **folders, placement="sequential")
    assert [(role, depth) for role, _, depth in loaded] == [("base", 2), ("rlvr", tiny.LAYERS)]
    for one, other in zip(result.learned, whole, strict=True):
        assert torch.equal(one.mask, other.mask)
        assert torch.equal(one.tokens, other.tokens)
        assert torch.equal(one.losses, other.losses)
    said = decode(result.pair, result.prompts[0], intervention=result.learned[0], max_new_tokens=4)
    assert said == decode(pair, pair.encode(problems[0]), intervention=whole[0], max_new_tokens=4)


def test_both_placements_give_the_same(folders):
    problems = [tiny.problem(seed=i) for i in range(2)]
    found = [learn_problems(problems, SETTINGS, **folders, placement=p) for p in ("together", "sequential")]
    for one, other in zip(*(result.learned for result in found), strict=True):
        assert torch.equal(one.tokens, other.tokens)
    assert found[0].pair.base is not found[0].pair.rlvr
    assert found[1].pair.base is found[1].pair.rlvr


def test_what_is_refused(folders, tmp_path):
    with pytest.raises(InputError, match="`placement` is 'parallel'; expected 'together' or 'sequential'"):
        learn_problems([tiny.problem()], SETTINGS, **folders, placement="parallel")
    with pytest.raises(
        InputError, match="`replay` has the direction 'reverse'; one model at a time works for"
    ):
        learn_problems([tiny.problem()], Replay(direction="reverse"), **folders, placement="sequential")
    empty = Replay(layers=2, tau=0.1)
    for placed in ("together", "sequential"):
        with pytest.raises(InputError, match="selects no visual position of 2 of 2 prompts in any layer"):
            learn_problems([tiny.problem(seed=i) for i in (0, 1)], empty, **folders, placement=placed)
    with pytest.raises(InputError, match="`layers` is 9, but the models have 3 layers"):
        learn_problems([tiny.problem()], Replay(layers=9), **folders, placement="sequential")
    tiny.model("qwen2_5_vl", num_hidden_layers=2).save_pretrained(tmp_path / "short")
    with pytest.raises(
        InputError, match=r"`rlvr` .*short.* has \(family, hidden, vocabulary, depth\).*one architecture"
    ):
        learn_problems(
            [tiny.problem()],
            SETTINGS,
            **{**folders, "rlvr": tmp_path / "short"},
            placement="sequential",
        )
