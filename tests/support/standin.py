"""A stand-in for vLLM on the CPU: it checks what it is handed against the recorded schema, and does with it what vLLM documents.

It shares no code with the workbench: placeholders are expanded, embeddings scattered, positions counted and tokens drawn
here, by whole forwards of the checkpoint's decoder on ``inputs_embeds``.
"""

import json
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
import transformers as tf

SCHEMA = json.loads((Path(__file__).parent / "vllm_schema.json").read_text())


def install(monkeypatch):
    """Make `import vllm` find the stand-in; returns the engines that are started, in order."""
    started = []

    class Llm(StandIn):
        def __init__(self, **settings):
            super().__init__(**settings)
            started.append(self)

    module = ModuleType("vllm")
    module.__spec__ = ModuleSpec("vllm", None)
    module.LLM, module.SamplingParams = Llm, SamplingParams
    monkeypatch.setitem(sys.modules, "vllm", module)
    return started


class SamplingParams:
    def __init__(self, **given):
        for name, value in given.items():
            assert type(value).__name__ == SCHEMA["sampling"][name], f"{name} is {value!r}"
        low, high = SCHEMA["logit_bias_range"]
        assert all(low <= bias <= high for bias in given["logit_bias"].values())
        assert given["temperature"] > 0 or given["n"] == SCHEMA["greedy_n"]
        self.__dict__.update(given)


def check_prompt(family, hidden, prompt):
    """Fail unless a prompt fits the schema of its family; sizes that share a letter must agree."""
    required, optional = SCHEMA["prompt"]["required"], SCHEMA["prompt"]["optional"]
    assert set(required) <= set(prompt) <= {*required, *optional}
    assert all(type(i) is int for i in prompt["prompt_token_ids"])
    for modality, data in prompt.get("multi_modal_data", {}).items():
        spec, sizes = SCHEMA["embeddings"][family][modality], {"hs": hidden}
        fields = {None: data} if isinstance(spec, list) else data
        for name, tensor in fields.items():
            dtype, *shape = spec if name is None else spec[name]
            assert tensor.device.type == "cpu"
            assert tensor.is_floating_point() if dtype == "float" else str(tensor.dtype) == f"torch.{dtype}"
            assert tensor.ndim == len(shape), f"{name} has shape {tuple(tensor.shape)}"
            for size, letter in zip(tensor.shape, shape, strict=True):
                assert size == (letter if isinstance(letter, int) else sizes.setdefault(letter, size))


class StandIn:
    def __init__(self, **settings):
        assert set(settings) <= set(SCHEMA["llm"])
        assert settings["enable_mm_embeds"] is True
        self.settings = settings
        folder = settings["model"]
        config = tf.AutoConfig.from_pretrained(folder)
        visual = hasattr(config, "vision_config")
        auto = tf.AutoModelForImageTextToText if visual else tf.AutoModelForCausalLM
        self.model = auto.from_pretrained(folder, dtype=settings["dtype"]).eval()
        self.tokenizer = tf.AutoTokenizer.from_pretrained(folder)
        self.family, self.config = config.model_type, config

    def generate(self, prompts, params, use_tqdm=True):
        assert not use_tqdm
        return [self._answer(prompt, how) for prompt, how in zip(prompts, params, strict=True)]

    @torch.no_grad()
    def _answer(self, prompt, how):
        check_prompt(self.family, self.config.get_text_config().hidden_size, prompt)
        data = prompt.get("multi_modal_data", {})
        ids, rows, places, positions = self._expand(prompt["prompt_token_ids"], data)
        outputs = []
        for i in range(how.n):
            generator = torch.Generator().manual_seed(how.seed + i)
            drawn = []
            while len(drawn) < how.max_tokens:
                logits = self._logits(ids + drawn, rows, places, positions)
                for token, bias in how.logit_bias.items():
                    logits[token] += bias
                chances = (logits / (how.temperature or 1)).softmax(-1)
                token = (
                    torch.multinomial(chances, 1, generator=generator) if how.temperature else logits.argmax()
                )
                drawn.append(int(token))
                text = self.tokenizer.decode(drawn, skip_special_tokens=True)
                if drawn[-1] in how.stop_token_ids or any(s in text for s in how.stop):
                    break
            outputs.append(SimpleNamespace(token_ids=drawn))
        return SimpleNamespace(outputs=outputs)

    def _expand(self, ids, data):
        """One placeholder an item becomes as many as it has features; positions as its model counts them."""
        items, rows = {}, []
        for modality, value in data.items():
            token = getattr(self.config, f"{modality}_token_id")
            if isinstance(value, torch.Tensor):
                items[token] = [(one, None, 1.0) for one in value]
                continue
            grids = value[f"{modality}_grid_thw"]
            merge = self.config.vision_config.spatial_merge_size
            sizes = (grids.prod(-1) // merge**2).tolist()
            seconds = value.get("second_per_grid_ts", torch.ones(len(grids))).tolist()
            rate = (
                getattr(self.config.vision_config, "tokens_per_second", 1.0) if modality == "video" else 1.0
            )
            if self.family == "qwen2_vl":
                rate = 1.0
            split = value[f"{modality}_embeds"].split(sizes)
            shapes = [(t, h // merge, w // merge) for t, h, w in grids.tolist()]
            items[token] = [(e, s, rate * b) for e, s, b in zip(split, shapes, seconds, strict=True)]
        full, places, positions, start = [], [], [], 0
        for token in ids:
            if token not in items:
                full.append(token)
                positions.append(torch.full((3, 1), start))
                start += 1
                continue
            embeds, shape, pace = items[token].pop(0)
            places += range(len(full), len(full) + len(embeds))
            full += [token] * len(embeds)
            rows.append(embeds)
            if shape is None:
                at = torch.arange(len(embeds)).expand(3, -1)
            else:
                at = torch.cartesian_prod(*map(torch.arange, shape)).view(-1, 3).T.clone()
                at[0] = (at[0] * pace).long()
            positions.append(at + start)
            start = int(positions[-1].max()) + 1
        assert not any(items.values()), "an item without a placeholder"
        return full, torch.cat(rows) if rows else None, places, torch.cat(positions, 1)

    def _logits(self, ids, rows, places, positions):
        ids = torch.tensor(ids)
        hidden = self.model.get_input_embeddings()(ids)
        more = len(ids) - positions.shape[1]
        after = torch.arange(more) + int(positions.max()) + 1
        positions, extra = torch.cat([positions, after.expand(3, -1)], 1), {}
        if rows is not None:
            base, *deeper = rows.split(hidden.shape[1], 1)
            hidden[places] = base.to(hidden)
            if deeper:
                mask = torch.zeros(1, len(ids), dtype=torch.bool)
                mask[0, places] = True
                extra = {"visual_pos_masks": mask, "deepstack_visual_embeds": [*deeper]}
        positions = positions[:, None] if self.family.endswith("_vl") else positions[:1]
        decoder = self.model.get_decoder()
        out = decoder(inputs_embeds=hidden[None], position_ids=positions, use_cache=False, **extra)
        return self.model.get_output_embeddings()(out.last_hidden_state[0, -1]).float()
