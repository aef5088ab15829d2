// Plain C structures that cross the library boundary; lesff/kernels mirrors them with ctypes.
#pragma once
#include <cstdint>

// One tensor-product path (l1, l2, l3) of a convolution.
struct LesffPath {
  int32_t rows;         // 2 l1 + 1
  int32_t cols;         // 2 l3 + 1
  int32_t feature_row;  // first (l, m) row of order l1 in the sender features
  int32_t kernel_col;   // first column of the (m1, m3) block in the angular kernel
  int32_t order;        // l3: which message tensor
  int32_t block;        // position among the paths of the same l3
  int32_t odd;          // whether the angular kernel changes sign with the edge's direction
};

// Everything floating point is float or double, as the entry point says; all arrays C-contiguous.
struct LesffConvolution {
  int64_t n_nodes, n_pairs, n_edges;
  int64_t channels;
  int64_t feature_rows;  // (feature_l + 1)^2
  int64_t kernel_cols;
  int32_t n_paths, n_threads;
  const LesffPath* paths;
  int64_t message_cols[4];  // channels of each order's message: blocks * channels

  const int32_t* node_start;   // (n_nodes + 1): edges of a receiver, receivers in element order
  const int32_t* edge_sender;  // (n_edges) node, element order
  const int32_t* edge_pair;    // (n_edges)
  const int8_t* edge_sign;     // (n_edges) +1 along the pair's edge, -1 against it
  const int32_t* pair_sender;  // (n_pairs) node, element order
  const int32_t* pair_receiver;

  const void* features;  // (n_nodes, feature_rows, channels)
  const void* kernel;    // (n_pairs, kernel_cols)

  // radial weights: either given for every pair (or every direction of a pair) ...
  const void* weights;  // (weight_rows, n_paths * channels), null with a table
  int64_t weight_rows;  // n_pairs or 2 n_pairs
  // ... or a spline with knots start + i / inverse_step, the last one at the cutoff: coefficients of
  // n_intervals + 5 splines, followed by six rows of zeros
  const void* distance;  // (n_pairs)
  const void* table;     // (n_paths, channel blocks, n_intervals + 11, 16)
  int64_t n_intervals;
  double table_start, table_inverse_step;

  const void* messages[4];  // (n_nodes, 2 l + 1, message_cols[l]): output, or incoming gradient
  void* grad_features;      // like features, or null
  void* grad_kernel;        // like kernel
  void* grad_weights;       // like weights, or null
  void* grad_distance;      // like distance, or null
};

// Nodes start..stop share the row `element` of the weight table.
struct LesffElementSlice {
  int64_t start, stop, element;
};

// Sparse polynomial: sum over terms t of weight[t] a[i] a[j] a[k], where a[0] = 1.
// Terms of one group share the output component and the leading pair (i, j).
struct LesffContraction {
  int64_t n_nodes, channels;
  int64_t n_rows;        // (max_ell + 1)^2 components of the features
  int64_t n_components;  // 2 l_out + 1
  int64_t n_terms, n_groups, n_slices, n_elements;
  int32_t n_threads;
  const LesffElementSlice* slices;
  const int32_t* groups;  // (n_groups, 4): i, j, component, end of its terms
  const int32_t* last;    // (n_terms) k
  const void* features;   // (n_nodes, n_rows, channels)
  const void* table;      // (n_elements, n_terms, channels)
  void* output;           // (n_nodes, n_components, channels), or null
  const void* grad;       // like output, or null
  void* grad_features;    // like features, or null
  void* grad_table;       // like table, or null
};

struct LesffHarmonics {
  int64_t n_pairs;
  int32_t max_ell, n_threads;
  const void* vectors;        // (n_pairs, 3)
  void* distance;             // (n_pairs): output of the forward
  void* harmonics;            // (n_pairs, (max_ell + 1)^2): output of the forward
  const void* grad_distance;  // incoming gradients of the backward
  const void* grad_harmonics;
  void* grad_vectors;  // (n_pairs, 3): output of the backward
};

