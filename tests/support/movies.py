"""Small movie files."""

from fractions import Fraction

import av
import numpy as np

STEP = 6  # in brightness, between one frame and the next


def write(path, times, size=(48, 32), codec="libx264", paint=None, **options):
    """A movie whose frame i is grey, i * STEP bright, and is shown from times[i] seconds on."""
    with av.open(str(path), "w") as movie:
        stream = movie.add_stream(codec, rate=25, width=size[0], height=size[1], pix_fmt="yuv420p")
        stream.options = {name: str(value) for name, value in options.items()}
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for i, time in enumerate(times):
            pixels = np.full((size[1], size[0], 3), i * STEP, np.uint8)
            frame = av.VideoFrame.from_ndarray(paint(pixels) if paint else pixels, format="rgb24")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            movie.mux(stream.encode(frame))
        movie.mux(stream.encode())
    return path


def numbers(frames):
    return [round(np.asarray(frame).mean() / STEP) for frame in frames]


def steady(count, rate=25):
    return [i / rate for i in range(count)]
