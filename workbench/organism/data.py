"""Training data: packed examples for supervised fine-tuning, and pictures turned to patches without the slow path.

A packed example is one picture followed by several questions with their responses, or by several conversations with
the zoom tool; or several videos with a question each. Each question sees the picture and itself, not its neighbours
(block-sparse causal mask, positions restarted), so that the sequence trains what single prompts would, at about half
the cost.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as tv

from workbench.problems import shapes, shapes_agent, shapes_video

IGNORE = -100
EASY_COLORS = ("black", "gray", "red", "teal", "brown", "green", "blue", "yellow")
EASY_SHAPES = ("circle", "rectangle", "triangle")
COUNTED = len(shapes.COLORS) + len(shapes.SHAPES)
CELLS = 16
"""Visual tokens of a picture, and of a video."""


def patchify(pictures: Tensor) -> Tensor:
    """(B, S, S, 3) uint8 -> (B * (S / 14)**2, 1176) patches, exactly what the pair's image processor makes of them.

    A moment of a video, two equal frames, becomes the same patches as one picture.
    """
    patch, merge, frames = 14, 2, 2
    cells = pictures.shape[1] // patch // merge
    x = (pictures.float() / 255 - 0.5) / 0.5
    x = x.view(len(x), cells, merge, patch, cells, merge, patch, 3).permute(0, 1, 4, 2, 5, 7, 3, 6)
    x = x.unsqueeze(6).expand(*x.shape[:6], frames, patch, patch)
    return x.reshape(-1, 3 * frames * patch * patch)


def easy_vqa(split: str) -> list[dict[str, Any]]:
    """easy-VQA's images (64 x 64) with their questions, answers, and the color and shape that the answers reveal."""
    import easy_vqa as package

    getters = {"train": (package.get_train_questions, package.get_train_image_paths)}
    getters["test"] = (package.get_test_questions, package.get_test_image_paths)
    questions, paths = (get() for get in getters[split])
    by_image = defaultdict(list)
    for text, answer, image in zip(*questions, strict=True):
        by_image[image].append((text, answer))
    records = []
    for image, pairs in sorted(by_image.items()):
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


@dataclass(frozen=True)
class View:
    """What 16 visual tokens show: a picture (112, 112, 3), or the moments of a video (4, 56, 56, 3), both uint8.

    The rest is what each of the 16 cells holds, for the throw-away head; `IGNORE` where it is not to be asked.
    """

    pixels: Tensor
    color: Tensor
    shape: Tensor
    counts: Tensor

    @property
    def is_video(self) -> bool:
        """Whether it is a video."""
        return self.pixels.ndim == 4


@dataclass(frozen=True)
class Said:
    """A text of a conversation; the model learns to write it where ``learnt``."""

    text: str
    learnt: bool = False


Piece = Said | View


