"""What holds kernels to a level of CPU features, and what their images need then."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessionkeeper import cpu_levels
from sessionkeeper.cpu import Cpu, Features, NodeCpu, flags, this_cpu, this_level
from sessionkeeper.cpu_levels import LEVELS, bits_of, held_to, knobs, level_of, missing, states_of
from sessionkeeper.errors import CpuBelowBaseline

V2, V3, V4 = LEVELS
SEEN = """
import json, numpy
from numpy._core._multiarray_umath import __cpu_features__ as found, __cpu_dispatch__ as used
from threadpoolctl import threadpool_info
blas = [one["architecture"] for one in threadpool_info() if one["internal_api"] == "openblas"]
print(json.dumps({"numpy": [name for name in used if found[name]], "blas": blas}))
"""
LOADER = "/lib64/ld-linux-x86-64.so.2"
v4_here = pytest.mark.skipif(this_level() != V4, reason="needs a CPU with more than is used")


def node(level: str, **said: str) -> NodeCpu:
    """A node whose CPU has that level and, unlike it, a word with other features."""
    words = tuple(word | (1 << 30) * (at == 1) for at, word in enumerate(bits_of(level)))
    everything = frozenset(missing((), level))
    return NodeCpu(Cpu(f"one of {level}", Features(words, *states_of(level))), everything, **said)


def test_levels_are_found_from_flags_and_each_contains_the_one_before() -> None:
    assert level_of(()) is None
    below: list[str] = []
    for level in LEVELS:
        needed = missing((), level)
        assert level_of(needed) == level
        added = sorted(set(needed) - set(below))
        assert {level_of([*below, *added[1:]])} == {level_of(below)} != {level}
        assert set(below) < set(needed)
        below = needed


def test_an_image_held_to_a_level_goes_wherever_the_level_is() -> None:
    for made in LEVELS:
        for level in LEVELS[: LEVELS.index(made) + 1]:
            needed = node(made, baseline=level).needed([level])
            assert needed.model == level
            fits = [there for there in LEVELS if not node(there).offered().lacks(needed)]
            assert fits == list(LEVELS[LEVELS.index(level) :])


def test_one_kernel_that_is_held_to_nothing_needs_the_whole_cpu() -> None:
    pool = node(V4, baseline=V2)
    assert pool.needed([V2, None]) == pool.cpu == pool.needed([])
    assert pool.needed([V2, V3]).model == V3


def test_a_node_below_the_baseline_is_refused_with_words() -> None:
    with pytest.raises(
        CpuBelowBaseline, match=r"one of x86-64-v2\) is not x86-64-v3: it lacks abm, avx"
    ):
        node(V2, baseline=V3)
    with pytest.raises(
        CpuBelowBaseline, match="baseline is x86-64-v3, and this node is to be no more"
    ):
        node(V4, baseline=V3, most=V2)


def test_a_node_that_is_treated_as_less_takes_and_makes_images_of_no_more() -> None:
    less = node(V4, most=V2)
    assert less.level == less.reaches == V2
    assert less.offered().lacks(node(V3).cpu)
    assert not less.offered().lacks(node(V2, baseline=V2).needed([V2]))
    assert not node(V2).offered().lacks(less.needed([less.level]))


@given(
    st.sampled_from(LEVELS),
    st.dictionaries(st.sampled_from(("A", "NPY_DISABLE_CPU_FEATURES")), st.text()),
)
def test_what_holds_a_kernel_wins_over_its_own_environment(level: str, env: dict[str, str]) -> None:
    held = held_to(level, env)
    assert held.items() >= knobs(level).items()
    assert {name: held[name] for name in env.keys() - knobs(level).keys()} == {
        name: value for name, value in env.items() if name == "A"
    }


def test_other_tunables_of_glibc_stay() -> None:
    env = {"GLIBC_TUNABLES": "glibc.malloc.check=3:glibc.cpu.hwcaps=AVX512F:glibc.rtld.nns=8"}
    kept, _, ours = held_to(V3, env)["GLIBC_TUNABLES"].rpartition(":")
    assert kept == "glibc.malloc.check=3:glibc.rtld.nns=8"
    assert ours == knobs(V3)["GLIBC_TUNABLES"]


@v4_here
@pytest.mark.parametrize(
    ("level", "numpy", "blas"),
    [(V2, [], "Nehalem"), (V3, ["X86_V3"], "Haswell"), (V4, ["X86_V3", "X86_V4"], "SkylakeX")],
)
def test_numpy_and_openblas_use_nothing_above(level: str, numpy: list[str], blas: str) -> None:
    env = held_to(level, os.environ)
    done = subprocess.run([sys.executable, "-c", SEEN], env=env, capture_output=True, check=True)
    assert json.loads(done.stdout) == {"numpy": numpy, "blas": [blas]}
    assert done.stderr == b""


@v4_here
@pytest.mark.parametrize("level", LEVELS)
def test_glibc_uses_nothing_above(level: str) -> None:
    env = {**os.environ, **knobs(level)}
    said = subprocess.run([LOADER, "--help"], env=env, capture_output=True, text=True).stdout
    searched = {one for one in LEVELS if f"{one} (supported, searched)" in said}
    assert searched == set(LEVELS[: LEVELS.index(level) + 1])


@pytest.mark.parametrize("level", LEVELS)
def test_openssl_uses_nothing_above(level: str) -> None:
    env = {**os.environ, **knobs(level)}
    said = subprocess.run(["openssl", "version", "-c"], env=env, capture_output=True, text=True)
    first, second = (
        int(word, 16) for word in said.stdout.split("ia32cap=")[1].split()[0].split(":")[:2]
    )
    has = bits_of(level)
    assert (first >> 32) & ~has[4] & ~(1 << 11) == 0  # that one is OpenSSL's own mark for AMD XOP
    assert second & 0xFFFFFFFF & ~has[9] == 0
    assert second >> 32 == 0


def test_criu_and_linux_agree_on_what_the_features_are() -> None:
    features = this_cpu().features
    if features is None:
        pytest.skip("CRIU does not tell the features here")
    for level in LEVELS:
        bits = bits_of(level)
        has = all(want & ~word == 0 for want, word in zip(bits, features.words, strict=True))
        assert has == (not cpu_levels.missing(flags(), level))
