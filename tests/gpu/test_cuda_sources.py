"""What NVRTC makes of CUDA sources, run by the interpreter."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest

from gpu import cubin, nvrtc, ptx
from gpu.ptx_programs import SCHEDULES, Array, words

needs_nvrtc = pytest.mark.skipif(not nvrtc.available(), reason=nvrtc.MISSING)
ARCHS = (75, 90, 120)

SUM = """
extern "C" __global__ void k(const float* x, float* y, int n) {
  __shared__ float part[2][4];
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const float* row = x + (long long)blockIdx.x * n;
  float v = threadIdx.x < n ? row[threadIdx.x] : 0.f;
  for (int round = 0; round < 2; ++round) {
    float s = v;
    for (int m = 16; m; m >>= 1) s += __shfl_xor_sync(0xffffffffu, s, m);
    float* p = part[round];  // BUFFER
    if (lane == 0) p[warp] = s;
    __syncthreads();  // BARRIER
    v = (p[0] + p[1]) + (p[2] + p[3]);
  }
  if (threadIdx.x < n) y[(long long)blockIdx.x * n + threadIdx.x] = v;
}
"""
ROWS, COLUMNS, THREADS = 3, 100, 128


@functools.cache
def compiled(source: str, arch: int) -> ptx.Kernel:
    result = nvrtc.compile(source, [], arch, options=["--fmad=false"])
    return ptx.parse(result.code).kernels["k"]


def run_rows(source: str, arch: int, schedule: int | None) -> tuple[Array, Array]:
    """Run a kernel k(x, y, n), a block of 128 for each of the rows of 100."""
    x = np.random.default_rng(0).standard_normal((ROWS, COLUMNS), np.float32)
    memory = ptx.Memory()
    pointers = [memory.add("x", x), memory.add("y", x * 0, initialised=False)]
    ptx.launch(
        compiled(source, arch),
        memory,
        ROWS,
        THREADS,
        [*pointers, np.int32(COLUMNS)],
        schedule=schedule,
        perturb=schedule is not None,
    )
    assert (memory.reads("x") == 1).all()
    assert (memory.writes("y") == 1).all()
    return x, memory.array("y")


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHS)
def test_a_sum_of_rows(arch: int) -> None:
    for schedule in SCHEDULES:
        x, y = run_rows(SUM, arch, schedule)
        expected = 128 * x.sum(axis=1, keepdims=True, dtype=np.float64)
        np.testing.assert_allclose(y, np.broadcast_to(expected, y.shape), rtol=1e-4)


MUTANTS: dict[str, tuple[str, str, *tuple[str, ...]]] = {
    "no barrier": ("__syncthreads();  // BARRIER", "", "shared race"),
    "one buffer": ("part[round];  // BUFFER", "part[0];", "shared race"),
    "divergent barrier": (
        "__syncthreads();  // BARRIER",
        "if (lane < 16) __syncthreads();",
        "shared race",
    ),
    "early return": (
        "float v =",
        "if (threadIdx.x >= n) return; float v =",
        "shuffle",
    ),
    "no guard": (
        "if (threadIdx.x < n) y[(long long)",
        "y[(long long)",
        "global race",
        "bounds",
    ),
    "wrong guard": ("threadIdx.x < n ?", "threadIdx.x <= n ?", "bounds"),
    "beyond shared memory": ("p[warp] = s", "p[warp + 8] = s", "bounds"),
    "all lanes store": ("if (lane == 0) p", "p", "shared race"),
    "part is not filled": ("if (lane == 0)", "if (lane == 0 && warp)", "uninitialised"),
}


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_of_the_sum_are_caught(name: str, arch: int) -> None:
    old, new, *expected = MUTANTS[name]
    assert SUM.count(old) == 1
    kinds = set()
    for schedule in SCHEDULES:
        with pytest.raises(ptx.Fault) as caught:
            run_rows(SUM.replace(old, new), arch, schedule)
        kinds.add(caught.value.kind)
    assert kinds & set(expected)
    assert kinds <= {*expected, "uninitialised"}


LIBRARY = """
extern "C" __global__ void k(const TYPE* x, TYPE* y, int n) {
  int i = blockIdx.x * 128 + threadIdx.x;
  if (i < n) y[i] = FUNCTION(x[i]);
}
"""


@needs_nvrtc
@pytest.mark.parametrize(
    ("type_", "function", "reference"),
    [
        ("double", "exp", np.exp),
        ("double", "expm1", np.expm1),
        ("double", "log", lambda x: np.log(np.abs(x))),
        ("double", "log1p", lambda x: np.log1p(np.abs(x))),
        ("double", "1 / ", np.reciprocal),
        ("float", "logf", lambda x: np.log(np.abs(x))),
        ("float", "log1pf", lambda x: np.log1p(np.abs(x))),
        ("float", "1 / ", np.reciprocal),
    ],
)
def test_functions_of_libdevice(
    type_: str, function: str, reference: Callable[[Array], Array]
) -> None:
    dtype = np.dtype(np.float32 if type_ == "float" else np.float64)
    rng = np.random.default_rng(0)
    x = np.ldexp(rng.standard_normal(500), rng.integers(-20, 7, 500)).astype(dtype)
    x[:6] = [0, -0.0, 1, np.inf, -np.inf, np.nan]
    if function.startswith("log"):
        x = np.abs(x)
    source = LIBRARY.replace("TYPE", type_).replace("FUNCTION", function)
    with np.errstate(all="ignore"):
        expected = reference(x.astype(np.float64)).astype(dtype)
    for arch in (75, 120):
        memory = ptx.Memory()
        pointers = [memory.add("x", x), memory.add("y", x, initialised=False)]
        program = compiled(source, arch)
        arguments = [*pointers, np.int32(500)]
        ptx.launch(program, memory, 4, 128, arguments, perturb=True)
        epsilon = np.finfo(dtype).eps
        np.testing.assert_allclose(memory.array("y"), expected, rtol=4 * epsilon)


VECTORS = """
extern "C" __global__ void k(const float4* x, float4* y) {
  y[threadIdx.x] = x[threadIdx.x];
}
"""


@needs_nvrtc
def test_a_misaligned_vector_load_of_compiled_code() -> None:
    program = compiled(VECTORS, 90)
    for shift in (0, 4, 8, 16):
        memory = ptx.Memory()
        pointers = [memory.add("x", words(128), shift), memory.add("y", words(128))]
        if shift % 16 == 0:
            report = ptx.launch(program, memory, 1, 32, pointers)
            assert report.sectors >= report.ideal_sectors == 32
            continue
        with pytest.raises(ptx.Fault, match="alignment"):
            ptx.launch(program, memory, 1, 32, pointers)


CLUSTER = """
__device__ unsigned map(const void* p, unsigned rank) {
  unsigned a;
  asm("mapa.shared::cluster.u32 %0, %1, %2;"
      : "=r"(a) : "r"((unsigned)__cvta_generic_to_shared(p)), "r"(rank));
  return a;
}
__device__ void meet() {
  asm volatile("barrier.cluster.arrive.release.aligned;\\n"
               "barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
extern "C" __global__ void __cluster_dims__(2, 1, 1) k(const float* x, float* y) {
  __shared__ float mine;
  float other;
  if (threadIdx.x == 0) mine = x[blockIdx.x];
  meet();  // FIRST
  asm volatile("ld.shared::cluster.f32 %0, [%1];"
               : "=f"(other) : "r"(map(&mine, (blockIdx.x & 1) ^ 1)) : "memory");
  if (threadIdx.x == 0) y[blockIdx.x] = other;
  meet();  // LAST
}
"""


@needs_nvrtc
@pytest.mark.parametrize("arch", [90, 120])
@pytest.mark.parametrize(
    ("dropped", "kind"), [("FIRST", "cluster"), ("LAST", "exited")]
)
def test_cluster_barriers_of_compiled_code(arch: int, dropped: str, kind: str) -> None:
    def run(source: str, schedule: int | None) -> Array:
        memory = ptx.Memory()
        x = np.arange(6, dtype=np.float32)
        pointers = [memory.add("x", x), memory.add("y", x, initialised=False)]
        ptx.launch(compiled(source, arch), memory, 6, 64, pointers, schedule=schedule)
        return memory.array("y")

    for schedule in SCHEDULES:
        assert run(CLUSTER, schedule).tolist() == [1, 0, 3, 2, 5, 4]
        with pytest.raises(ptx.Fault) as caught:
            run(CLUSTER.replace(f"meet();  // {dropped}", ""), schedule)
        assert caught.value.kind == kind


@needs_nvrtc
def test_nvrtc_says_what_is_wrong() -> None:
    with pytest.raises(nvrtc.CompileError, match="error"):
        nvrtc.compile("int x = ;", [], 90)
    source = "template<class T> __global__ void f(T* x) { *x = 1; int unused; }"
    result = nvrtc.compile(source, ["f<float>", "f<double>"], 90)
    assert set(ptx.parse(result.code).kernels) == set(result.lowered.values())
    assert "unused" in result.log
    assert nvrtc.compile(source, ["f<int>"], 90, kind="cubin").code[:4] == b"\x7fELF"
    assert set(ARCHS) <= set(nvrtc.architectures())


@needs_nvrtc
@pytest.mark.skipif(not cubin.available(), reason=nvrtc.MISSING)
@pytest.mark.parametrize("arch", [75, 120])
def test_usage_of_a_cubin(arch: int) -> None:
    code = nvrtc.compile(VECTORS, [], arch, kind="cubin").code
    usage = cubin.kernels(code)["k"]
    assert (dict(usage.loads), dict(usage.stores)) == ({128: 1}, {128: 1})
    assert (usage.stack, usage.local, usage.barriers) == (0, 0, 0)
    assert 4 < usage.registers < 40
    usage = cubin.kernels(nvrtc.compile(SUM, [], arch, kind="cubin").code)["k"]
    assert (dict(usage.loads), dict(usage.stores)) == ({32: 1}, {32: 1})
    assert usage.barriers == 2
    assert usage.shared % 1024 == 32
