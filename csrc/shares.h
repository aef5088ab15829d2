// Charges within limits that share out what is missing to a total, see lesff/heads/sharing.py.
#pragma once
#include <cmath>

#include "arguments.h"
#include "contacts.h"

namespace LESFF_NAMESPACE {

// work of a system: [0] potential, [1] sum of charges, [2] sum of weights times slopes,
// [3] sum of the weights, [4] what the limits leave over; solved: [5] and [6] potentials with too
// small and too large a sum, [7] 1 when done; backward: [5] and [6] sums of gradients.
constexpr int kShareWork = 8;

// A charge at a potential, sat(sat(p) + w lambda), with its derivatives by argument and by p.
struct LimitedCharge {
  double value, slope, by_start;
};

template <class T>
LimitedCharge limited_charge(const LesffShares& a, int64_t i, double potential) {
  const double limit = static_cast<const T*>(a.limits)[i];
  const WithSlope start = saturated(static_cast<const T*>(a.p)[i], limit);
  const WithSlope y =
      saturated(start.value + static_cast<const T*>(a.weights)[i] * potential, limit);
  return {y.value, y.slope, y.slope * start.slope};
}

// Sums of charges and slopes at the present potentials; slopes count at least `least`.
template <class T>
void share_sums(const LesffShares& a, double least) {
  const T* weights = static_cast<const T*>(a.weights);
  for (int64_t s = 0; s < a.n_systems; ++s)
    a.work[kShareWork * s + 1] = a.work[kShareWork * s + 2] = 0.0;
  for (int64_t i = 0; i < a.n_atoms; ++i) {
    double* work = a.work + kShareWork * a.batch[i];
    const LimitedCharge y = limited_charge<T>(a, i, work[0]);
    work[1] += y.value;
    work[2] += weights[i] * std::fmax(y.slope, least);
  }
}

// Potentials with which charges have their totals: Newton's steps between potentials that are known
// to be too small and too large, halving the way where a step leaves it or brings little.
template <class T>
void solved_shares(const LesffShares& a) {
  constexpr int kMostSteps = 200;
  constexpr double kFar = 1e6;     // where limits cannot hold the total
  constexpr double kClose = 1e-14;  // a last step from there is exact
  const T* totals = static_cast<const T*>(a.totals);
  for (int64_t s = 0; s < a.n_systems; ++s) {
    double* work = a.work + kShareWork * s;
    work[5] = -kFar, work[6] = kFar, work[7] = 0.0;
  }
  for (int step = 0; step < kMostSteps; ++step) {
    share_sums<T>(a, a.tiny);
    bool all_done = true;
    for (int64_t s = 0; s < a.n_systems; ++s) {
      double* work = a.work + kShareWork * s;
      if (work[7] != 0.0) continue;
      const double before = work[0], missing = totals[s] - work[1];
      work[missing > 0.0 ? 5 : 6] = before;
      double next = before + missing / work[2];
      if (!(next > work[5] && next < work[6]) || step % 4 == 3) next = 0.5 * (work[5] + work[6]);
      const bool is_close = std::fabs(missing) <= kClose * (1.0 + std::fabs(double(totals[s])));
      if (is_close) next = before + missing / work[2];
      work[0] = next;
      work[7] = is_close || std::fabs(next - before) <= 1e-15 * std::fabs(next) ? 1.0 : 0.0;
      all_done &= work[7] != 0.0;
    }
    if (all_done) break;
  }
}

template <class T>
void shares(const LesffShares* pointer) {
  const LesffShares& a = *pointer;
  const T *weights = static_cast<const T*>(a.weights), *totals = static_cast<const T*>(a.totals);
  T *charges = static_cast<T*>(a.charges), *potential = static_cast<T*>(a.potential);
  for (int64_t s = 0; s < kShareWork * a.n_systems; ++s) a.work[s] = 0.0;
  for (int64_t i = 0; i < a.n_atoms; ++i) a.work[kShareWork * a.batch[i] + 3] += weights[i];
  if (a.n_steps == 0) solved_shares<T>(a);
  // Newton steps, the last ones with the slopes that the derivatives have
  for (int step = 0; a.n_steps > 0 && step < a.n_steps + 2; ++step) {
    share_sums<T>(a, step < a.n_steps ? a.least : a.tiny);
    double moved = 0.0;
    for (int64_t s = 0; s < a.n_systems; ++s) {
      double* work = a.work + kShareWork * s;
      const double change = (totals[s] - work[1]) / work[2];
      work[0] += change;
      moved = std::fmax(moved, std::fabs(change) / (1e-3 + std::fabs(work[0])));
    }
    if (moved < 1e-15) break;
  }
  share_sums<T>(a, a.tiny);
  for (int64_t s = 0; s < a.n_systems; ++s) {
    double* work = a.work + kShareWork * s;
    work[4] = totals[s] - work[1];
    potential[s] = T(work[0]);
  }
  for (int64_t i = 0; i < a.n_atoms; ++i) {
    const double* work = a.work + kShareWork * a.batch[i];
    charges[i] = T(limited_charge<T>(a, i, work[0]).value + weights[i] / work[3] * work[4]);
  }
}

// Gradients of p, weights and totals, of charges y_i + w_i / W R with R = T - sum y and the
// potential that d lambda = (dT - sum s (dp + lambda dw)) / sum s w belongs to.
template <class T>
void shares_backward(const LesffShares* pointer) {
  const LesffShares& a = *pointer;
  const T *weights = static_cast<const T*>(a.weights), *totals = static_cast<const T*>(a.totals);
  const T *gq = static_cast<const T*>(a.g_charges), *gl = static_cast<const T*>(a.g_potential);
  const T* potential = static_cast<const T*>(a.potential);
  T *gp = static_cast<T*>(a.g_p), *gw = static_cast<T*>(a.g_weights);
  T* gt = static_cast<T*>(a.g_totals);
  for (int64_t s = 0; s < a.n_systems; ++s) {
    double* work = a.work + kShareWork * s;
    for (int k = 0; k < kShareWork; ++k) work[k] = 0.0;
    work[0] = potential[s];
  }
  share_sums<T>(a, a.tiny);
  for (int64_t i = 0; i < a.n_atoms; ++i) {
    double* work = a.work + kShareWork * a.batch[i];
    work[3] += weights[i];
    work[5] += gq[i] * double(weights[i]);
  }
  for (int64_t s = 0; s < a.n_systems; ++s) {
    double* work = a.work + kShareWork * s;
    work[4] = totals[s] - work[1];
    work[5] /= work[3];
  }
  for (int64_t i = 0; i < a.n_atoms; ++i) {
    double* work = a.work + kShareWork * a.batch[i];
    const double slope = limited_charge<T>(a, i, work[0]).slope;
    work[6] += (gq[i] - work[5]) * slope * weights[i];
  }
  for (int64_t s = 0; s < a.n_systems; ++s) {
    double* work = a.work + kShareWork * s;
    work[6] = (work[6] + gl[s]) / work[2];
    gt[s] = T(work[5] + work[6]);
  }
  for (int64_t i = 0; i < a.n_atoms; ++i) {
    const double* work = a.work + kShareWork * a.batch[i];
    const LimitedCharge y = limited_charge<T>(a, i, work[0]);
    const double h = gq[i] - work[5];
    gp[i] = T(y.by_start * (h - work[6]));
    gw[i] = T(work[0] * y.slope * (h - work[6]) + work[4] / work[3] * h);
  }
}

}  // namespace LESFF_NAMESPACE
