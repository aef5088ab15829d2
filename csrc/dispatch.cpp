// C interface: picks the instruction set and the floating-point type.
#include "aimnet2.h"
#include "arguments.h"
#include "d3.h"
#include "program.h"

#define LESFF_DECLARE(name)                   \
  namespace name {                            \
  LesffKernels<float> float_kernels();        \
  LesffKernels<double> double_kernels();      \
  LesffPassKernels<float> float_pass_kernels();   \
  LesffPassKernels<double> double_pass_kernels(); \
  void program(int isa, const LesffProgram* a); \
  void d3(const LesffD3* a);                    \
  void d3_backward(const LesffD3* a);           \
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
LESFF_EXPORT int lesff_abi_version() { return 17; }

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

// Defines `pick`, which returns a table of kernels of an instruction set.
#ifdef LESFF_X86
#define LESFF_PICK(Table, pick, T, table)             \
  Table<T> pick(int isa, T) {                         \
    if (isa == 2) return lesff_avx512::table();       \
    if (isa == 1) return lesff_avx2::table();         \
    return lesff_generic::table();                    \
  }
#else
#define LESFF_PICK(Table, pick, T, table) \
  Table<T> pick(int, T) { return lesff_generic::table(); }
#endif
namespace {
LESFF_PICK(LesffKernels, pick, float, float_kernels)
LESFF_PICK(LesffKernels, pick, double, double_kernels)
LESFF_PICK(LesffPassKernels, pick_pass, float, float_pass_kernels)
LESFF_PICK(LesffPassKernels, pick_pass, double, double_pass_kernels)
}  // namespace

#define LESFF_ENTRY_OF(pick, name, Arguments)                                   \
  LESFF_EXPORT void lesff_##name(int isa, int is_double, const Arguments* a) { \
    if (is_double)                                                              \
      pick(isa, double()).name(a);                                              \
    else                                                                        \
      pick(isa, float()).name(a);                                               \
  }
#define LESFF_ENTRY(name, Arguments) LESFF_ENTRY_OF(pick, name, Arguments)
LESFF_ENTRY(convolve, LesffConvolution)
LESFF_ENTRY(convolve_backward, LesffConvolution)
LESFF_ENTRY(contract, LesffContraction)
LESFF_ENTRY(contract_backward, LesffContraction)
LESFF_ENTRY(harmonics, LesffHarmonics)
LESFF_ENTRY(harmonics_backward, LesffHarmonics)
LESFF_ENTRY(contacts, LesffContacts)
LESFF_ENTRY(shared_bonds_backward, LesffContacts)
LESFF_ENTRY(local_state, LesffLocalState)
LESFF_ENTRY(local_state_backward, LesffLocalState)
LESFF_ENTRY(transfers, LesffTransfers)
LESFF_ENTRY(transfers_backward, LesffTransfers)
LESFF_ENTRY(open_pairs, LesffOpenPairs)
LESFF_ENTRY(near_pairs, LesffNearPairs)
LESFF_ENTRY(shares, LesffShares)
LESFF_ENTRY(shares_backward, LesffShares)
LESFF_ENTRY(molecules, LesffMolecules)
LESFF_ENTRY(molecules_backward, LesffMolecules)
LESFF_ENTRY_OF(pick_pass, shells, LesffShells)
LESFF_ENTRY_OF(pick_pass, shells_backward, LesffShells)
LESFF_ENTRY_OF(pick_pass, pass, LesffPass)
LESFF_ENTRY_OF(pick_pass, pass_backward, LesffPass)
LESFF_ENTRY_OF(pick_pass, onset, LesffOnset)

LESFF_EXPORT void lesff_program(int isa, int, const LesffProgram* a) {
#ifdef LESFF_X86
  if (isa == 2) return lesff_avx512::program(isa, a);
  if (isa == 1) return lesff_avx2::program(isa, a);
#endif
  lesff_generic::program(isa, a);
}

#ifdef LESFF_X86
#define LESFF_DOUBLE_ENTRY(name, Arguments)                                 \
  LESFF_EXPORT void lesff_##name(int isa, int, const Arguments* a) {        \
    if (isa == 2) return lesff_avx512::name(a);                             \
    if (isa == 1) return lesff_avx2::name(a);                               \
    lesff_generic::name(a);                                                 \
  }
#else
#define LESFF_DOUBLE_ENTRY(name, Arguments) \
  LESFF_EXPORT void lesff_##name(int, int, const Arguments* a) { lesff_generic::name(a); }
#endif
LESFF_DOUBLE_ENTRY(d3, LesffD3)
LESFF_DOUBLE_ENTRY(d3_backward, LesffD3)