// Close pairs: distances that level off, repulsion of the nuclei, bonds and openness of atoms.
// What has no output array is not computed. Constants as in lesff/nn/contacts.py.
struct LesffContacts {
  int64_t n_pairs, n_atoms, n_elements;
  const void* distance;          // (n_pairs)
  const int64_t* first;          // (n_pairs) an atom of each pair
  const int64_t* second;         // (n_pairs)
  const int64_t* atomic_number;  // (n_atoms)
  const double* radius;          // (n_elements) by atomic number, A
  const double* valence;         // (n_elements) 0: always open
  const double* onium;           // (n_elements) 1: more bonds open, too
  const double* most;            // (n_elements) bonds beyond which an atom is crowded
  const double* counted;         // (n_elements) bonds beyond which an atom is no ion
  double inner_start, inner_width;  // shares of the sum of radii
  double bond_full, bond_none, open_from, open_full;
  double crowding;   // eV of one bond too many
  double wall_from;  // share of the sum of radii from which on there is no repulsion; 0: all of it
  double wall_stiffness;  // eV of a pair per square of what levelling off adds, in sums of radii
  double sharing_width;   // see SharedBonds in contacts.h; 0: whole bonds of both atoms
  void* inner;     // (n_pairs) distances that level off: output, or null
  void* d_inner;   // (n_pairs) its derivative
  void* wall;      // (n_atoms) eV: output, or null
  void* d_wall;    // (n_pairs) derivative of a pair's energy
  void* openness;  // (n_atoms): output, or null; the next five with it
  void* bonded;    // (n_atoms) 0 without bonds, 1 from one bond on
  void* lacks;     // (n_atoms) 1, or 0 for more bonds than the valence
  void* d_bond;    // (n_pairs) derivative of a pair's bond
  void* d_open;    // (n_atoms) derivative of the openness by the count
  void* d_bonded;  // (n_atoms) derivative of `bonded` by the count
  void* d_crowd;   // (n_atoms) derivative of the wall by the count, where both are asked for
  double* count;   // (n_atoms) work space
  double* shared;  // (2, n_atoms) work space where hydrogens share their bonds
  const void* grad_count;  // (n_atoms) of the backward: gradient of the shared counts of bonds
  void* grad_distance;     // (n_pairs) of the backward: output
};

// Charges that transfers between pairs move, see EdgeHead of lesff/heads/edge.py.
struct LesffTransfers {
  int64_t n_pairs, n_atoms;
  const void* transfers;         // (n_pairs) e, before any limit
  const void* distance;          // (n_pairs) A
  const int64_t* first;          // (n_pairs) who gives
  const int64_t* second;         // (n_pairs) who takes
  const int64_t* atomic_number;  // (n_atoms)
  const double* radius;          // (n_elements) by atomic number, A
  const double* valence;         // (n_elements) 0: metals, whose pairs all count as bonds
  const void* limits;            // (n_atoms) e, or null
  int32_t has_bonds;             // whether pairs without a bond have a limit of their own
  double bond_full, bond_none, between, soft;
  void* moved;             // (n_atoms) e: output
  const void* grad_moved;  // (n_atoms) of the backward
  void* grad_transfers;    // (n_pairs) outputs of the backward
  void* grad_distance;     // (n_pairs)
  double* total;           // (n_atoms) work space: what an atom takes and gives
  double* factor;          // (n_atoms) work space
  double* slope;           // (n_atoms) work space
};

// Charges and spins of lesff/nn/local_state.py from what is read off the first layer.
struct LesffLocalState {
  int64_t n_atoms, n_systems;
  int32_t given;          // whether potentials are given
  const void* values;     // (n_atoms, 4) of the features
  const void* base;       // (n_atoms, 4) of the element
  const void* openness;   // (n_atoms)
  const void* bonded;     // (n_atoms)
  const void* lacks;      // (n_atoms)
  const int64_t* batch;   // (n_atoms)
  const void* charge;     // (n_systems)
  const void* unpaired;   // (n_systems)
  double max_guess, max_log_weight, faint, soft, pull, max_charge, max_spin, proportional;
  void* charges;           // (n_atoms)
  void* spins;             // (n_atoms)
  void* raw;               // (n_atoms)
  void* guess;             // (n_atoms)
  void* potentials;        // (n_systems, 3): output, or input if given
  const void* g_charges;   // incoming gradients of the backward
  const void* g_spins;
  const void* g_raw;
  const void* g_guess;
  const void* g_potentials;
  void* g_values;  // outputs of the backward
  void* g_base;
  void* g_openness;
  void* g_bonded;
  double* work;      // (n_systems, 16)
};

