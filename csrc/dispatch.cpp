// C interface: picks the instruction set and the floating-point type.
#include "arguments.h"
#include "program.h"

#define LESFF_DECLARE(name)                   \
  namespace name {                            \
  LesffKernels<float> float_kernels();        \
  LesffKernels<double> double_kernels();      \
  void program(int isa, const LesffProgram* a); \
  }
LESFF_DECLARE(lesff_generic)
#ifdef LESFF_X86
LESFF_DECLARE(lesff_avx2)
LESFF_DECLARE(lesff_avx512)
#endif

#if defined(_WIN32)
#define LESFF_EXPORT extern "C" __declspec(dllexport)
#else
#define LESFF_EXPORT extern "C" __attribute__((visibility("default")))
#endif

// Raised whenever a structure or the meaning of an argument changes.
LESFF_EXPORT int lesff_abi_version() { return 10; }

// Best instruction set of this processor: 0 generic, 1 AVX2 with FMA, 2 AVX-512.
LESFF_EXPORT int lesff_best_instruction_set() {
#ifdef LESFF_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("fma"))
    return 2;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
  return 0;
}

namespace {
LesffKernels<float> pick(int isa, float) {
#ifdef LESFF_X86
  if (isa == 2) return lesff_avx512::float_kernels();
  if (isa == 1) return lesff_avx2::float_kernels();
#endif
  return lesff_generic::float_kernels();
}
LesffKernels<double> pick(int isa, double) {
#ifdef LESFF_X86
  if (isa == 2) return lesff_avx512::double_kernels();
  if (isa == 1) return lesff_avx2::double_kernels();
#endif
  return lesff_generic::double_kernels();
}
}  // namespace

#define LESFF_ENTRY(name, Arguments)                                            \
  LESFF_EXPORT void lesff_##name(int isa, int is_double, const Arguments* a) { \
    if (is_double)                                                              \
      pick(isa, double()).name(a);                                              \
    else                                                                        \
      pick(isa, float()).name(a);                                               \
  }
LESFF_ENTRY(convolve, LesffConvolution)
LESFF_ENTRY(convolve_backward, LesffConvolution)
LESFF_ENTRY(contract, LesffContraction)
LESFF_ENTRY(contract_backward, LesffContraction)
LESFF_ENTRY(harmonics, LesffHarmonics)
LESFF_ENTRY(harmonics_backward, LesffHarmonics)
LESFF_ENTRY(contacts, LesffContacts)
LESFF_ENTRY(local_state, LesffLocalState)
LESFF_ENTRY(local_state_backward, LesffLocalState)
LESFF_ENTRY(transfers, LesffTransfers)
LESFF_ENTRY(transfers_backward, LesffTransfers)
LESFF_ENTRY(open_pairs, LesffOpenPairs)
LESFF_ENTRY(near_pairs, LesffNearPairs)
LESFF_ENTRY(shares, LesffShares)
LESFF_ENTRY(shares_backward, LesffShares)

LESFF_EXPORT void lesff_program(int isa, int, const LesffProgram* a) {
#ifdef LESFF_X86
  if (isa == 2) return lesff_avx512::program(isa, a);
  if (isa == 1) return lesff_avx2::program(isa, a);
#endif
  lesff_generic::program(isa, a);
}
