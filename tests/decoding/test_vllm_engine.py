"""What vLLM is handed, against its recorded schema; its answers, by a stand-in, against those in process."""

from dataclasses import replace

import pytest
import standin
import tiny
import torch

from workbench.analysis.null_models import null_pair
from workbench.decoding.decode import decode, decode_many
from workbench.decoding.stops import Stops
from workbench.decoding.vllm_engine import VllmEngine, _engine, vllm_request
from workbench.errors import InputError
from workbench.experiments.ablation import ablate
from workbench.experiments.agent import run_agent
from workbench.models.loading import load_pair
from workbench.models.prompts import TokenKind
from workbench.replay.patching import Patch, prepare_patch
from workbench.replay.replay import Replay, learn_tokens

LEARN = Replay(layers=2, threshold="quantile", alpha=2000.0, iterations=3)
PICTURES = [
    ("qwen2_vl", {"images": 2}),
    ("qwen2_5_vl", {"images": 2}),
    ("qwen3_vl", {"images": 2}),
    ("llava", {"images": 2}),
    ("qwen2_vl", {"images": 1, "frames": 4}),
    ("qwen2_5_vl", {"images": 1, "frames": 4}),
]


@pytest.fixture(scope="session")
def stored(pair_of, tmp_path_factory):
    """Family -> its tiny pair, loaded from folders."""
    made = {}

    def load(family):
        if family not in made:
            home = tmp_path_factory.mktemp(family)
            for role in ("base", "rlvr"):
                getattr(pair_of(family), role).model.save_pretrained(home / role)
                tiny.processor(family).save_pretrained(home / role)
            made[family] = load_pair(base=home / "base", rlvr=home / "rlvr", device="cpu")
        return made[family]

    return load


@pytest.fixture
def started(monkeypatch):
    """The engines that the stand-in starts."""
    _engine.cache_clear()
    yield standin.install(monkeypatch)
    _engine.cache_clear()


def seen(responses):
    return [(r.text, r.tokens, r.finished) for r in responses]


def request(pair, prompt, **settings):
    return vllm_request(pair.rlvr, prompt, Stops(pair.processor, pair.rlvr, ()), **settings)


def embeddings(data):
    """(features, hidden) of all pictures, images first, as the prompts of these tests have them."""
    found = [v if isinstance(v, torch.Tensor) else v[f"{kind}_embeds"] for kind, v in sorted(data.items())]
    return torch.cat([rows.flatten(0, -2) for rows in found])


@pytest.mark.parametrize(("family", "pictures"), PICTURES)
def test_the_payload_fits_the_documented_schema(pair_of, family, pictures):
    pair = pair_of(family)
    prompt = pair.encode(tiny.problem(family, **pictures))
    handed = request(pair, prompt, samples=3, temperature=1.0)
    standin.check_prompt(family, tiny.HIDDEN, handed.prompt)
    standin.SamplingParams(**handed.sampling)
    assert set(handed.prompt["multi_modal_data"]) == {
        k for k, n in (("image", 1), ("video", "frames" in pictures)) if n
    }
    ids, visual = handed.prompt["prompt_token_ids"], pair.rlvr.visual_token_ids
    assert sum(i in visual for i in ids) == len({*prompt.sources})
    assert [i for i in ids if i not in visual] == [i for i in prompt.input_ids.tolist() if i not in visual]
    assert handed.sampling["n"] == 3
    assert set(handed.sampling["logit_bias"]) == visual


@pytest.mark.parametrize(("family", "pictures"), PICTURES)
def test_tokens_are_added_to_the_embeddings_and_to_nothing_else(pair_of, family, pictures):
    pair = pair_of(family)
    prompt = pair.encode(tiny.problem(family, **pictures))
    learned = learn_tokens(pair, prompt, LEARN)
    assert learned.tokens.any()
    plain, moved = (request(pair, prompt, intervention=made).prompt for made in (None, learned))
    assert plain["prompt_token_ids"] == moved["prompt_token_ids"]
    before, after = (embeddings(p["multi_modal_data"]) for p in (plain, moved))
    torch.testing.assert_close(after[:, : tiny.HIDDEN], before[:, : tiny.HIDDEN] + learned.tokens)
    assert torch.equal(after[:, tiny.HIDDEN :], before[:, tiny.HIDDEN :])
    assert (before.shape[1] > tiny.HIDDEN) == (family == "qwen3_vl")


