/* From here to isa/end.h functions may use the instructions that ISA_TARGET names, and
 * those of this unit alone: the flags of the build stay those of the oldest processor.
 * MSVC needs nothing of the kind for intrinsics (not tried); nor does an emulation. */
#define DO_PRAGMA_(text) _Pragma(#text)
#define DO_PRAGMA(text) DO_PRAGMA_(text)
#if defined(ISA_IS_EMULATED)
#elif defined(__clang__)
DO_PRAGMA(clang attribute push(__attribute__((target(ISA_TARGET))),
                               apply_to = function))
#elif defined(__GNUC__)
DO_PRAGMA(GCC target(ISA_TARGET))
#endif
