/* The end of what isa/begin.h, or a vocabulary that is included alone, has begun. */
#if defined(ISA_TARGET) && defined(__clang__) && !defined(ISA_IS_EMULATED)
#pragma clang attribute pop
#endif