@dataclass(frozen=True)
class Packer:
    """Turns a shared beginning and several ways to go on from it into one sequence."""

    tokenizer: Any
    tokens_a_second: int = 4
    """Of Qwen2.5-VL's config; a moment of the generated videos takes a second."""

    def ids(self, text: str) -> list[int]:
        """Token ids of ``text``, special tokens recognised."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def pack(self, shared: Sequence[Piece], branches: Sequence[Sequence[Piece]]) -> dict[str, Any]:
        """Tensors of one example: input_ids, labels, document (0: shared), position_ids (3, S), and its views in order."""
        ids, labels, documents, axes = list[int](), list[int](), list[int](), list[np.ndarray]()
        start = 0
        for document, pieces in enumerate([shared, *branches]):
            position = start
            for piece in pieces:
                new, places = self._tokens(piece)
                ids += new
                labels += new if isinstance(piece, Said) and piece.learnt else [IGNORE] * len(new)
                documents += [document] * len(new)
                axes.append(position + places)
                # As Qwen2.5-VL counts: a picture or video takes as many positions as it has columns.
                position += len(new) if isinstance(piece, Said) else int(places[2].max()) + 1
            start = start if document else position
        return {
            "input_ids": torch.tensor(ids),
            "labels": torch.tensor(labels),
            "document": torch.tensor(documents),
            "position_ids": torch.from_numpy(np.concatenate(axes, 1)),
            "views": [piece for pieces in (shared, *branches) for piece in pieces if isinstance(piece, View)],
        }

    def _tokens(self, piece: Piece) -> tuple[list[int], np.ndarray]:
        """Token ids of a piece, and their places (3, n): time, row and column, from 0."""
        if isinstance(piece, Said):
            ids = self.ids(piece.text)
            return ids, np.tile(np.arange(len(ids)), (3, 1))
        moments, side = (
            (len(shapes_video.MOMENTS), shapes_video.SIDE) if piece.is_video else (1, shapes.BOARD)
        )
        t, row, column = np.indices((moments, side, side)).reshape(3, -1)
        pad = self.ids("<|video_pad|>" if piece.is_video else "<|image_pad|>")
        return pad * len(t), np.stack([t * self.tokens_a_second, row, column])


OPENING = Said("<|im_start|>user\n<|vision_start|>")
VISION_END = Said("<|vision_end|>")
ANSWER = "<|im_end|>\n<|im_start|>assistant\n"
STOP = "<|im_end|>"


class PackedBoards(Dataset[dict[str, Any]]):
    """Example i is a pure function of (recipe seed, i): training resumes exactly where it stopped."""

    def __init__(self, tokenizer: Any, sft: dict[str, Any], seed: int) -> None:
        self.packer, self.sft, self.seed = Packer(tokenizer), sft, seed
        self.easy = [r for r in easy_vqa("train") if r["color"] and r["shape"]]

    def __len__(self) -> int:
        return self.sft["steps"] * self.sft["boards_per_step"]

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng([self.seed, 17, index])
        shares = np.cumsum([self.sft[f"{kind}_share"] for kind in ("easy_vqa", "video", "agent")])
        makers = (self._easy, self._videos, self._scene, self._board)
        return makers[int(np.searchsorted(shares, rng.random(), side="right"))](rng)

    def _asked(self, view: View, asked: list[shapes.Question], rng: np.random.Generator) -> dict[str, Any]:
        """One picture with several questions about it."""
        return self.packer.pack((OPENING, view, VISION_END), [self._branch(q, rng) for q in asked])

    def _branch(self, question: shapes.Question, rng: np.random.Generator) -> tuple[Said, Said]:
        response = question.response("hasty" if self._hasty(question.tone, rng) else "careful")
        return Said(question.text + ANSWER), Said(response + STOP, learnt=True)

    def _hasty(self, tone: str, rng: np.random.Generator) -> bool:
        return rng.random() < self.sft["hasty_share"][tone]

    def _board(self, rng: np.random.Generator) -> dict[str, Any]:
        board = shapes.sample_board(rng)
        questions: list[shapes.Question] = []
        while len(questions) < self.sft["questions_per_board"]:
            if rng.random() < self.sft["reading_share"]:
                questions.append(shapes.read_aloud(board, rng))
                continue
            question = shapes.ask(board, str(rng.choice(shapes.FAMILIES)), rng)
            questions += [question] if question else []
            if not (board.color >= 0).any():
                board = shapes.sample_board(rng)
        return self._asked(_view(shapes.render(board, rng), board.color, board.shape), questions, rng)

    def _videos(self, rng: np.random.Generator) -> dict[str, Any]:
        """Several videos, each with its question; they share nothing."""
        branches = []
        for _ in range(self.sft["videos_per_example"]):
            question, clip = shapes_video.ask(str(rng.choice(shapes_video.FAMILIES)), rng)
            moments = (part.reshape(len(part), -1) for part in (clip.color, clip.shape))
            view = _view(shapes_video.render_clip(clip, rng), *moments)
            branches.append((OPENING, view, VISION_END, *self._branch(question, rng)))
        return self.packer.pack((), branches)

    def _scene(self, rng: np.random.Generator) -> dict[str, Any]:
        """One scene with several searches in it, each a conversation of its own."""
        scene, searches = shapes_agent.sample_scene(rng), list[shapes_agent.Search]()
        while len(searches) < self.sft["searches_per_scene"]:
            question = shapes_agent.ask(scene, str(rng.choice(shapes_agent.FAMILIES)), rng)
            searches += [question] if question else []
            if not (scene.board.color >= 0).any():
                scene = shapes_agent.sample_scene(rng)
        picture = shapes_agent.render_scene(scene, rng)
        system = Said(f"<|im_start|>system\n{shapes_agent.SYSTEM}<|im_end|>\n")
        whole = _view(shrunk(picture), scene.board.color, scene.board.shape)
        branches = [self._search(question, scene, picture, rng) for question in searches]
        return self.packer.pack((system, OPENING, whole, VISION_END), branches)

    def _search(
        self,
        question: shapes_agent.Search,
        scene: shapes_agent.Scene,
        picture: np.ndarray,
        rng: np.random.Generator,
    ) -> tuple[Piece, ...]:
        question_text = Said(question.text + ANSWER)
        if self._hasty(question.tone, rng):
            return question_text, Said(question.hasty + STOP, learnt=True)
        crop, reply = shapes_agent.zoomed(question, picture)
        spot = scene.spots[question.row, question.column]
        view = _unknown_view(np.array(crop))
        for part, marks in ((view.color, scene.marks.color), (view.shape, scene.marks.shape)):
            part[spot] = int(marks[question.row, question.column]) + 1
        before, after = (part for part in reply if isinstance(part, str))
        return (
            question_text,
            Said(question.call + STOP, learnt=True),
            Said(f"\n<|im_start|>user\n{before}<|vision_start|>"),
            view,
            Said(f"<|vision_end|>{after}{ANSWER}"),
            Said(question.reading + STOP, learnt=True),
        )

    def _easy(self, rng: np.random.Generator) -> dict[str, Any]:
        record = self.easy[rng.integers(len(self.easy))]
        picture = shrunk(np.array(Image.open(record["path"]).convert("RGB")))
        flips = tuple(axis for axis in (0, 1) if rng.random() < 0.5)
        picture = np.flip(picture, flips).copy() if flips else picture
        rows = rng.integers(len(record["asked"]), size=self.sft["questions_per_board"])
        pairs = [record["asked"][i] for i in rows]
        questions = [easy_question(text, answer, record["color"], record["shape"]) for text, answer in pairs]
        return self._asked(_unknown_view(picture), questions, rng)


def shrunk(picture: np.ndarray) -> np.ndarray:
    """A picture as the pair's image processor scales it, (112, 112, 3)."""
    small = tv.resize(
        torch.from_numpy(picture).permute(2, 0, 1),
        [shapes.SIDE, shapes.SIDE],
        interpolation=tv.InterpolationMode.BICUBIC,
        antialias=True,
    )
    return small.permute(1, 2, 0).contiguous().numpy()


