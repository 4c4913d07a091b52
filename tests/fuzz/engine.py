"""Runs one target over many inputs: with atheris, which keeps what reaches new code, or without.

atheris is https://github.com/google/atheris, libFuzzer for Python.  It is made for CPython on some
platforms only; elsewhere a plain loop mutates seeds without looking at what they reach.
"""

from __future__ import annotations

import contextlib
import io
import mmap
import random
import resource
import struct
import sys
import traceback
from pathlib import Path

__all__ = ["COUNTS", "Counts", "has_atheris", "run", "run_one"]

# What one address space may grow to while a target runs: pickle believes the sizes that it reads.
_ROOM = 512 << 20
# Seconds for one input.
_TOO_LONG = 20

# To instrument a module takes longer than to load it, and no input gets as far as these.
_NOT_REACHED = [
    f"easycluster.{name}"
    for name in (
        *("definitions", "far.modules", "far.namespace", "far.reaper", "wire.tracebacks", "wire.failures"),
        *("objects.exports", "objects.proxies", "objects.registry", "link.session", "link.streams", "link.items"),
        *("link.watcher", "link.sending", "link.flusher", "wire.values", "transport.memory"),
    )
]

COUNTS = ("inputs", "malformed", "armed")
_COUNTS = struct.Struct(f"={len(COUNTS)}Q")


class Counts:
    """Numbers in a file that outlive a process that ends anyhow."""

    def __init__(self, path):
        path = Path(path)
        if not path.exists():
            path.write_bytes(bytes(_COUNTS.size))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _COUNTS.size)

    def write(self, *numbers):
        _COUNTS.pack_into(self._map, 0, *numbers)

    def read(self):
        return dict(zip(COUNTS, _COUNTS.unpack_from(self._map), strict=True))


def has_atheris():
    """Return whether atheris can be imported here."""
    try:
        import atheris  # noqa: F401
    except ImportError:
        return False
    return True


def _load(name):
    """Return the target; its modules are loaded here, so that they can be instrumented."""
    from .planted import PLANTED
    from .quick_targets import QUICK
    from .targets import TARGETS

    return {**TARGETS, **QUICK, **PLANTED}[name]()


def run(name, runs, seed, folder, guided):
    """Run a target; a finding ends the process with a traceback and leaves its input in ``folder``.

    Args:
        name: Of the target.
        runs: How many inputs.
        seed: Of everything that is random.
        folder: Takes the counts, seeds and findings.
        guided: Whether to use atheris.
    """
    counts = Counts(folder / "counts")
    if not guided:
        return _mutate(_load(name), runs, seed, folder, counts)
    import atheris

    instrumented = atheris.instrument_imports(include=["easycluster"], exclude=_NOT_REACHED)
    with contextlib.redirect_stderr(io.StringIO()), instrumented:
        target = _load(name)
    seeds = folder / "seeds"
    seeds.mkdir()
    for number, data in enumerate(target.seeds()):
        (seeds / f"{number:03}").write_bytes(data[: target.max_len])
    options = [
        *(f"-runs={runs}", f"-seed={seed}", f"-max_len={target.max_len}", f"-timeout={_TOO_LONG}"),
        *("-verbosity=0", "-reload=0", "-len_control=0", "-rss_limit_mb=2048", f"-artifact_prefix={folder}/"),
    ]
    atheris.Setup([sys.argv[0], *options, str(seeds)], _counting(target, counts))
    _limit_memory()
    target.tripwires.watch_events()
    return atheris.Fuzz()


def run_one(name, data):
    """Run a target over one input and return whether it made sense."""
    return _load(name)(data)


def _limit_memory():
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    if pages:
        limit = pages * resource.getpagesize() + _ROOM
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _counting(target, counts):
    inputs = malformed = 0
    tripwires, write = target.tripwires, counts.write

    def one_input(data):
        nonlocal inputs, malformed
        inputs += 1
        if not target(data):
            malformed += 1
        write(inputs, malformed, tripwires.armed)

    return one_input


def _mutate(target, runs, seed, folder, counts):
    """Do the best that is possible without knowing what an input reaches."""
    _limit_memory()
    target.tripwires.watch_events()
    chance = random.Random(seed)
    seeds = [data[: target.max_len] for data in target.seeds()]
    one_input = _counting(target, counts)
    for number in range(runs):
        data = seeds[number] if number < len(seeds) else mutated(chance, seeds)[: target.max_len]
        try:
            one_input(data)
        except BaseException:  # noqa: BLE001 - whatever it is, it is a finding
            traceback.print_exc()
            (folder / "crash-input").write_bytes(data)
            sys.exit(77)


# Lengths and counts are where decoders break.
_INTERESTING = [number.to_bytes(size, "big") for size in (1, 2, 4, 8) for number in (0, 1, 127, 128, 255)]
_INTERESTING += [b"\xff" * size for size in (2, 4, 8)] + [b"\x7f" + b"\xff" * size for size in (1, 3, 7)]


def mutated(chance, seeds):
    """Return one of the seeds with a few changes."""
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.choice((1, 1, 2, 3, 6))):
        at = chance.randrange(len(data) + 1)
        how = chance.randrange(7)
        if how == 0 and at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        elif how == 1 and at < len(data):
            data[at] = chance.randrange(256)
        elif how == 2:
            data[at:at] = chance.randbytes(chance.choice((1, 2, 4, 8, 33)))
        elif how == 3:
            del data[at : at + chance.choice((1, 2, 4, 16, 64))]
        elif how == 4:
            piece = chance.choice(_INTERESTING)
            data[at : at + len(piece)] = piece
        elif how == 5:
            other = chance.choice(seeds)
            cut = chance.randrange(len(other) + 1)
            data[at:] = other[cut:]
        else:
            del data[at:]
    return bytes(data)
