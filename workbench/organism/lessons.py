"""What a pair of adapters is trained on: the questions of a generated set, with chain, answer and, where one is, picture."""

from dataclasses import dataclass
from typing import Any

from PIL import Image

from workbench.problems import cards, sums

PICTURE = ("pixel_values", "image_grid_thw")
"""What a model reads of pictures: patches, and how many of them in each direction."""
TYPES = "mm_token_type_ids"


@dataclass(frozen=True)
class Lesson:
    """One problem of a train split."""

    text: str
    chain: str
    answer: str
    picture: Image.Image | None = None

    def chat(self, system: str) -> list[dict[str, Any]]:
        """What a chat template makes a prompt of, as `ModelPair.encode` does."""
        seen = [{"type": "image"}] if self.picture else []
        question = [*seen, {"type": "text", "text": self.text}] if seen else self.text
        return [{"role": "system", "content": system}, {"role": "user", "content": question}]

    def prompt(self, reader: Any, system: str) -> dict[str, Any]:
        """Its token ids by a tokenizer; by a processor also patches, grid and the kind of each token."""
        text = reader.apply_chat_template(self.chat(system), add_generation_prompt=True, tokenize=False)
        if self.picture is None:
            return {"input_ids": reader(text, add_special_tokens=False)["input_ids"]}
        read = reader(
            text=[text],
            images=[[self.picture]],
            return_tensors="pt",
            text_kwargs={"add_special_tokens": False},
        )
        ids = read["input_ids"][0].tolist()
        kinds = [int(token == reader.image_token_id) for token in ids]
        return {"input_ids": ids, TYPES: kinds, **{name: read[name] for name in PICTURE}}


def draw(problems: str, seed: int, index: int) -> Lesson:
    """Problem number ``index`` of the train split of ``sums`` or ``cards``."""
    if problems == "sums":
        question = sums.draw("train", seed, index)
        chain, answer = question.chain()
        return Lesson(question.text, chain, str(answer))
    asked, picture, hand = cards.draw("train", seed, index)
    chain, answer = cards.solution(asked, hand)
    return Lesson(asked.text, chain, str(answer), Image.fromarray(picture))
