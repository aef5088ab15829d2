// Energy and forces of an exported step, without Python:
//
//     ./step step.pt2 positions.txt
//
// positions.txt: the number of atoms, then x y z of each in A. Prints the energy in eV and the
// forces in eV/A. The step's description (step.json) says which atoms and which cell it is for, and
// how far from its positions atoms may be (`max_displacement`): a dynamics code must export anew, or
// stop, when an atom has gone further.
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/torch.h>

#include <cstdio>
#include <fstream>
#include <iostream>
#include <vector>

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: step PACKAGE.pt2 POSITIONS.txt\n";
    return 2;
  }
  std::ifstream file(argv[2]);
  int64_t n_atoms = 0;
  file >> n_atoms;
  // positions as given: unwrapped, float64
  auto positions = torch::empty({n_atoms, 3}, torch::kFloat64);
  for (int64_t k = 0; k < 3 * n_atoms; ++k) file >> positions.data_ptr<double>()[k];
  if (!file) {
    std::cerr << argv[2] << " must hold the number of atoms and x y z of each\n";
    return 2;
  }
  const torch::InferenceMode guard;
  torch::inductor::AOTIModelPackageLoader step(argv[1]);
  const std::vector<torch::Tensor> out = step.run({positions});
  const auto energy = out[0].to(torch::kFloat64).contiguous();
  const auto forces = out[1].to(torch::kFloat64).contiguous();
  std::printf("%.10f\n", energy.data_ptr<double>()[0]);
  for (int64_t i = 0; i < n_atoms; ++i) {
    const double* f = forces.data_ptr<double>() + 3 * i;
    std::printf("%.10f %.10f %.10f\n", f[0], f[1], f[2]);
  }
}
