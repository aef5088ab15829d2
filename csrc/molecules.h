// What molecules lack to their charges, shared out in each: lesff/electrostatics/charges/sharing.py.
#pragma once
#include <cmath>
#include <vector>

#include "arguments.h"

namespace LESFF_NAMESPACE {

// Disjoint sets; the root of a set is its lowest member.
class Sets {
 public:
  explicit Sets(int64_t n) : parent_(n) {
    for (int64_t i = 0; i < n; ++i) parent_[i] = i;
  }
  int64_t root(int64_t i) {
    while (parent_[i] != i) i = parent_[i] = parent_[parent_[i]];
    return i;
  }
  void join(int64_t i, int64_t j) {
    i = root(i), j = root(j);
    if (i < j)
      parent_[j] = i;
    else
      parent_[i] = j;
  }

 private:
  std::vector<int64_t> parent_;
};

// Groups of atoms with one potential, and bonds between groups that are there in part.
template <class T>
struct BondedGroups {
  explicit BondedGroups(const LesffMolecules& a) : group(a.n_atoms) {
    const T* bond = static_cast<const T*>(a.bond);
    Sets full(a.n_atoms);
    for (int64_t k = 0; k < a.n_pairs; ++k)
      if (bond[k] >= T(a.full)) full.join(a.first[k], a.second[k]);
    for (int64_t i = 0; i < a.n_atoms; ++i) group[i] = full.root(i);
    for (int64_t k = 0; k < a.n_pairs; ++k)
      if (bond[k] > T(0) && bond[k] < T(a.full) && group[a.first[k]] != group[a.second[k]])
        partial.push_back(k);
    if (partial.empty()) return;
    // groups that partial bonds join, cluster by cluster
    Sets joined(a.n_atoms);
    for (int64_t k : partial) joined.join(group[a.first[k]], group[a.second[k]]);
    std::vector<int64_t> cluster(a.n_atoms, -1);
    row.assign(a.n_atoms, -1);
    for (int64_t k : partial)
      for (int64_t g : {group[a.first[k]], group[a.second[k]]}) {
        if (row[g] >= 0) continue;
        int64_t& c = cluster[joined.root(g)];
        if (c < 0) {
          c = int64_t(members.size());
          members.emplace_back();
          bonds.emplace_back();
        }
        row[g] = int64_t(members[c].size());
        members[c].push_back(g);
      }
    for (int64_t k : partial) bonds[cluster[joined.root(group[a.first[k]])]].push_back(k);
  }

  std::vector<int64_t> group, partial, row;
  std::vector<std::vector<int64_t>> members, bonds;
};

// x = A^-1 x for each of two right sides, A = diag(total) + the Laplacian of the conductances
// b / (1 - b); x (n_atoms, 2) at the rows of the groups.
template <class T>
void solve_groups(const LesffMolecules& a, const BondedGroups<T>& s,
                  const std::vector<double>& total, std::vector<double>& x) {
  const T* bond = static_cast<const T*>(a.bond);
  for (int64_t i = 0; i < a.n_atoms; ++i) {
    if (s.group[i] != i || (!s.row.empty() && s.row[i] >= 0)) continue;
    x[2 * i] /= total[i];
    x[2 * i + 1] /= total[i];
  }
  for (size_t c = 0; c < s.members.size(); ++c) {
    const std::vector<int64_t>& rows = s.members[c];
    const int64_t n = int64_t(rows.size());
    std::vector<double> m(n * n, 0.0);
    for (int64_t i = 0; i < n; ++i) m[i * n + i] = total[rows[i]];
    for (int64_t k : s.bonds[c]) {
      const double b = bond[k], conductance = b / (1.0 - b);
      const int64_t i = s.row[s.group[a.first[k]]], j = s.row[s.group[a.second[k]]];
      m[i * n + i] += conductance;
      m[j * n + j] += conductance;
      m[i * n + j] -= conductance;
      m[j * n + i] -= conductance;
    }
    // Cholesky factor in the lower half, then both substitutions
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j <= i; ++j) {
        double sum = m[i * n + j];
        for (int64_t l = 0; l < j; ++l) sum -= m[i * n + l] * m[j * n + l];
        m[i * n + j] = i == j ? std::sqrt(sum) : sum / m[j * n + j];
      }
    for (int side = 0; side < 2; ++side) {
      for (int64_t i = 0; i < n; ++i) {
        double sum = x[2 * rows[i] + side];
        for (int64_t l = 0; l < i; ++l) sum -= m[i * n + l] * x[2 * rows[l] + side];
        x[2 * rows[i] + side] = sum / m[i * n + i];
      }
      for (int64_t i = n - 1; i >= 0; --i) {
        double sum = x[2 * rows[i] + side];
        for (int64_t l = i + 1; l < n; ++l) sum -= m[l * n + i] * x[2 * rows[l] + side];
        x[2 * rows[i] + side] = sum / m[i * n + i];
      }
    }
  }
}

