"""Frames of movie files that the tests write themselves; a frame's brightness tells its number."""

import builtins
import json
import re
import warnings
from fractions import Fraction

import av
import numpy as np
import pytest
import tiny
from movies import numbers, steady, write

import workbench as wb
from workbench.errors import InputError
from workbench.problems.problem import load_problems
from workbench.problems.video import MAX_PIXELS, read_clip, sample_frames
from workbench.views.explorer_data import pack
from workbench.views.pictures import picture_uri


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "libx264"), ("a.mkv", "mpeg4"), ("a.avi", "mpeg4"), ("a.webm", "libvpx"), ("a.mov", "mpeg4")],
)
def test_frames_are_evenly_spaced_from_the_first_to_the_last(tmp_path, name, codec):
    path = write(tmp_path / name, steady(41), codec=codec)
    found = numbers(sample_frames(path, 9))
    assert np.abs(np.array(found) - np.arange(0, 41, 5)).max() <= 1  # lossy: a grey level or two
    assert len(sample_frames(path)) == 16
    clip = read_clip(path, "it", 9)
    assert clip.total == 41
    assert clip.seconds == pytest.approx(1.6, abs=0.01)
    assert clip.metadata["fps"] == pytest.approx(5, abs=0.05)


def test_key_frames_that_lie_between_are_sought(tmp_path, monkeypatch):
    """Few frames of a long file: the same pictures as decoding all of it, and far fewer frames decoded."""
    path = write(tmp_path / "long.mp4", steady(40), g=4, bf=2)
    sought = numbers(sample_frames(path, 4))
    monkeypatch.setattr("workbench.problems.video._keys", lambda packets: [])
    assert numbers(sample_frames(path, 4)) == sought == [0, 13, 26, 39]


def test_a_picture_that_stays_is_taken_as_often_as_it_stays(tmp_path):
    path = write(tmp_path / "slides.mkv", [*steady(8, 100), 4.0, 8.0])  # frames 8 and 9 at 4 and at 8 seconds
    assert numbers(sample_frames(path, 9)) == [0, 7, 7, 7, 8, 8, 8, 8, 9]


