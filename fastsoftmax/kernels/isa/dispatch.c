/* Which kernels this machine can run: asked of the CPU once, by _cpu.pyx at import. */
#include "job.h"

#if FS_X86
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

/* Whether the processor and the operating system know AVX2, FMA and F16C. */
static int has_avx2(void)
{
    const unsigned fma = 1u << 12, osxsave = 1u << 27, avx = 1u << 28, f16c = 1u << 29;
    const unsigned avx2 = 1u << 5, ymm = 0x6;
    unsigned basic[4], leaf1[4], leaf7[4];
    cpuid(0, basic);
    if (basic[EAX] < 7)
        return 0;
    cpuid(1, leaf1);
    cpuid(7, leaf7);
    return has(leaf1[ECX], fma | osxsave | avx | f16c) && has(leaf7[EBX], avx2) &&
           has((unsigned)saved_registers(), ymm);
}

static int has_avx512(void)
{
    const unsigned f_dq_bw_vl = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31, zmm = 0xe6;
    unsigned leaf7[4];
    if (!has_avx2())
        return 0;
    cpuid(7, leaf7);
    return has(leaf7[EBX], f_dq_bw_vl) && has((unsigned)saved_registers(), zmm);
}
#endif

/* The ISAs of this build, best first: WITH(isa, whether this machine can run it). */
#if FS_X86
#define EACH_ISA(WITH)                                                                 \
    WITH(avx512, has_avx512())                                                         \
    WITH(avx2, has_avx2())                                                             \
    WITH(scalar, 1)
#elif FS_ARM
#define EACH_ISA(WITH)                                                                 \
    WITH(neon, 1)                                                                      \
    WITH(scalar, 1)
#else
#define EACH_ISA(WITH) WITH(scalar, 1)
#endif

#define TABLE(isa, supported)                                                          \
    extern const fs_kernels fs_kernels_f32_##isa, fs_kernels_f64_##isa;                \
    static const fs_table isa##_table = {#isa, &fs_kernels_f32_##isa,                  \
                                         &fs_kernels_f64_##isa};
EACH_ISA(TABLE)

#define ADDRESS(isa, supported) &isa##_table,
const fs_table *const fs_tables[] = {EACH_ISA(ADDRESS) NULL};

int fs_supported(const fs_table *tables[], int most)
{
    int count = 0;
#define ADD_IF(isa, supported)                                                         \
    if (count < most && supported)                                                     \
        tables[count++] = &isa##_table;
    EACH_ISA(ADD_IF)
    return count;
}