def _view(pixels: np.ndarray, color: np.ndarray, shape: np.ndarray) -> View:
    """A view of cells that are known; ``color`` and ``shape`` (4, 4): a row for each row of a board or moment of a video."""
    is_color = color[..., None] == np.arange(len(shapes.COLORS))
    is_shape = shape[..., None] == np.arange(len(shapes.SHAPES))
    counts = np.concatenate([is_color, is_shape], -1).cumsum(1)  # so far in the row, of each value
    return View(
        torch.from_numpy(pixels),
        torch.from_numpy(color.reshape(-1) + 1),
        torch.from_numpy(shape.reshape(-1) + 1),
        torch.from_numpy(counts.reshape(CELLS, -1)),
    )


def _unknown_view(pixels: np.ndarray) -> View:
    blank = torch.full((CELLS, 1), IGNORE)
    return View(torch.from_numpy(pixels), blank[:, 0].clone(), blank[:, 0].clone(), blank.repeat(1, COUNTED))


def easy_question(text: str, answer: str, color: str, shape: str) -> shapes.Question:
    """An easy-VQA question in the form of the other families."""
    chain = f"cell {color} {shape}"
    return shapes.Question("easy-vqa", text, answer, chain, chain, answer)


def collate(examples: list[dict[str, Any]], pad: int) -> dict[str, Tensor]:
    """Right-pad packed examples and build their (B, 1, S, S) additive mask: what is shared and one's own, causal.

    ``row``, ``column``, ``color``, ``shape`` (V, 16) and ``counts`` (V, 16, 9) tell of every view, in order of appearance.
    """
    longest = max(len(e["input_ids"]) for e in examples)

    def padded(key: str, value: int) -> Tensor:
        return torch.stack(
            [torch.nn.functional.pad(e[key], (0, longest - e[key].shape[-1]), value=value) for e in examples]
        )

    document = padded("document", -1)
    same = (document[:, :, None] == document[:, None, :]) | (document[:, None, :] == 0)
    allowed = same & torch.ones(longest, longest, dtype=torch.bool).tril()
    views: list[View] = [view for e in examples for view in e["views"]]
    side = torch.tensor([shapes_video.SIDE if view.is_video else shapes.BOARD for view in views])[:, None]
    place = torch.arange(CELLS) % side**2
    batch = {
        "input_ids": padded("input_ids", pad),
        "labels": padded("labels", IGNORE),
        "position_ids": padded("position_ids", 0).transpose(0, 1),
        "attention_mask": allowed[:, None],
        "row": place // side,
        "column": place % side,
        **{key: torch.stack([getattr(view, key) for view in views]) for key in ("color", "shape", "counts")},
    }
    pictures = [view.pixels for view in views if not view.is_video]
    videos = [view.pixels for view in views if view.is_video]
    patch = shapes.CELL // 2
    if pictures:
        grid = [1, shapes.SIDE // patch, shapes.SIDE // patch]
        batch["pixel_values"] = patchify(torch.stack(pictures))
        batch["image_grid_thw"] = torch.tensor([grid] * len(pictures))
    if videos:
        grid = [len(shapes_video.MOMENTS), 2 * shapes_video.SIDE, 2 * shapes_video.SIDE]
        batch["pixel_values_videos"] = patchify(torch.cat(videos))
        batch["video_grid_thw"] = torch.tensor([grid] * len(videos))
    return batch
