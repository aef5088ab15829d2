// Compiled once per instruction set, see CMakeLists.txt; dispatch.cpp picks one at run time.
#include <type_traits>

#include "contacts.h"
#include "contraction.h"
#include "convolution.h"
#include "harmonics.h"
#include "local_state.h"
#include "molecules.h"
#include "near_pairs.h"
#include "open_pairs.h"
#include "shares.h"
#include "transfers.h"

namespace LESFF_NAMESPACE {

template <class T>
LesffKernels<T> kernels() {
  return {convolve<T>,          convolve_backward<T>,    contract<T>,
          contract_backward<T>, any_harmonics<T, false>, any_harmonics<T, true>,
          contacts<T>,          shared_bonds_backward<T>, local_state<T>,
          local_state_backward<T>, transfers<T>,         transfers_backward<T>,
          open_pairs<T>,        near_pairs<T>,           shares<T>,
          shares_backward<T>,   molecules<T>,            molecules_backward<T>};
}

LesffKernels<float> float_kernels() { return kernels<float>(); }
LesffKernels<double> double_kernels() { return kernels<double>(); }

}  // namespace LESFF_NAMESPACE
