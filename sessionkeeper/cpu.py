"""Which CPUs a process image can be restored on: those with every feature that it may rely on.

Code picks instructions when it starts (libc, numpy, OpenBLAS), and goes on with them after a
restore. What counts is what `criu cpuinfo dump` writes and `criu cpuinfo check` compares (CRIU
`images/cpuinfo.proto`: one `x86_entry` with the words of feature bits, 6, the mask of extended
states, 8, and the bytes that these take, 9).
"""

from __future__ import annotations

import platform
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sessionkeeper import cpu_levels, criu
from sessionkeeper.errors import CpuBelowBaseline

__all__ = ["UNKNOWN", "Cpu", "Features", "NodeCpu", "parse", "this_cpu", "this_level", "this_node"]

_MAGICS = 8
_WORD, _STATES, _BYTES = 6, 8, 9


@dataclass(frozen=True)
class Features:
    """Words of feature bits, mask of extended states, bytes that these states take."""

    words: tuple[int, ...]
    states: int
    state_bytes: int

    def lacks(self, needed: Features) -> bool:
        """Whether something that was dumped where `needed` was cannot be restored here."""
        if len(self.words) != len(needed.words):
            return True
        missing = any(theirs & ~ours for ours, theirs in zip(self.words, needed.words, strict=True))
        states = bool(needed.states & ~self.states) or needed.state_bytes > self.state_bytes
        return missing or states

    def held_to(self, level: str) -> Features:
        """What is left of them for code that uses nothing above `level`."""
        bits = cpu_levels.bits_of(level) + (0,) * len(self.words)
        states, size = cpu_levels.states_of(level)
        words = tuple(word & bit for word, bit in zip(self.words, bits, strict=False))
        return Features(words, self.states & states, min(self.state_bytes, size))


@dataclass(frozen=True)
class Cpu:
    """A CPU's name, and its features where CRIU could tell them."""

    model: str
    features: Features | None = None

    def lacks(self, needed: Cpu) -> bool:
        """Whether process images of `needed` cannot be restored here. One whose name is not known
        is taken; by the name alone where features are not known."""
        if not self.model or not needed.model or self.model == needed.model:
            return False
        if self.features is None or needed.features is None:
            return True
        return self.features.lacks(needed.features)

    def json(self) -> dict[str, Any]:
        """What `from_json` takes: of a node's greeting, or of a checkpoint."""
        found: dict[str, Any] = {"cpu": self.model}
        if self.features is not None:
            known = self.features
            found["cpu_features"] = [*known.words, known.states, known.state_bytes]
        return found

    @classmethod
    def from_json(cls, facts: Any) -> Cpu:
        """Of a mapping with `cpu` and perhaps `cpu_features`."""
        features: Features | None = None
        match facts.get("cpu_features"):
            case [*words, int(states), int(size)] if all(isinstance(word, int) for word in words):
                features = Features(tuple(words), states, size)
        return cls(str(facts.get("cpu") or ""), features)


UNKNOWN = Cpu("")


@dataclass(frozen=True)
class NodeCpu:
    """A node's CPU, and what its operator says of it.

    Kernels are held to the level `baseline` (None: they use what the CPU has). With `most` the node
    is treated as if it had that level and nothing above it. Raises `CpuBelowBaseline` when the
    pool's baseline is more than the node has, or may use.
    """

    cpu: Cpu
    flags: frozenset[str]
    baseline: str | None = None
    most: str | None = None

    def __post_init__(self) -> None:
        for level in filter(None, (self.most, self.baseline)):
            if lacking := cpu_levels.missing(self.flags, level):
                what = f"the CPU ({self.cpu.model}) is not {level}: it lacks {', '.join(lacking)}"
                raise CpuBelowBaseline(what)
        if (
            self.most
            and self.baseline
            and cpu_levels.highest((self.most, self.baseline)) != self.most
        ):
            raise CpuBelowBaseline(
                f"the pool's baseline is {self.baseline}, and this node is to be no more than"
                f" {self.most}"
            )

    @property
    def level(self) -> str | None:
        """What kernels that start here are held to."""
        return self.baseline or self.most

    @property
    def reaches(self) -> str | None:
        """The highest level that is offered here; None: none, or another architecture."""
        return self.most or cpu_levels.level_of(self.flags)

    def json(self) -> dict[str, Any]:
        """What a node's greeting says; `images` is what those need of kernels started here."""
        return {
            **self.offered().json(),
            "cpu_level": self.reaches,
            "cpu_baseline": self.level,
            "images": self.needed([self.level]).json(),
        }

    def offered(self) -> Cpu:
        """What process images are compared with that might come here."""
        if self.most is None:
            return self.cpu
        return self._held(f"{self.cpu.model} as {self.most}", self.most)

    def needed(self, levels: Iterable[str | None]) -> Cpu:
        """What the images of kernels need that were started at these levels (None: at none)."""
        held = list(levels)
        if not held or None in held:
            return self.cpu
        level = cpu_levels.highest(filter(None, held))
        return self._held(level, level)

    def _held(self, name: str, level: str) -> Cpu:
        return Cpu(name, self.cpu.features and self.cpu.features.held_to(level))


@cache
def this_cpu() -> Cpu:
    """This machine's. Runs CRIU the first time, if there is one."""
    return Cpu(model(), _features())


def this_node(baseline: str | None = None, most: str | None = None) -> NodeCpu:
    """This machine as a node. Raises as `NodeCpu`."""
    return NodeCpu(this_cpu(), flags(), baseline, most)


def this_level() -> str | None:
    """The highest level of the x86-64 psABI that this machine's CPU reaches."""
    return cpu_levels.level_of(flags())


def model() -> str:
    """What this machine's CPU calls itself, or the architecture."""
    return _first("model name") or platform.machine()


def flags() -> frozenset[str]:
    """This machine's CPU flags, as /proc/cpuinfo has them."""
    return frozenset(_first("flags").split())


def parse(image: bytes) -> Features | None:
    """What `cpuinfo.img` says; None for another architecture, or another form."""
    try:
        entries = [value for _, value in _fields(image[_MAGICS + 4 :])]
        fields = list(_fields(entries[0])) if isinstance(entries[0], bytes) else []
    except IndexError:
        return None
    one = {number: value for number, value in fields if isinstance(value, int)}
    words = tuple(v for number, v in fields if number == _WORD and isinstance(v, int))
    if not words or _STATES not in one or _BYTES not in one:
        return None
    return Features(words, one[_STATES], one[_BYTES])


def _first(name: str) -> str:
    """What /proc/cpuinfo says of the first processor under that name; nothing if it does not."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _features() -> Features | None:
    found = criu.find()
    if found is None:
        return None
    with tempfile.TemporaryDirectory() as directory:
        command = [str(found.path), "cpuinfo", "dump", "--images-dir", directory]
        try:
            done = subprocess.run(command, capture_output=True, timeout=30.0, check=False)
            return None if done.returncode else parse(Path(directory, "cpuinfo.img").read_bytes())
        except (OSError, subprocess.TimeoutExpired):
            return None


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Numbers and values of a protobuf message's fields. Raises IndexError."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        value, at = _varint(message, at)
        if tag & 7 == 2:
            if at + value > len(message):
                raise IndexError
            yield tag >> 3, message[at : at + value]
            at += value
        elif tag & 7 == 0:
            yield tag >> 3, value
        else:
            raise IndexError


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
