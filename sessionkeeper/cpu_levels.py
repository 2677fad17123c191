"""The levels of the x86-64 psABI, and what holds a kernel's code to one of them.

A *level* (`x86-64-v2` …) is a set of CPU features that compilers and distributions agree on
(x86-64 psABI, "micro-architecture levels"). Code that picks its instructions when it starts can be
told to use nothing above a level, by environment variables of its library: with these a process
image needs the level, and not the CPU that it happened to start on. Everything here is pure.

The same level gives the same variables on every CPU, so that a kernel calculates alike wherever it
starts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

__all__ = ["LEVELS", "bits_of", "held_to", "highest", "knobs", "level_of", "missing", "states_of"]

LEVELS = ("x86-64-v2", "x86-64-v3", "x86-64-v4")
"""Lowest first. Kernels are not held to less than the first, which every numpy of today needs."""

_WORDS = 19
"""Words of feature bits that CRIU writes (`NCAPINTS_V2`, `compel/.../asm/cpu.h`)."""

# Word of CRIU's (the kernel's cpufeatures.h has others) -> name in /proc/cpuinfo -> bit.
_Bits = dict[int, dict[str, int]]
_BASE: _Bits = {
    0: {"fpu": 0, "cx8": 8, "cmov": 15, "mmx": 23, "fxsr": 24, "sse": 25, "sse2": 26},
    1: {"syscall": 11, "lm": 29},
}
_ADDED: dict[str, _Bits] = {
    "x86-64-v2": {
        4: {"pni": 0, "ssse3": 9, "cx16": 13, "sse4_1": 19, "sse4_2": 20, "popcnt": 23},
        6: {"lahf_lm": 0},
    },
    "x86-64-v3": {
        4: {"fma": 12, "movbe": 22, "xsave": 26, "avx": 28, "f16c": 29},
        6: {"abm": 5},
        9: {"bmi1": 3, "avx2": 5, "bmi2": 8},
    },
    "x86-64-v4": {
        9: {"avx512f": 16, "avx512dq": 17, "avx512cd": 28, "avx512bw": 30, "avx512vl": 31}
    },
}
_OSXSAVE = (4, 27)  # part of v3; Linux shows it as `xsave` alone

_STATES = {"x86-64-v2": (0x3, 576), "x86-64-v3": (0x7, 832), "x86-64-v4": (0xE7, 2688)}
"""Extended states (x87, SSE, AVX, the three of AVX-512), and the bytes of an area with these at
their usual places (Intel SDM volume 1, 13.4 and 13.5)."""

# What is switched off for a level, beside what is for those above it.
# glibc: sysdeps/x86/cpu_features.c and cpu-tunables.c; names that it does not know it ignores.
_GLIBC = {
    "x86-64-v3": "AVX512BW AVX512CD AVX512DQ AVX512ER AVX512F AVX512PF AVX512VL",
    "x86-64-v2": "AVX AVX2 AVX_Fast_Unaligned_Load BMI1 BMI2 F16C FMA LZCNT MOVBE XSAVE XSAVEC",
}
_GLIBC_ALWAYS = ("FMA4", "RTM")  # in no level

# numpy since 2.4 dispatches by level, before by feature; what it does not know it warns of, with an
# ImportWarning, which is hidden unless asked for.
_NUMPY = {
    "x86-64-v4": "AVX512_ICL AVX512_SPR AVX512_CLX AVX512_CNL AVX512_KNL AVX512_KNM",
    "x86-64-v3": "X86_V4 AVX512F AVX512CD AVX512_SKX",
    "x86-64-v2": "X86_V3 AVX F16C FMA3 AVX2 XOP FMA4",
}

_ONE_NAME = {
    "OPENBLAS_CORETYPE": ("Nehalem", "Haswell", "SkylakeX"),
    "MKL_ENABLE_INSTRUCTIONS": ("SSE4_2", "AVX2", "AVX512"),
    "ONEDNN_MAX_CPU_ISA": ("SSE41", "AVX2", "AVX512_CORE"),
    "DNNL_MAX_CPU_ISA": ("SSE41", "AVX2", "AVX512_CORE"),
    "ATEN_CPU_CAPABILITY": ("default", "avx2", "avx512"),
    "ARROW_USER_SIMD_LEVEL": ("SSE4_2", "AVX2", "AVX512"),
    "NUMBA_CPU_NAME": LEVELS,
}
"""Variables that name what is used at most: for each of `LEVELS`."""

_TUNABLES = "GLIBC_TUNABLES"
_HWCAPS = "glibc.cpu.hwcaps"


def level_of(flags: Iterable[str]) -> str | None:
    """The highest level that a CPU with these flags (as in /proc/cpuinfo) reaches, if any."""
    found, reached = set(flags), None
    for level in LEVELS:
        if missing(found, level):
            break
        reached = level
    return reached


def missing(flags: Iterable[str], level: str) -> list[str]:
    """The flags that a CPU lacks for `level`, sorted."""
    return sorted({name for name, _, _ in _features(level)} - set(flags))


def highest(levels: Iterable[str]) -> str:
    """The level that has all of `levels`, of which there is at least one."""
    return max(levels, key=LEVELS.index)


def bits_of(level: str) -> tuple[int, ...]:
    """The level's features as CRIU's words of feature bits."""
    words = [0] * _WORDS
    for _, word, bit in _features(level):
        words[word] |= 1 << bit
    if level != LEVELS[0]:
        words[_OSXSAVE[0]] |= 1 << _OSXSAVE[1]
    return tuple(words)


def states_of(level: str) -> tuple[int, int]:
    """The mask of the extended states that the level's code uses, and the bytes they take."""
    return _STATES[level]