// Sums over all pairs of isolated systems.
struct LesffOpenPairs {
  int64_t n_systems, n_atoms;
  int32_t kind;           // 0: erf(r / (sqrt(2) sigma)) / r, 1: damped 1 / r^6
  int32_t n_threads;
  double sigma;           // A
  const void* charges;    // (n_systems, n_atoms), zero for padding
  const void* positions;  // (n_systems, n_atoms, 3) A
  void* potential;        // (n_systems, n_atoms): output
  void* slope;            // (n_systems, n_atoms, 3): output, or null
};

// A neighbour list cut down to pairs that are close.
struct LesffNearPairs {
  int64_t n_pairs;              // of the kept list, which has 2 n_pairs edges
  double cutoff_squared;        // A^2
  const double* positions;      // (n_atoms, 3) A
  const int64_t* ends;          // (2, n_pairs): sender and receiver
  const double* offsets;        // (n_pairs, 3) A: of the receiver's image
  const int64_t* pair_of;       // (n_edges)
  const int64_t* kept_edges;    // (2, n_edges)
  const int64_t* kept_shifts;   // (n_edges, 3)
  const int64_t* kept_reverse;  // (n_edges)
  double* squared;              // (n_pairs): work
  int64_t* rank;                // (n_edges): work
  int64_t* edges;               // outputs: (2, n_found) at the start of 2 n_edges
  int64_t* shifts;              // (n_found, 3) of n_edges rows
  int64_t* reverse;             // (n_found) of n_edges
  double* lengths;              // (n_found) of n_edges, A
  int64_t* n_found;
  double* min_distance;         // A, infinite without pairs
};

// Charges within limits that share out what is missing to a total, see lesff/heads/sharing.py.
struct LesffShares {
  int64_t n_atoms, n_systems;
  int32_t n_steps;         // Newton steps whose slopes are `least` or more, before two with `tiny`
  double least, tiny;
  const void* p;           // (n_atoms) charges before, e
  const void* weights;     // (n_atoms)
  const void* limits;      // (n_atoms) e
  const void* totals;      // (n_systems) e
  const int64_t* batch;    // (n_atoms)
  void* charges;           // (n_atoms): output
  void* potential;         // (n_systems): output; in the backward input
  const void* g_charges;   // (n_atoms)
  const void* g_potential;  // (n_systems)
  void* g_p;               // (n_atoms): outputs of the backward
  void* g_weights;         // (n_atoms)
  void* g_totals;          // (n_systems)
  double* work;            // (n_systems, 8) work space
};

// Charges that each molecule shares out: lesff/electrostatics/charges/sharing.py.
struct LesffMolecules {
  int64_t n_atoms, n_pairs;
  double full;             // bonds from here on conduct without limit
  double floor;            // added to the sum of the weights of a group
  const void* charges;     // (n_atoms) before, e
  const void* weights;     // (n_atoms)
  const void* targets;     // (n_atoms) e
  const void* bond;        // (n_pairs) from zero to one
  const int64_t* first;    // (n_pairs)
  const int64_t* second;   // (n_pairs)
  void* shared;            // (n_atoms): output
  const void* g_shared;    // (n_atoms)
  void* g_charges;         // (n_atoms): outputs of the backward
  void* g_weights;         // (n_atoms)
  void* g_targets;         // (n_atoms)
  void* g_bond;            // (n_pairs)
};

// The kernels of one floating-point type, compiled for one instruction set.
template <class T>
struct LesffKernels {
  void (*convolve)(const LesffConvolution*);
  void (*convolve_backward)(const LesffConvolution*);
  void (*contract)(const LesffContraction*);
  void (*contract_backward)(const LesffContraction*);
  void (*harmonics)(const LesffHarmonics*);
  void (*harmonics_backward)(const LesffHarmonics*);
  void (*contacts)(const LesffContacts*);
  void (*shared_bonds_backward)(const LesffContacts*);
  void (*local_state)(const LesffLocalState*);
  void (*local_state_backward)(const LesffLocalState*);
  void (*transfers)(const LesffTransfers*);
  void (*transfers_backward)(const LesffTransfers*);
  void (*open_pairs)(const LesffOpenPairs*);
  void (*near_pairs)(const LesffNearPairs*);
  void (*shares)(const LesffShares*);
  void (*shares_backward)(const LesffShares*);
  void (*molecules)(const LesffMolecules*);
  void (*molecules_backward)(const LesffMolecules*);
};
