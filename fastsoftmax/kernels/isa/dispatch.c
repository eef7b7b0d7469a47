/* Which kernels this machine can run: asked of the CPU once, by _cpu.pyx at import. */
#include "job.h"

#if defined(__x86_64__) || defined(_M_X64)
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif

enum { EAX, EBX, ECX, EDX };

static void cpuid(unsigned leaf, unsigned out[4])
{
#if defined(_MSC_VER)
    __cpuidex((int *)out, (int)leaf, 0);
#else
    __cpuid_count(leaf, 0, out[EAX], out[EBX], out[ECX], out[EDX]);
#endif
}

/* Which registers the operating system saves: XCR0. */
static uint64_t saved_registers(void)
{
#if defined(_MSC_VER)
    return _xgetbv(0);
#else
    uint32_t low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
#endif
}

static int has(unsigned value, unsigned bits)
{
    return (value & bits) == bits;
}

static void x86_features(int *avx2, int *avx512)
{
    const unsigned fma = 1u << 12, osxsave = 1u << 27, avx = 1u << 28, f16c = 1u << 29;
    const unsigned avx2_bit = 1u << 5;
    const unsigned f_dq_bw_vl = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;
    const unsigned ymm = 0x6, zmm = 0xe6;
    unsigned basic[4], leaf1[4], leaf7[4];
    *avx2 = *avx512 = 0;
    cpuid(0, basic);
    if (basic[EAX] < 7)
        return;
    cpuid(1, leaf1);
    cpuid(7, leaf7);
    if (!has(leaf1[ECX], fma | osxsave | avx | f16c))
        return;
    uint64_t saved = saved_registers();
    *avx2 = has((unsigned)saved, ymm) && has(leaf7[EBX], avx2_bit);
    *avx512 = *avx2 && has((unsigned)saved, zmm) && has(leaf7[EBX], f_dq_bw_vl);
}
#else
static void x86_features(int *avx2, int *avx512)
{
    *avx2 = *avx512 = 0;
}
#endif

int fs_supported(const fs_table *tables[], int most)
{
    int avx2, avx512, count = 0;
    x86_features(&avx2, &avx512);
    const fs_table *best_first[] = {
        avx512 ? fs_avx512 : NULL,
        avx2 ? fs_avx2 : NULL,
        fs_neon, /* no question: aarch64 implies it */
        fs_scalar,
    };
    for (size_t i = 0; i < sizeof best_first / sizeof *best_first; i++)
        if (best_first[i] && count < most)
            tables[count++] = best_first[i];
    return count;
}