@pytest.mark.parametrize(("family", "pictures"), [*PICTURES, ("qwen3", {}), ("llama", {})])
def test_greedy_answers_are_those_in_process(stored, started, family, pictures):
    pair = stored(family)
    prompts = [pair.encode(tiny.problem(family, seed=i, **pictures)) for i in range(2)]
    made = [learn_tokens(pair, prompts[0], LEARN) if pictures else None, None]
    for model, interventions in (("rlvr", made), ("base", None)):
        settings = {"model": model, "interventions": interventions, "max_new_tokens": 6}
        expected = decode_many(pair, prompts, **settings)
        found = decode_many(pair, prompts, **settings, engine="vllm")
        assert [seen(r) for r in found] == [seen(r) for r in expected]


def test_samples_are_seeded_stop_where_asked_and_outlive_more_of_them(stored, started):
    pair = stored("qwen2_5_vl")
    prompt = pair.encode(tiny.problem())
    settings = {"temperature": 1.0, "seed": 3, "max_new_tokens": 10, "engine": "vllm"}
    four = decode(pair, prompt, samples=4, **settings)
    assert [r.sample for r in four] == [0, 1, 2, 3]
    assert seen(decode(pair, prompt, samples=2, **settings)) == seen(four[:2])
    assert seen(decode(pair, prompt, samples=4, **settings | {"seed": 4})) != seen(four)
    stop = next(letter for r in four for letter in r.text[1:] if letter.isascii())
    cut = decode(pair, prompt, samples=4, stop=[stop], **settings)
    for long, short in zip(four, cut, strict=True):
        assert short.text == "".join(long.text.partition(stop)[:2])
        assert short.finished == (long.finished or stop in long.text)
        assert short.tokens <= long.tokens
    greedy = decode(pair, prompt, samples=3, max_new_tokens=4, engine="vllm")
    assert len({r.text for r in greedy}) == 1
    assert len(greedy) == 3


def test_an_engine_by_name_is_loaded_once_for_each_model_in_turn(stored, started):
    pair = stored("qwen2_5_vl")
    prompt = pair.encode(tiny.problem())
    for model in ("base", "base", "rlvr", "rlvr", "base"):
        decode(pair, prompt, model=model, max_new_tokens=1, engine="vllm")
    folders = [engine.settings["model"] for engine in started]
    assert folders == [pair.provenance[role]["id"] for role in ("base", "rlvr", "base")]
    assert started[0].settings["dtype"] == "float32"
    assert started[0].settings["limit_mm_per_prompt"] == {"image": 0, "video": 0}
    own = VllmEngine(folders[1], dtype="float32", max_model_len=512)
    decode(pair, prompt, max_new_tokens=1, engine=own)
    decode(pair, prompt, max_new_tokens=1, engine=own)
    assert len(started) == 4
    assert started[3].settings["max_model_len"] == 512


def test_qwen3_vl_keeps_the_tower_that_its_later_layers_need(stored, started):
    pair = stored("qwen3_vl")
    decode(pair, pair.encode(tiny.problem("qwen3_vl", images=0)), max_new_tokens=1, engine="vllm")
    assert started[0].settings["limit_mm_per_prompt"] == {"image": 0, "video": 1}


def test_a_family_that_vllm_cannot_import_is_refused_for_that(stored, started, monkeypatch):
    def failing(**settings):
        raise ValueError("1 validation error for ModelConfig")

    def broken(name):
        assert name == "vllm.model_executor.models.llava"
        raise ImportError("cannot import name 'PixtralRotaryEmbedding'")

    monkeypatch.setattr("vllm.LLM", failing)
    monkeypatch.setattr("vllm.__version__", "0.30.0", raising=False)
    pair = stored("llava")
    prompt = pair.encode(tiny.problem("llava"))
    with pytest.raises(ValueError, match="1 validation error"):  # for another reason: vLLM's own words
        decode(pair, prompt, engine="vllm")
    monkeypatch.setattr("workbench.decoding.vllm_engine.import_module", broken)
    with pytest.raises(
        InputError, match=r"can't import its own llava \(cannot import name 'PixtralRotaryEmbedding'\)"
    ):
        decode(pair, prompt, engine="vllm")


