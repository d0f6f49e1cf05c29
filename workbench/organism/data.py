"""Training data: packed examples for supervised fine-tuning, and pictures turned to patches without the slow path.

A packed example is one picture followed by several questions with their responses. Each question sees the picture and
itself, not its neighbours (block-sparse causal mask, positions restarted), so that the sequence trains what single
prompts would, at about half the cost.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as tv

from workbench import shapes

IGNORE = -100
EASY_COLORS = ("black", "gray", "red", "teal", "brown", "green", "blue", "yellow")
EASY_SHAPES = ("circle", "rectangle", "triangle")
COUNTED = len(shapes.COLORS) + len(shapes.SHAPES)


def patchify(pictures: Tensor) -> Tensor:
    """(B, 112, 112, 3) uint8 -> (B * 64, 1176) patches, exactly what the pair's image processor makes of them."""
    patch, merge, frames = 14, 2, 2
    cells = shapes.SIDE // patch // merge
    x = (pictures.float() / 255 - 0.5) / 0.5
    x = x.view(len(x), cells, merge, patch, cells, merge, patch, 3).permute(0, 1, 4, 2, 5, 7, 3, 6)
    x = x.unsqueeze(6).expand(*x.shape[:6], frames, patch, patch)
    return x.reshape(-1, 3 * frames * patch * patch)


def easy_vqa(split: str) -> list[dict[str, Any]]:
    """easy-VQA's images (64 x 64) with their questions, answers, and the color and shape that the answers reveal."""
    import easy_vqa as package

    read = {"train": (package.get_train_questions, package.get_train_image_paths)}
    read["test"] = (package.get_test_questions, package.get_test_image_paths)
    questions, paths = (get() for get in read[split])
    asked = defaultdict(list)
    for text, answer, image in zip(*questions, strict=True):
        asked[image].append((text, answer))
    records = []
    for image, pairs in sorted(asked.items()):
        words: set[str] = set()
        for text, answer in pairs:
            if answer not in ("yes", "no"):  # "what color is the triangle?": the premise tells the shape
                words |= {answer, *text.rstrip("?").split()}
            elif (answer == "yes") != (" not " in text or " no " in text):
                words |= set(text.rstrip("?").split())
        color = next((c for c in EASY_COLORS if c in words), None)
        shape = next((s for s in EASY_SHAPES if s in words), None)
        records.append({"path": paths[image], "asked": pairs, "color": color, "shape": shape})
    return records