def test_no_warning_about_length_where_the_last_picture_stays(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("a.mp4", "a.mkv", "a.webm"):
            codec = "libvpx" if name.endswith("webm") else "libx264"
            sample_frames(write(tmp_path / name, [0.0, 1.0, 2.0, 8.0], codec=codec), 4)


def test_fewer_frames_than_asked_are_all_used_and_said(tmp_path):
    path = write(tmp_path / "short.mp4", [0.0, 0.1, 0.9])
    with pytest.warns(UserWarning, match="fewer frames than are asked for; all of them"):
        clip = read_clip(path, "it", 16)
    assert numbers(clip.frames) == [0, 1, 2]
    assert clip.metadata == {
        "video_frames": 3,
        "video_seconds": pytest.approx(0.9),
        "fps": pytest.approx(2 / 0.9),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(sample_frames(path, 3)) == 3


def test_the_warning_is_given_once(tmp_path):
    rows = [{"question": "q", "video": write(tmp_path / f"{i}.mp4", [0.0, 0.5]).name} for i in range(3)]
    (tmp_path / "set.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("default")
        load_problems(tmp_path / "set.jsonl")
    assert len(heard) == 1


@pytest.mark.filterwarnings("ignore:a video has fewer")
def test_no_duration(tmp_path):
    clip = read_clip(write(tmp_path / "still.mp4", [0.0]), "it")
    assert (len(clip.frames), clip.seconds, clip.total) == (1, 0, 1)
    assert "fps" not in clip.metadata  # the default rate holds


def test_without_time_stamps_frames_are_counted(tmp_path):
    source = write(tmp_path / "a.mp4", steady(30), bf=0)
    with av.open(str(source)) as movie, open(tmp_path / "raw.h264", "wb") as raw:
        change = av.BitStreamFilterContext("h264_mp4toannexb", movie.streams.video[0])
        for packet in movie.demux(video=0):
            for out in change.filter(packet if packet.size else None):
                raw.write(bytes(out))
    clip = read_clip(tmp_path / "raw.h264", "it", 4)
    assert np.abs(np.array(numbers(clip.frames)) - [0, 10, 19, 29]).max() <= 1
    assert clip.total == 30
    assert "fps" not in clip.metadata or clip.seconds > 0


def test_large_frames_are_shrunk_in_proportion(tmp_path):
    path = write(tmp_path / "large.mp4", steady(3), size=(1280, 720))
    (frame, *_) = sample_frames(path, 2)
    assert frame.width * frame.height <= MAX_PIXELS
    assert frame.width / frame.height == pytest.approx(16 / 9, rel=0.01)
    assert frame.width * frame.height > 0.98 * MAX_PIXELS
    assert sample_frames(path, 2, max_pixels=10**7)[0].size == (1280, 720)
    assert min(sample_frames(path, 2, max_pixels=1)[0].size) == 1


def _turn(path, degrees):
    """Write a quarter turn into a file's track header, as telephones do."""
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 4 + 40
    cosine, sine = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]  # clockwise
    matrix = [cosine << 16, sine << 16, 0, -sine << 16, cosine << 16, 0, 0, 0, 1 << 30]
    content[start : start + 36] = b"".join(n.to_bytes(4, "big", signed=True) for n in matrix)
    path.write_bytes(content)


@pytest.mark.parametrize(("degrees", "corner"), [(0, (0, 0)), (90, (0, 1)), (180, (1, 1)), (270, (1, 0))])
def test_frames_are_upright(tmp_path, degrees, corner):
    def paint(pixels):  # white in its upper left quarter
        pixels[: len(pixels) // 2, : pixels.shape[1] // 2] = 255
        return pixels

    path = write(tmp_path / "turned.mp4", [0.0, 0.1], size=(64, 32), paint=paint)
    _turn(path, degrees)
    pixels = np.asarray(sample_frames(path, 2)[0]).mean(2)
    assert pixels.shape == ((32, 64) if degrees % 180 == 0 else (64, 32))
    quarters = pixels.reshape(2, pixels.shape[0] // 2, 2, -1).mean((1, 3))
    assert np.unravel_index(quarters.argmax(), (2, 2)) == corner


def test_pixels_that_are_not_square_are_made_so(tmp_path):
    path = tmp_path / "wide.mkv"
    with av.open(str(path), "w") as movie:
        stream = movie.add_stream("mpeg4", rate=25, width=32, height=32, pix_fmt="yuv420p")
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)
        for _ in range(2):
            movie.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))))
        movie.mux(stream.encode())
    assert sample_frames(path, 2)[0].size == (64, 32)


def _sound(path):
    with av.open(str(path), "w") as movie:
        stream = movie.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 8000, 0
        movie.mux(stream.encode(frame))
        movie.mux(stream.encode())


def _cut(path):
    whole = write(path.with_name("whole.mp4"), steady(30)).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])  # the table of contents stands at the end


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "is missing: no file"),
        (lambda path: path.write_bytes(b""), "could not be decoded"),
        (lambda path: path.write_bytes(b"not a movie" * 100), "could not be decoded (InvalidDataError"),
        (_cut, "could not be decoded"),
        (_sound, "has no video stream (streams found: audio)"),
    ],
    ids=["missing", "empty", "garbage", "cut", "sound"],
)
def test_what_cannot_be_decoded_is_refused(tmp_path, make, message):
    path = tmp_path / "clip.mp4"
    make(path)
    with pytest.raises(InputError) as refused:
        sample_frames(path)
    assert message in str(refused.value)
    assert "clip.mp4" in str(refused.value)