def test_ablations_and_agents_draw_from_it(stored, started):
    pair, problems = stored("qwen2_5_vl"), [tiny.problem(seed=i) for i in range(2)]
    settings = {"samples": 2, "max_new_tokens": 3, "resamples": 20}
    here = ablate(pair, problems, [LEARN], **settings)
    there = ablate(pair, problems, [LEARN], **settings, engine="vllm")
    assert there.settings["engine"] == "vllm"
    assert len(started) == 2
    greedy = [a.responses[a.responses["sample"] == -1]["text"].tolist() for a in (here, there)]
    assert greedy[0] == greedy[1]
    with pytest.raises(
        InputError, match="`interventions` has patch, low; leave these out, or decode in process"
    ):
        ablate(pair, problems, [LEARN, Patch(layers=2)], **settings, engine="vllm")
    run = {"intervention": LEARN, "turns": 1, "max_new_tokens": 4}
    found = run_agent(pair, problems[0], **run, engine="vllm")
    assert [t.text for t in found.turns] == [t.text for t in run_agent(pair, problems[0], **run).turns]
    assert found.settings["engine"] == "vllm"


def test_what_embeddings_cannot_carry_is_refused(pair_of, tiny_pair):
    prompt = tiny_pair.encode(tiny.problem())
    patch = prepare_patch(tiny_pair, prompt, Patch(layers=2))
    with pytest.raises(InputError, match="only tokens at layer 0 can be exported as embeddings"):
        request(tiny_pair, prompt, intervention=patch)
    learned = learn_tokens(tiny_pair, prompt, LEARN)
    words = prompt.kinds == TokenKind.TEXT
    everywhere = replace(learned, places=words, tokens=torch.ones(int(words.sum()), tiny.HIDDEN))
    with pytest.raises(InputError, match="also writes positions that hold no picture"):
        request(tiny_pair, prompt, intervention=everywhere)
    with pytest.raises(InputError, match=r"`temperature` is 0.001; vLLM draws at 0.01 instead"):
        request(tiny_pair, prompt, temperature=0.001)
    for family, reason in (
        ("llava_onevision", "equally many embeddings for every image"),
        ("internvl", "equally many embeddings for every image"),
        ("gemma3", "takes no image embeddings"),
        ("smolvlm", "counts placeholders by an image's size"),
    ):
        pair = pair_of(family)
        with pytest.raises(InputError, match=reason):
            request(pair, pair.encode(tiny.problem(family)))
        words = pair.encode(tiny.problem(family, images=0))
        assert set(request(pair, words).prompt) == {"prompt_token_ids"}
    for family, frames, reason in (
        ("qwen3_vl", 4, "timestamps of a video's frames"),
        ("qwen2_5_vl", 12, "more moments than either side"),
        ("qwen2_vl", 12, "more moments than either side"),
    ):
        pair = pair_of(family)
        with pytest.raises(InputError, match=reason):
            request(pair, pair.encode(tiny.problem(family, images=0, frames=frames)))


def test_an_engine_that_cannot_stand_for_the_model_is_refused(stored, started, tiny_pair):
    pair = stored("qwen2_5_vl")
    prompt = pair.encode(tiny.problem())
    with pytest.raises(InputError, match="no checkpoint holds the weights that its rlvr model has now"):
        decode(tiny_pair, prompt, engine="vllm")
    null = null_pair(pair, "permuted")
    with pytest.raises(InputError, match=r"save it with its processor, and give the folder"):
        decode(null, prompt, engine="vllm")
    bundled = load_pair("shapes", checkpoint="sft", device="cpu")
    with pytest.raises(InputError, match="no checkpoint holds the weights"):
        decode(bundled, prompt, engine="vllm")
    with pytest.raises(InputError, match="`engine` is 'sglang'; expected None, 'vllm' or a VllmEngine"):
        decode(pair, prompt, engine="sglang")
    assert not started


def test_without_vllm_the_extra_is_named(stored, monkeypatch):
    monkeypatch.setattr("workbench.decoding.vllm_engine.find_spec", lambda name: None)
    _engine.cache_clear()
    pair = stored("qwen2_5_vl")
    with pytest.raises(InputError, match=r'pip install -e "\.\[vllm\]"'):
        decode(pair, pair.encode(tiny.problem()), engine="vllm")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_vllm_itself_answers_as_the_process_does():
    pytest.importorskip("vllm")
    from workbench.problems.problem import load_problems

    pair = load_pair("shapes", device="cuda")
    prompts = [pair.encode(problem) for problem in load_problems("shapes", split="test", limit=8)]
    learned = [learn_tokens(pair, prompt, Replay(layers=5, threshold="quantile")) for prompt in prompts]
    for interventions in (None, learned):
        settings = {"interventions": interventions, "max_new_tokens": 64}
        expected = decode_many(pair, prompts, **settings)
        found = decode_many(pair, prompts, **settings, engine="vllm")
        assert [seen(r) for r in found] == [seen(r) for r in expected]
