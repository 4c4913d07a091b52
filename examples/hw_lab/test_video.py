"""An encoder: how many frames come out, how like the source they are, and whether the picture stands still.

Optional: with `pip install av`, or an `ffmpeg` on the host's path; else these tests are skipped and say so.
"""

from __future__ import annotations

FRAMES = 30


def test_every_frame_comes_out_and_looks_like_the_source(video_node):
    found = video_node.encode(FRAMES)

    assert found["frames"] == FRAMES
    assert found["psnr"] > 30
    assert found["frozen"] == []


def test_fewer_bits_look_worse(video_node):
    assert video_node.encode(FRAMES, bit_rate=80_000)["psnr"] < video_node.encode(FRAMES)["psnr"] - 3


def test_a_picture_that_stands_still_is_noticed(video_node):
    assert video_node.encode(FRAMES, freeze=12)["frozen"] == [12]