def test_damage_in_the_middle(tmp_path):
    """A file that ends early, or goes on after garbage: what can be seen of it, and a word about the rest."""
    whole = write(tmp_path / "whole.mkv", steady(40, 10), codec="mpeg4", g=5).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match=r"cut.mkv': the last 2.* seconds .* Is it complete\?"):
        frames = numbers(sample_frames(tmp_path / "cut.mkv", 4))
    assert frames[0] == 0
    assert frames == sorted(set(frames))
    garbage = bytearray(whole)
    garbage[len(whole) // 2 : len(whole) // 2 + 300] = b"\xff" * 300
    (tmp_path / "damaged.mkv").write_bytes(garbage)
    with pytest.warns(UserWarning, match=r"Is it complete\?"):
        frames = sample_frames(tmp_path / "damaged.mkv", 8)
    assert len(frames) == 8
    assert numbers(frames[:1]) == [0]


def test_bad_arguments(tmp_path):
    for arguments in ({"frames": 0}, {"frames": True}, {"max_pixels": 0}, {"frames": 2.5}):
        name = next(iter(arguments))
        with pytest.raises(InputError, match=f"`{name}` is .*sample_frames\\('clip.mp4', frames=16\\)"):
            sample_frames(tmp_path / "a.mp4", **arguments)


def test_enormous_frames_are_refused_before_decoding(tmp_path, monkeypatch):
    path = write(tmp_path / "a.mp4", steady(2))
    monkeypatch.setattr("workbench.problems.video.PIXEL_LIMIT", 1000)
    with pytest.raises(InputError, match=r"enormous frames \(48 x 32\); the limit is 1,000"):
        sample_frames(path)


def test_pyav_missing(tmp_path, monkeypatch):
    path = write(tmp_path / "a.mp4", steady(2))
    real = builtins.__import__

    def without(name, *rest):
        if name == "av":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r'pip install -e "\.\[video\]"'):
        sample_frames(path)


# --- movies in problem sets ------------------------------------------------------------------------------


def test_movies_of_a_table_and_of_a_folder(tmp_path):
    (tmp_path / "clips").mkdir()
    write(tmp_path / "clips" / "10.mp4", steady(31, 10))
    write(tmp_path / "clips" / "9.mkv", steady(31, 10), codec="mpeg4")
    row = {"question": "What moves?", "answer": "all", "video": "clips/10.mp4", "length": 3}
    (tmp_path / "set.jsonl").write_text(json.dumps(row))
    (tmp_path / "set.tsv").write_text("index\tquestion\tclip\n7\tWhat moves?\tclips/10.mp4\n")
    (problem,) = load_problems(tmp_path / "set.jsonl")
    (table,) = load_problems(tmp_path / "set.tsv", columns={"video": "clip"})
    assert numbers(problem.video) == numbers(table.video) == list(range(0, 32, 2))
    assert problem.metadata == {"video_frames": 31, "video_seconds": 3.0, "fps": 5.0, "length": 3}
    assert (table.id, table.metadata["fps"]) == ("set/7", 5.0)
    first, second = load_problems(tmp_path / "clips")
    assert (first.id, second.id) == ("clips/9.mkv", "clips/10.mp4")
    assert first.question == "Describe this video."
    assert len(first.video) == 16
    assert load_problems(tmp_path / "clips", question="Where?")[0].question == "Where?"
    for name in ("set.jsonl", "clips"):
        *_, fewer = load_problems(tmp_path / name, frames=4)
        assert numbers(fewer.video) == [0, 10, 20, 30]
        assert fewer.metadata["fps"] == 1.0


def test_movies_of_a_data_set_are_read_from_bytes(tmp_path):
    from datasets import Dataset

    content = write(tmp_path / "a.mp4", steady(31, 10)).read_bytes()
    rows = Dataset.from_list([{"question": "q", "video": {"bytes": content, "path": None}}])
    (problem,), (fewer,) = load_problems(rows), load_problems(rows, frames=4)
    assert numbers(problem.video) == list(range(0, 32, 2))
    assert numbers(fewer.video) == [0, 10, 20, 30]


