// Charge that pairs of atoms exchange, within the limits of lesff/heads/edge.py, with derivatives.
#pragma once
#include <cmath>

#include "arguments.h"
#include "contacts.h"
#include "local_state.h"

namespace LESFF_NAMESPACE {

// A transfer within the limit of pairs without a bond; slopes by the transfer and by the distance.
struct PairTransfer {
  double value, by_transfer, by_distance;
};

template <class T>
PairTransfer pair_transfer(const LesffTransfers& a, int64_t k) {
  const double t = static_cast<const T*>(a.transfers)[k];
  if (!a.has_bonds) return {t, 1.0, 0.0};
  const int64_t z1 = a.atomic_number[a.first[k]], z2 = a.atomic_number[a.second[k]];
  if (a.valence[z1] <= 0.0 || a.valence[z2] <= 0.0) return {t, 1.0, 0.0};
  const double reach = a.radius[z1] + a.radius[z2];
  const double scale = 1.0 / (a.bond_none - a.bond_full);
  const double r = static_cast<const T*>(a.distance)[k];
  const WithSlope bond = smooth_step((a.bond_none - r / reach) * scale);
  if (bond.value == 1.0) return {t, 1.0, 0.0};
  const WithSlope small = saturated(t, a.between);
  return {bond.value * t + (1.0 - bond.value) * small.value,
          bond.value + (1.0 - bond.value) * small.slope,
          -bond.slope * scale / reach * (t - small.value)};
}

// Factors of all atoms: sat(B; L) / B with what an atom takes and gives altogether.
template <class T>
void transfer_factors(const LesffTransfers& a) {
  for (int64_t i = 0; i < a.n_atoms; ++i) a.total[i] = 0.0;
  for (int64_t k = 0; k < a.n_pairs; ++k) {
    const double size = rounded_size(pair_transfer<T>(a, k).value, a.soft).value;
    a.total[a.first[k]] += size;
    a.total[a.second[k]] += size;
  }
  for (int64_t i = 0; i < a.n_atoms; ++i) {
    const double limit = static_cast<const T*>(a.limits)[i], total = a.total[i];
    a.factor[i] = 1.0;
    a.slope[i] = 0.0;
    if (total <= kLinearShare * limit) continue;
    const WithSlope level = saturated(total, limit);
    a.factor[i] = level.value / total;
    a.slope[i] = (level.slope - a.factor[i]) / total;
  }
}

template <class T>
void transfers(const LesffTransfers* p) {
  const LesffTransfers& a = *p;
  if (a.limits) transfer_factors<T>(a);
  T* moved = static_cast<T*>(a.moved);
  for (int64_t i = 0; i < a.n_atoms; ++i) moved[i] = T(0);
  for (int64_t k = 0; k < a.n_pairs; ++k) {
    double t = pair_transfer<T>(a, k).value;
    if (a.limits) t *= a.factor[a.first[k]] * a.factor[a.second[k]];
    moved[a.second[k]] += T(t);
    moved[a.first[k]] -= T(t);
  }
}

template <class T>
void transfers_backward(const LesffTransfers* p) {
  const LesffTransfers& a = *p;
  const T* grad = static_cast<const T*>(a.grad_moved);
  T *by_transfer = static_cast<T*>(a.grad_transfers), *by_distance = static_cast<T*>(a.grad_distance);
  if (a.limits) {
    transfer_factors<T>(a);
    // from here on `total` holds the derivative by an atom's total
    for (int64_t i = 0; i < a.n_atoms; ++i) a.total[i] = 0.0;
    for (int64_t k = 0; k < a.n_pairs; ++k) {
      const int64_t i = a.first[k], j = a.second[k];
      const double g = (double(grad[j]) - double(grad[i])) * pair_transfer<T>(a, k).value;
      a.total[i] += g * a.factor[j] * a.slope[i];
      a.total[j] += g * a.factor[i] * a.slope[j];
    }
  }
  for (int64_t k = 0; k < a.n_pairs; ++k) {
    const int64_t i = a.first[k], j = a.second[k];
    const PairTransfer t = pair_transfer<T>(a, k);
    double g = double(grad[j]) - double(grad[i]);
    if (a.limits) {
      g *= a.factor[i] * a.factor[j];
      g += (a.total[i] + a.total[j]) * rounded_size(t.value, a.soft).slope;
    }
    by_transfer[k] = T(g * t.by_transfer);
    by_distance[k] = T(g * t.by_distance);
  }
}

}  // namespace LESFF_NAMESPACE
