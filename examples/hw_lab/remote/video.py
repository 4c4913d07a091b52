"""What runs on the hosts with role ``video``: a test picture, encoded, decoded and compared with what went in.

PyAV does it where it is installed, else the ``ffmpeg`` program.  A real suite has an encoder board here; what is
asserted stays: how many frames came out, how like the source they are, and whether one stood still.
"""

import math
import os
import shutil
import subprocess
import tempfile

from easycluster.errors import Unsupported

WIDTH, HEIGHT, RATE = 320, 180, 30
SOURCE = f"testsrc2=size={WIDTH}x{HEIGHT}:rate={RATE}"


def encode(frames, bit_rate=2_000_000, freeze=None):
    """Encode a moving test picture with H.264 and decode it again.

    Args:
        frames: How many.
        bit_rate: Bits in a second.
        freeze: Number of a frame in whose place the one before is sent again, as a broken source does.

    Returns:
        ``{"frames": decoded, "psnr": decibels on average, "frozen": numbers of frames like the one before}``.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "clip.mp4")
        try:
            import av
        except ImportError:
            sent, came = _by_program(path, frames, bit_rate, freeze)
        else:
            sent, came = _by_library(av, path, frames, bit_rate, freeze)
    likeness = [_psnr(one, other) for one, other in zip(sent, came)]
    frozen = [number for number in range(1, len(came)) if _psnr(came[number - 1], came[number]) > 45]
    return {"frames": len(came), "psnr": sum(likeness) / len(likeness), "frozen": frozen}


def _psnr(one, other):
    """How alike two pictures are, in decibels; of every 16th point, for this is Python."""
    squares = sum((a - b) ** 2 for a, b in zip(one[::16], other[::16])) / len(one[::16])
    return 99.0 if not squares else 10 * math.log10(255 * 255 / squares)


def _by_library(av, path, frames, bit_rate, freeze):
    """Return the brightness of every point of every picture, before and after."""
    pictures = []
    with av.open(SOURCE, format="lavfi") as source:
        for number, picture in zip(range(frames), source.decode(video=0)):
            pictures.append(pictures[-1] if number == freeze else picture.reformat(format="yuv420p"))
    with av.open(path, "w") as output:
        stream = output.add_stream("h264", rate=RATE, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = WIDTH, HEIGHT, "yuv420p", bit_rate
        for number, picture in enumerate(pictures):
            picture.pts = number
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
    with av.open(path) as coded:
        return [_gray(picture) for picture in pictures], [_gray(picture) for picture in coded.decode(video=0)]


def _gray(picture):
    """Return the brightness of every point, without what rows are padded with."""
    data, step = bytes(picture.planes[0]), picture.planes[0].line_size
    return b"".join(data[start : start + WIDTH] for start in range(0, step * HEIGHT, step))


def _by_program(path, frames, bit_rate, freeze):
    graph = SOURCE
    if freeze is not None:
        graph += f",split[a][b];[a][b]freezeframes=first={freeze}:last={freeze}:replace={freeze - 1}"
    source = ["-f", "lavfi", "-i", graph, "-frames:v", str(frames)]
    gray = ["-f", "rawvideo", "-pix_fmt", "gray", "-"]
    _run(*source, "-c:v", "libx264", "-preset", "ultrafast", "-b:v", str(bit_rate), "-pix_fmt", "yuv420p", path)
    return _pictures(_run(*source, *gray)), _pictures(_run("-i", path, *gray))


def _pictures(data):
    size = WIDTH * HEIGHT
    return [data[start : start + size] for start in range(0, len(data), size)]


def _run(*words):
    program = shutil.which("ffmpeg")
    if not program:
        raise Unsupported("encode", "neither PyAV (pip install av) nor ffmpeg is on this host")
    done = subprocess.run([program, "-v", "error", *words], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        raise OSError(done.stderr.decode(errors="replace")[-2000:])
    return done.stdout
