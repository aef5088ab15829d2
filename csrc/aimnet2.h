// Plain C structures of message passes with charges, mirrored by lesff/kernels/passes.py.
#pragma once
#include <cstdint>

// Lengths, directions and Gaussian shells of pairs: exp(-eta (r - s)^2) (1 + cos(pi r / rc)) / 2.
// Everything floating point is float or double, as the entry point says; all arrays C-contiguous.
struct LesffShells {
  int64_t n_pairs, n_radial;
  int32_t n_threads, unused;
  double cutoff, exponent;    // A, 1/A^2
  const double* centers;      // (n_radial) A
  const void* vectors;        // (n_pairs, 3) A, sender to receiver
  void* distance;             // (n_pairs): outputs of the forward
  void* units;                // (n_pairs, 3), receiver to sender
  void* shells;               // (n_pairs, n_radial)
  const void* grad_distance;  // incoming gradients of the backward
  const void* grad_units;
  const void* grad_shells;
  void* grad_vectors;         // (n_pairs, 3): output of the backward
};

// Inputs of the network of a pass: features x, scalars and squared norms of the mixed vectors of
// sum_m f_g(r_nm) (1, u_nm) x_m; with charges q, scalars and norms of theirs behind them. Charges
// are one more row of the features: rows = n_features + 1, else n_features.
struct LesffPass {
  int64_t n_nodes, n_pairs, n_edges;
  int64_t n_features, n_radial, n_vectors;  // A, G, H
  int64_t padded_radial, padded;            // G and H up to multiples of 16
  int64_t width;                            // numbers of a row of the inputs
  int32_t n_threads, unused;
  const int32_t* node_start;   // (n_nodes + 1): edges of a receiver
  const int32_t* edge_sender;  // (n_edges) node
  const int32_t* edge_pair;    // (n_edges)
  const int8_t* edge_sign;     // (n_edges) +1 along the pair's edge, -1 against it
  const void* features;        // (n_nodes, A, G)
  const void* charges;         // (n_nodes), or null
  const void* shells;          // (n_pairs, G)
  const void* units;           // (n_pairs, 3), receiver to sender of the edge along
  const void* weight;          // (A, G, H)
  const void* charge_weight;   // (G, H), or null
  void* inputs;                // (n_nodes, width): outputs of the forward
  void* sums;                  // (n_nodes, rows, 4, padded_radial)
  void* vectors;               // (n_nodes, rows, 3, padded)
  const void* grad_inputs;     // (n_nodes, width): of the backward
  void* grad_sums;             // (n_nodes, rows, 4, padded_radial): work space
  void* grad_features;         // (n_nodes, A, G): outputs of the backward
  void* grad_charges;          // (n_nodes), or null
  void* grad_shells;           // (2 n_pairs, padded_radial), whose first half is the output
  void* grad_units;            // (2 n_pairs, 3), likewise
};

// Sum over pairs of k_e q_i q_j [erfc(a r) - f(r)] / r with f of lesff/electrostatics/onset.py, and
// its derivatives.
struct LesffOnset {
  int64_t n_atoms, n_pairs, n_systems;
  double rate, end, constant;  // a in 1/A, r_o in A, k_e in eV A
  const void* charges;         // (n_atoms) e
  const void* distance;        // (n_pairs) A
  const int64_t* first;        // (n_pairs)
  const int64_t* second;       // (n_pairs)
  const int64_t* batch;        // (n_atoms) system of each atom
  void* energy;                // (n_systems) eV: output
  void* potential;             // (n_atoms) derivative by the charges: output
  void* slope;                 // (n_pairs) derivative by the distances: output
  double* work;                // (n_systems + n_atoms)
};

// The kernels of one floating-point type, compiled for one instruction set.
template <class T>
struct LesffPassKernels {
  void (*shells)(const LesffShells*);
  void (*shells_backward)(const LesffShells*);
  void (*pass)(const LesffPass*);
  void (*pass_backward)(const LesffPass*);
  void (*onset)(const LesffOnset*);
};
