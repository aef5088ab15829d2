// Charges and spins before the second layer, see lesff/nn/local_state.py for the equations.
#pragma once
#include <cmath>

#include "arguments.h"
#include "contacts.h"

namespace LESFF_NAMESPACE {

// What an atom has before anything is shared out.
struct AtomState {
  double raw, guess, weight[2];           // acceptor, donor
  double d_value[3], d_guess, d_open[2];  // by the values; guess by raw; weights by the openness
  double level;                           // raw by the openness
};

template <class T>
AtomState atom_state(const LesffLocalState& a, int64_t i) {
  const T* v = static_cast<const T*>(a.values) + 3 * i;
  const double open = static_cast<const T*>(a.openness)[i];
  AtomState s;
  const WithSlope level = saturated(v[0], a.max_guess);
  s.level = level.value;
  s.raw = open * level.value;
  s.d_value[0] = open * level.slope;
  const double scale = 1.0 / (a.guess_full - a.guess_from);
  const WithSlope part = smooth_step((std::fabs(s.raw) - a.guess_from) * scale);
  s.guess = s.raw * part.value;
  s.d_guess = part.value + std::fabs(s.raw) * part.slope * scale;
  for (int k = 0; k < 2; ++k) {
    const WithSlope log = saturated(v[1 + k], a.max_log_weight);
    s.d_open[k] = std::exp(log.value);
    s.weight[k] = (open + a.faint) * s.d_open[k];
    s.d_value[1 + k] = s.weight[k] * log.slope;
  }
  return s;
}

// |m| rounded off at zero: m^2 / sqrt(m^2 + c^2).
inline WithSlope rounded_size(double m, double c) {
  const double square = m * m + c * c, root = std::sqrt(square);
  return {m * m / root, m * (m * m + 2.0 * c * c) / (square * root)};
}

template <class T>
void local_state(const LesffLocalState* p) {
  const LesffLocalState& a = *p;
  T *charges = static_cast<T*>(a.charges), *spins = static_cast<T*>(a.spins);
  T *raw = static_cast<T*>(a.raw), *guess = static_cast<T*>(a.guess);
  T* potentials = static_cast<T*>(a.potentials);
  if (!a.given) {
    // sums of guess and weights, then the potentials that share out what is missing
    for (int64_t s = 0; s < 8 * a.n_systems; ++s) a.work[s] = 0.0;
    for (int64_t i = 0; i < a.n_atoms; ++i) {
      const AtomState x = atom_state<T>(a, i);
      double* sums = a.work + 8 * a.batch[i];
      sums[0] += x.guess;
      sums[1] += x.weight[0];
      sums[2] += x.weight[1];
    }
    for (int64_t s = 0; s < a.n_systems; ++s) {
      const double* sums = a.work + 8 * s;
      const double excess = sums[0] - static_cast<const T*>(a.charge)[s];
      const double unpaired = static_cast<const T*>(a.unpaired)[s];
      double added[2], taken[2];
      for (int k = 0; k < 2; ++k) {
        const double m = 0.5 * (k == 0 ? excess + unpaired : excess - unpaired);
        const double size = rounded_size(m, a.soft).value;
        added[k] = 0.5 * (m + size) / sums[1];
        taken[k] = 0.5 * (m - size) / sums[2];
      }
      potentials[4 * s] = T(-(added[0] + added[1]));
      potentials[4 * s + 1] = T(-(taken[0] + taken[1]));
      potentials[4 * s + 2] = T(added[0] - added[1]);
      potentials[4 * s + 3] = T(taken[0] - taken[1]);
    }
  }
  for (int64_t i = 0; i < a.n_atoms; ++i) {
    const AtomState x = atom_state<T>(a, i);
    const T* own = potentials + 4 * a.batch[i];
    raw[i] = T(x.raw);
    guess[i] = T(x.guess);
    charges[i] = T(x.guess + x.weight[0] * own[0] + x.weight[1] * own[1]);
    spins[i] = T(x.weight[0] * own[2] + x.weight[1] * own[3]);
  }
}

// Gradients of values and openness; potentials that are given have none.
template <class T>
void local_state_backward(const LesffLocalState* p) {
  const LesffLocalState& a = *p;
  const T *gq = static_cast<const T*>(a.g_charges), *gs = static_cast<const T*>(a.g_spins);
  const T *graw = static_cast<const T*>(a.g_raw), *gguess = static_cast<const T*>(a.g_guess);
  const T* gpot = static_cast<const T*>(a.g_potentials);
  const T* potentials = static_cast<const T*>(a.potentials);
  T *gv = static_cast<T*>(a.g_values), *go = static_cast<T*>(a.g_openness);
  // per system: sums of guess and weights, gradients of the four potentials
  for (int64_t s = 0; s < a.n_systems; ++s) {
    double* sums = a.work + 8 * s;
    for (int k = 0; k < 8; ++k) sums[k] = 0.0;
    for (int k = 0; k < 4; ++k) sums[3 + k] = gpot[4 * s + k];
  }
  if (!a.given) {
    for (int64_t i = 0; i < a.n_atoms; ++i) {
      const AtomState x = atom_state<T>(a, i);
      double* sums = a.work + 8 * a.batch[i];
      sums[0] += x.guess;
      for (int k = 0; k < 2; ++k) {
        sums[1 + k] += x.weight[k];
        sums[3 + k] += gq[i] * x.weight[k];
        sums[5 + k] += gs[i] * x.weight[k];
      }
    }
    for (int64_t s = 0; s < a.n_systems; ++s) {
      double* sums = a.work + 8 * s;
      const double excess = sums[0] - static_cast<const T*>(a.charge)[s];
      const double unpaired = static_cast<const T*>(a.unpaired)[s];
      double g_excess = 0.0, g_sum[2] = {0.0, 0.0};
      for (int k = 0; k < 2; ++k) {
        const double m = 0.5 * (k == 0 ? excess + unpaired : excess - unpaired);
        const WithSlope size = rounded_size(m, a.soft);
        // added and taken of this channel, a_q = -(alpha + beta), a_s = alpha - beta
        const double g_added = -sums[3] + (k == 0 ? sums[5] : -sums[5]);
        const double g_taken = -sums[4] + (k == 0 ? sums[6] : -sums[6]);
        g_sum[0] -= g_added * 0.5 * (m + size.value) / (sums[1] * sums[1]);
        g_sum[1] -= g_taken * 0.5 * (m - size.value) / (sums[2] * sums[2]);
        g_excess += 0.25 * (g_added * (1.0 + size.slope) / sums[1] +
                            g_taken * (1.0 - size.slope) / sums[2]);
      }
      sums[0] = g_excess;
      sums[1] = g_sum[0];
      sums[2] = g_sum[1];
    }
  }
  for (int64_t i = 0; i < a.n_atoms; ++i) {
    const AtomState x = atom_state<T>(a, i);
    const double* sums = a.work + 8 * a.batch[i];
    const T* own = potentials + 4 * a.batch[i];
    const double shared = a.given ? 0.0 : 1.0;
    const double g_raw = graw[i] + (gq[i] + gguess[i] + shared * sums[0]) * x.d_guess;
    gv[3 * i] = T(g_raw * x.d_value[0]);
    double g_open = g_raw * x.level;
    for (int k = 0; k < 2; ++k) {
      const double g = gq[i] * own[k] + gs[i] * own[2 + k] + shared * sums[1 + k];
      gv[3 * i + 1 + k] = T(g * x.d_value[1 + k]);
      g_open += g * x.d_open[k];
    }
    go[i] = T(g_open);
  }
}

}  // namespace LESFF_NAMESPACE