@dataclass
class Template:
    """The pieces of the chat template as token ids, so that packing needs no string work in the loop."""

    tokenizer: Any
    visual_tokens: int = shapes.BOARD**2

    def __post_init__(self) -> None:
        ids = self.ids
        self.opening = ids("<|im_start|>user\n<|vision_start|>")
        self.placeholder = ids("<|image_pad|>")
        self.vision_end = ids("<|vision_end|>")
        self.closing = ids("<|im_end|>\n<|im_start|>assistant\n")
        self.stop = ids("<|im_end|>")

    def ids(self, text: str) -> list[int]:
        """Token ids of `text`, special tokens recognised."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


class PackedBoards(Dataset[dict[str, Tensor]]):
    """Example i is a pure function of (recipe seed, i): training resumes exactly where it stopped."""

    def __init__(self, tokenizer: Any, sft: dict[str, Any], seed: int) -> None:
        self.template, self.sft, self.seed = Template(tokenizer), sft, seed
        self.easy = [r for r in easy_vqa("train") if r["color"] and r["shape"]]

    def __len__(self) -> int:
        return self.sft["steps"] * self.sft["boards_per_step"]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.seed, 17, index])
        share = self.sft["hasty_share"]
        if rng.random() < self.sft["easy_vqa_share"]:
            picture, asked, cells = self._easy(rng)
        else:
            picture, asked, cells = self._board(rng)
        texts = [(q.text, q.response("hasty" if rng.random() < share[q.tone] else "careful")) for q in asked]
        return {**self._pack(texts), "picture": torch.from_numpy(picture), **cells}

    def _board(self, rng: np.random.Generator) -> tuple[np.ndarray, list[shapes.Question], dict[str, Tensor]]:
        board = shapes.sample_board(rng)
        asked: list[shapes.Question] = []
        while len(asked) < self.sft["questions_per_board"]:
            if rng.random() < self.sft["reading_share"]:
                asked.append(shapes.read_aloud(board, rng))
                continue
            question = shapes.ask(board, str(rng.choice(shapes.FAMILIES)), rng)
            asked += [question] if question else []
            if not (board.color >= 0).any():
                board = shapes.sample_board(rng)
        is_color = board.color[..., None] == np.arange(len(shapes.COLORS))
        is_shape = board.shape[..., None] == np.arange(len(shapes.SHAPES))
        counts = np.concatenate([is_color, is_shape], -1).cumsum(1)  # so far in the row, of each value
        cells = {
            "color": torch.from_numpy(board.color.reshape(-1) + 1),
            "shape": torch.from_numpy(board.shape.reshape(-1) + 1),
            "counts": torch.from_numpy(counts.reshape(shapes.BOARD**2, -1)),
        }
        return shapes.render(board, rng), asked, cells

    def _easy(self, rng: np.random.Generator) -> tuple[np.ndarray, list[shapes.Question], dict[str, Tensor]]:
        record = self.easy[rng.integers(len(self.easy))]
        picture = tv.resize(
            torch.from_numpy(np.array(Image.open(record["path"]).convert("RGB"))).permute(2, 0, 1),
            [shapes.SIDE, shapes.SIDE],
            interpolation=tv.InterpolationMode.BICUBIC,
            antialias=True,
        )
        flips = [axis for axis in (1, 2) if rng.random() < 0.5]
        picture = (picture.flip(flips) if flips else picture).permute(1, 2, 0).contiguous().numpy()
        chosen = rng.integers(len(record["asked"]), size=self.sft["questions_per_board"])
        pairs = [record["asked"][i] for i in chosen]
        asked = [easy_question(text, answer, record["color"], record["shape"]) for text, answer in pairs]
        blank = torch.full((shapes.BOARD**2,), IGNORE)
        cells = {"color": blank, "shape": blank, "counts": blank[:, None].expand(-1, COUNTED).clone()}
        return picture, asked, cells

    def _pack(self, texts: list[tuple[str, str]]) -> dict[str, Tensor]:
        t = self.template
        ids = [*t.opening, *t.placeholder * t.visual_tokens, *t.vision_end]
        start = len(t.opening)
        after = start + shapes.BOARD
        rows, columns = np.divmod(np.arange(t.visual_tokens), shapes.BOARD)
        text = np.arange(start)
        axes = [text, text, text]
        axes = [
            np.concatenate([a, b, [after]])
            for a, b in zip(
                axes, (np.full(t.visual_tokens, start), start + rows, start + columns), strict=True
            )
        ]
        labels, document = [IGNORE] * len(ids), [0] * len(ids)
        for number, (question, response) in enumerate(texts, 1):
            head = [*t.ids(question), *t.closing]
            body = [*t.ids(response), *t.stop]
            axes = [np.concatenate([a, after + 1 + np.arange(len(head) + len(body))]) for a in axes]
            ids += head + body
            labels += [IGNORE] * len(head) + body
            document += [number] * (len(head) + len(body))
        return {
            "input_ids": torch.tensor(ids),
            "labels": torch.tensor(labels),
            "document": torch.tensor(document),
            "position_ids": torch.from_numpy(np.stack(axes)),
        }


def easy_question(text: str, answer: str, color: str, shape: str) -> shapes.Question:
    """An easy-VQA question in the form of the other families."""
    chain = f"cell {color} {shape}"
    return shapes.Question("easy-vqa", text, answer, chain, chain, answer)


def collate(examples: list[dict[str, Tensor]], pad: int) -> dict[str, Tensor]:
    """Right-pad packed examples and build their (B, 1, S, S) additive mask: own question and picture, causal."""
    longest = max(len(e["input_ids"]) for e in examples)

    def padded(key: str, value: int) -> Tensor:
        return torch.stack(
            [torch.nn.functional.pad(e[key], (0, longest - e[key].shape[-1]), value=value) for e in examples]
        )

    document = padded("document", -1)
    same = (document[:, :, None] == document[:, None, :]) | (document[:, None, :] == 0)
    allowed = same & torch.ones(longest, longest, dtype=torch.bool).tril()
    side = shapes.SIDE // 14
    return {
        "input_ids": padded("input_ids", pad),
        "labels": padded("labels", IGNORE),
        "position_ids": padded("position_ids", 0).transpose(0, 1),
        "attention_mask": allowed[:, None],
        "pixel_values": patchify(torch.stack([e["picture"] for e in examples])),
        "image_grid_thw": torch.tensor([[1, side, side]] * len(examples)),
        **{key: torch.stack([e[key] for e in examples]) for key in ("color", "shape", "counts")},
    }