def test_a_row_with_a_broken_movie_is_named(tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"nothing")
    (tmp_path / "set.jsonl").write_text(json.dumps({"question": "q", "video": "clip.mp4"}))
    with pytest.raises(InputError, match=r"set.jsonl, line 1: `video` 'clip.mp4' could not be decoded"):
        load_problems(tmp_path / "set.jsonl")


# --- models that read them -------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "smolvlm"])
def test_a_movie_goes_all_the_way(tmp_path, pair_of, family):
    """From the file through trace, replay, patch and answer to the explorer, with (t, row, column) all along."""
    write(tmp_path / "a.mp4", steady(31, 10))
    (tmp_path / "set.jsonl").write_text(json.dumps({"question": "What?", "answer": "3", "video": "a.mp4"}))
    (problem,) = load_problems(tmp_path / "set.jsonl")
    pair = pair_of(family)
    prompt = pair.encode(problem)
    moments = 16 if family == "smolvlm" else 8
    ((t, rows, columns),) = prompt.grids
    visual = prompt.kinds == wb.TokenKind.VISUAL
    assert t == moments
    assert prompt.grid[visual].tolist() == [[*cell] for cell in np.ndindex(t, rows, columns)]
    assert numbers(prompt.frames[0]) == list(range(0, 32, 2))

    traced = wb.trace(pair, [prompt], top_k=2, null_draws=0)
    loaded = wb.LensTrace.load(traced.save(tmp_path / "trace"))
    assert numbers(loaded.prompts[0].frames[0]) == list(range(0, 32, 2))
    (packed,) = pack([loaded], 2)["problems"]
    (view,) = packed["views"]
    assert (len(view["frames"]), view["span"]) == (moments, 16 // moments)
    assert len(set(view["frames"])) == moments
    assert view["frames"][0] == view["image"]

    learned = wb.learn_tokens(pair, prompt, wb.Replay(layers=2, threshold="quantile", iterations=2))
    assert learned.losses[1] < learned.losses[0]
    (heatmap,) = (part for part in learned.plot().data if part.type == "heatmap")
    assert np.shape(heatmap.z) == (rows, t * columns)
    assert np.isfinite(np.array(heatmap.z, float)).all()
    patch = wb.prepare_patch(pair, prompt, wb.Patch(layers=2, threshold="quantile", positions="visual"))
    assert patch.mask[:, visual].any()
    assert not patch.mask[:, ~visual].any()
    for intervention in (None, learned, patch):
        (answer,) = wb.decode(pair, prompt, intervention=intervention, max_new_tokens=2)
        assert answer.tokens
    assert "frames" in wb.explore(pair, [problem], top_k=2, followed=2).html()


def test_the_rate_of_sampling_is_what_the_model_is_told(tmp_path, pair_of):
    """Qwen3-VL writes time stamps: two frames 0.2 s apart share one, so the moments are 0.4 s apart."""
    write(tmp_path / "a.mp4", steady(31, 10))
    (tmp_path / "set.jsonl").write_text(json.dumps({"question": "What?", "video": "a.mp4"}))
    prompt = pair_of("qwen3_vl").encode(load_problems(tmp_path / "set.jsonl")[0])
    stamps = [float(found) for found in re.findall(r"<([\d.]+) seconds>", "".join(prompt.tokens))]
    assert np.allclose(np.diff(stamps), 0.4, atol=0.11)  # written with one digit
    assert stamps[-1] == pytest.approx(2.9, abs=0.06)


def test_an_odd_number_of_frames(pair_of):
    """Qwen repeats the last frame, SmolVLM does not pair them."""
    for family in ("qwen2_5_vl", "qwen3_vl", "smolvlm"):
        traced = wb.trace(pair_of(family), [tiny.problem(family, 0, frames=5)], top_k=1, null_draws=0)
        (view,) = pack([traced], 1)["problems"][0]["views"]
        assert len(view["frames"]) == view["grid"][0] == (5 if family == "smolvlm" else 3)
        chosen = traced.prompts[0].frames[0][:: view["span"]]
        assert view["frames"] == [picture_uri(frame) for frame in chosen]
