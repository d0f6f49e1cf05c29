"""One model at a time learns exactly what two side by side learn, and the base is truncated and gone before RLVR comes."""

import gc
import weakref

import pytest
import tiny
import torch

from workbench import sequential
from workbench.decoding import decode
from workbench.errors import InputError
from workbench.pairs import load_pair
from workbench.replay import Replay, learn_many
from workbench.sequential import learn_sequentially

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
    together = learn_many(pair, [pair.encode(p) for p in problems], settings)
    loaded = []
    real = sequential.load_model

    def watched(role, *args, **kwargs):
        gc.collect()
        assert all(model() is None for _, model, _ in loaded), "the base is still in memory"
        model = real(role, *args, **kwargs)
        loaded.append((role, weakref.ref(model), len(model.get_decoder().layers)))
        return model

    monkeypatch.setattr(sequential, "load_model", watched)
    result = learn_sequentially(problems, settings, **folders)
    assert [(role, depth) for role, _, depth in loaded] == [("base", 2), ("rlvr", tiny.LAYERS)]
    for one, other in zip(result.learned, together, strict=True):
        assert torch.equal(one.mask, other.mask)
        assert torch.equal(one.tokens, other.tokens)
        assert torch.equal(one.losses, other.losses)
    said = decode(result.pair, result.prompts[0], intervention=result.learned[0], max_new_tokens=4)
    assert said == decode(pair, pair.encode(problems[0]), intervention=together[0], max_new_tokens=4)


def test_what_is_refused(folders, tmp_path):
    with pytest.raises(
        InputError, match="`replay` has the direction 'reverse'; one model at a time works for"
    ):
        learn_sequentially([tiny.problem()], Replay(direction="reverse"), **folders)
    with pytest.raises(InputError, match="`layers` is 9, but the models have 3 layers"):
        learn_sequentially([tiny.problem()], Replay(layers=9), **folders)
    tiny.model("qwen2_5_vl", num_hidden_layers=2).save_pretrained(tmp_path / "short")
    with pytest.raises(
        InputError, match=r"`rlvr` .*short.* has \(family, hidden, vocabulary, depth\).*one architecture"
    ):
        learn_sequentially([tiny.problem()], SETTINGS, **{**folders, "rlvr": tmp_path / "short"})
