/* The end of what isa/begin.h, or a vocabulary that is included alone, has begun. */
#if defined(__GNUC__) && defined(ISA)
#pragma GCC visibility pop
#endif
#if defined(ISA_TARGET) && defined(__clang__) && !defined(ISA_IS_EMULATED)
#pragma clang attribute pop
#endif