def knobs(level: str) -> dict[str, str]:
    """The environment variables that hold a process to `level`.

    glibc, numpy, OpenBLAS (also scipy's), MKL, oneDNN, PyTorch, Arrow, numba and OpenSSL heed
    them. Code that asks the CPU itself, and what was compiled for a certain one, does not.
    """
    at = LEVELS.index(level)
    glibc = [*_GLIBC_ALWAYS, *" ".join(_GLIBC.get(one, "") for one in LEVELS[at:]).split()]
    return {
        _TUNABLES: f"{_HWCAPS}={','.join(f'-{name}' for name in glibc)}",
        "NPY_DISABLE_CPU_FEATURES": " ".join(_NUMPY[one] for one in LEVELS[at:]),
        **{name: values[at] for name, values in _ONE_NAME.items()},
        "NUMBA_CPU_FEATURES": "",
        "OPENSSL_ia32cap": _openssl(level),
        # Lazy binding saves registers to an area of the size that the CPU it started on needs.
        "LD_BIND_NOW": "1",
    }


def held_to(level: str, env: Mapping[str, str]) -> dict[str, str]:
    """`env` with the knobs of `level`, which win; other tunables of glibc are kept."""
    held = {**env, **knobs(level)}
    kept = [one for one in env.get(_TUNABLES, "").split(":") if one.partition("=")[0] != _HWCAPS]
    held[_TUNABLES] = ":".join([*filter(None, kept), held[_TUNABLES]])
    return held


def _features(level: str) -> Iterator[tuple[str, int, int]]:
    for part in (_BASE, *(_ADDED[one] for one in LEVELS[: LEVELS.index(level) + 1])):
        for word, bits in part.items():
            yield from ((name, word, bit) for name, bit in bits.items())


def _openssl(level: str) -> str:
    """OpenSSL's mask (OPENSSL_ia32cap(3)): what of CPUID 1 ECX, 7 EBX and 7 ECX is not to be used;
    nothing of the leaves that only later versions look at."""
    has = bits_of(level)
    one_c, seven_b, seven_c = (~has[word] & 0xFFFFFFFF for word in (4, 9, 11))
    return f"~{one_c << 32:#x}:~{seven_c << 32 | seven_b:#x}:0:0:0"