// Sums over groups: of the weights and a floor, and of what is lacking in the first right side.
template <class T>
void sum_groups(const LesffMolecules& a, const BondedGroups<T>& s, std::vector<double>& total,
                std::vector<double>& x) {
  const T *charges = static_cast<const T*>(a.charges), *weights = static_cast<const T*>(a.weights);
  const T* targets = static_cast<const T*>(a.targets);
  for (int64_t i = 0; i < a.n_atoms; ++i) {
    const int64_t g = s.group[i];
    if (g == i) total[i] += a.floor;
    total[g] += weights[i];
    x[2 * g] += double(targets[i]) - double(charges[i]);
  }
}

template <class T>
void molecules(const LesffMolecules* pointer) {
  const LesffMolecules& a = *pointer;
  const BondedGroups<T> s(a);
  std::vector<double> total(a.n_atoms, 0.0), x(2 * a.n_atoms, 0.0);
  sum_groups(a, s, total, x);
  solve_groups(a, s, total, x);
  const T *charges = static_cast<const T*>(a.charges), *weights = static_cast<const T*>(a.weights);
  T* out = static_cast<T*>(a.shared);
  for (int64_t i = 0; i < a.n_atoms; ++i)
    out[i] = T(charges[i] + weights[i] * x[2 * s.group[i]]);
}

// With u the potentials and A y = sum_i w_i g_i: gradients g - y of charges, y of targets,
// (g - y) u of weights, and -(y_i - y_j) (u_i - u_j) of conductances.
template <class T>
void molecules_backward(const LesffMolecules* pointer) {
  const LesffMolecules& a = *pointer;
  const BondedGroups<T> s(a);
  const T *weights = static_cast<const T*>(a.weights), *bond = static_cast<const T*>(a.bond);
  const T* grad = static_cast<const T*>(a.g_shared);
  std::vector<double> total(a.n_atoms, 0.0), x(2 * a.n_atoms, 0.0);
  sum_groups(a, s, total, x);
  for (int64_t i = 0; i < a.n_atoms; ++i)
    x[2 * s.group[i] + 1] += double(weights[i]) * double(grad[i]);
  solve_groups(a, s, total, x);
  T *of_charges = static_cast<T*>(a.g_charges), *of_weights = static_cast<T*>(a.g_weights);
  T *of_targets = static_cast<T*>(a.g_targets), *of_bond = static_cast<T*>(a.g_bond);
  for (int64_t i = 0; i < a.n_atoms; ++i) {
    const double u = x[2 * s.group[i]], y = x[2 * s.group[i] + 1];
    of_charges[i] = T(grad[i] - y);
    of_weights[i] = T((grad[i] - y) * u);
    of_targets[i] = T(y);
  }
  for (int64_t k = 0; k < a.n_pairs; ++k) of_bond[k] = T(0);
  for (int64_t k : s.partial) {
    const int64_t i = s.group[a.first[k]], j = s.group[a.second[k]];
    const double missing = 1.0 - double(bond[k]);
    of_bond[k] = T(-(x[2 * i + 1] - x[2 * j + 1]) * (x[2 * i] - x[2 * j]) / (missing * missing));
  }
}

}  // namespace LESFF_NAMESPACE
