// Dispersion D3(BJ) of pairs of atoms, mirrored by lesff/kernels/d3.py.
#pragma once
#include <cstdint>

// Pairs are all those of open systems, and a list of others, which fade out up to the cutoff.
// All numbers are double; energies in eV, lengths in A but for the tables, which are in Bohr.
struct LesffD3 {
  int64_t n_atoms, n_open, n_pairs, n_elements, n_references;
  double s6, s8, a1, a2, cutoff;
  double fade, steepness, width;  // share of the cutoff where pairs begin to fade, k1, k3
  double bohr, hartree;
  const double* c6;          // (n_elements, n_elements, n_references, n_references)
  const double* counts;      // (n_elements, n_references)
  const double* radius;      // (n_elements)
  const double* size;        // (n_elements)
  const double* most;        // (n_elements)
  const int64_t* element;    // (n_atoms) row of the tables
  const int64_t* open;       // (n_open, 2) first atom of an open system, and end
  const double* positions;   // (n_atoms, 3), of open systems
  const int64_t* first;      // (n_pairs) of the list
  const int64_t* second;     // (n_pairs)
  const double* vectors;     // (n_pairs, 3)
  double* shares;            // (n_atoms) eV: output of the forward
  const double* grad;        // (n_atoms) gradient of the shares
  double* grad_positions;    // (n_atoms, 3): outputs of the backward
  double* grad_vectors;      // (n_pairs, 3)
  // work space: neighbours and their gradient; references p, u of the module's text, gradients
  double* count;             // (2, n_atoms)
  double* reference;         // (2, n_atoms, n_references)
  double* mixed;             // (2, n_atoms, n_elements, n_references)
};
