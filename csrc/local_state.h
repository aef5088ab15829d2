// Charges and spins before the second layer, see lesff/nn/local_state.py for the equations.
#pragma once
#include <cmath>

#include "arguments.h"
#include "contacts.h"

namespace LESFF_NAMESPACE {

// Halves of a charge: x at multiples of 1/2, flat within 1/8 of them.
inline WithSlope staircase(double x) {
  const double twice = 2.0 * std::fabs(x), whole = std::floor(twice);
  const WithSlope step = smooth_step((twice - whole - 0.25) * 2.0);
  return {std::copysign(0.5 * (whole + step.value), x), 2.0 * step.slope};
}

// What an atom has before anything is shared out. Weights: acceptor, donor, spin.
struct AtomState {
  double raw, guess, weight[3];
  double level, d_level;      // of the value that the guess is made of
  double d_guess;             // by raw
  double d_read[3];           // of the weights by what is read off
  double growth[3];           // of the weights by the openness
};

template <class T>
AtomState atom_state(const LesffLocalState& a, int64_t i) {
  const T* v = static_cast<const T*>(a.values) + 4 * i;
  const T* base = static_cast<const T*>(a.base) + 4 * i;
  const double open = static_cast<const T*>(a.openness)[i];
  const double bonded = static_cast<const T*>(a.bonded)[i];
  const double lacks = static_cast<const T*>(a.lacks)[i];
  AtomState s;
  const WithSlope level = saturated(base[0] + bonded * v[0], a.max_guess);
  s.level = level.value;
  s.d_level = level.slope;
  s.raw = open * level.value;
  const WithSlope guess = staircase(s.raw);
  s.guess = guess.value;
  s.d_guess = guess.slope;
  for (int k = 0; k < 3; ++k) {
    const double read = base[1 + k] + v[1 + k];
    const WithSlope log = saturated(read, a.max_log_weight);
    // cations take electrons first, anions give them first
    const double pulled = k == 0 ? a.pull * s.guess : k == 1 ? -a.pull * s.guess : 0.0;
    const double factor = (k == 2 ? lacks : 1.0) * std::exp(log.value + pulled);
    // full atoms: a faint weight, never more
    const double part = 1.0 / (1.0 + std::exp(-read));
    const double faint = a.faint * std::exp(pulled) * part;
    s.growth[k] = factor;
    s.weight[k] = open * factor + faint;
    s.d_read[k] = open * factor * log.slope + faint * (1.0 - part);
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
      for (int k = 0; k < 3; ++k) sums[1 + k] += x.weight[k];
    }
    for (int64_t s = 0; s < a.n_systems; ++s) {
      const double* sums = a.work + 8 * s;
      const double m = sums[0] - static_cast<const T*>(a.charge)[s];
      const double size = rounded_size(m, a.soft).value;
      potentials[3 * s] = T(-0.5 * (m + size) / sums[1]);
      potentials[3 * s + 1] = T(-0.5 * (m - size) / sums[2]);
      potentials[3 * s + 2] = T(static_cast<const T*>(a.unpaired)[s] / sums[3]);
    }
  }
  for (int64_t i = 0; i < a.n_atoms; ++i) {
    const AtomState x = atom_state<T>(a, i);
    const T* own = potentials + 3 * a.batch[i];
    raw[i] = T(x.raw);
    guess[i] = T(x.guess);
    charges[i] = T(x.guess + x.weight[0] * own[0] + x.weight[1] * own[1]);
    spins[i] = T(x.weight[2] * own[2]);
  }
}

// Gradients of values, base, openness and bonds; potentials that are given have none.
template <class T>
void local_state_backward(const LesffLocalState* p) {
  const LesffLocalState& a = *p;
  const T *gq = static_cast<const T*>(a.g_charges), *gs = static_cast<const T*>(a.g_spins);
  const T *graw = static_cast<const T*>(a.g_raw), *gguess = static_cast<const T*>(a.g_guess);
  const T* gpot = static_cast<const T*>(a.g_potentials);
  const T* potentials = static_cast<const T*>(a.potentials);
  const T *values = static_cast<const T*>(a.values), *bonded = static_cast<const T*>(a.bonded);
  const T* openness = static_cast<const T*>(a.openness);
  T *gv = static_cast<T*>(a.g_values), *gbase = static_cast<T*>(a.g_base);
  T *go = static_cast<T*>(a.g_openness), *gb = static_cast<T*>(a.g_bonded);
  // per system: sums of guess and weights, gradients of the potentials; then those of the sums
  for (int64_t s = 0; s < a.n_systems; ++s) {
    double* sums = a.work + 8 * s;
    for (int k = 0; k < 8; ++k) sums[k] = 0.0;
    for (int k = 0; k < 3; ++k) sums[4 + k] = gpot[3 * s + k];
  }
  if (!a.given) {
    for (int64_t i = 0; i < a.n_atoms; ++i) {
      const AtomState x = atom_state<T>(a, i);
      double* sums = a.work + 8 * a.batch[i];
      sums[0] += x.guess;
      for (int k = 0; k < 3; ++k) {
        sums[1 + k] += x.weight[k];
        sums[4 + k] += (k < 2 ? gq[i] : gs[i]) * x.weight[k];
      }
    }
    for (int64_t s = 0; s < a.n_systems; ++s) {
      double* sums = a.work + 8 * s;
      const double m = sums[0] - static_cast<const T*>(a.charge)[s];
      const double unpaired = static_cast<const T*>(a.unpaired)[s];
      const WithSlope size = rounded_size(m, a.soft);
      const double g_added = -sums[4], g_taken = -sums[5];
      sums[0] = 0.5 * (g_added * (1.0 + size.slope) / sums[1] +
                       g_taken * (1.0 - size.slope) / sums[2]);
      sums[1] = -g_added * 0.5 * (m + size.value) / (sums[1] * sums[1]);
      sums[2] = -g_taken * 0.5 * (m - size.value) / (sums[2] * sums[2]);
      sums[3] = -sums[6] * unpaired / (sums[3] * sums[3]);
    }
  }
  for (int64_t i = 0; i < a.n_atoms; ++i) {
    const AtomState x = atom_state<T>(a, i);
    const double* sums = a.work + 8 * a.batch[i];
    const T* own = potentials + 3 * a.batch[i];
    const double shared = a.given ? 0.0 : 1.0;
    double g_guess = gq[i] + gguess[i] + shared * sums[0], g_open = 0.0;
    for (int k = 0; k < 3; ++k) {
      const double g = (k < 2 ? gq[i] : gs[i]) * own[k] + shared * sums[1 + k];
      gv[4 * i + 1 + k] = gbase[4 * i + 1 + k] = T(g * x.d_read[k]);
      g_open += g * x.growth[k];
      if (k < 2) g_guess += (k == 0 ? a.pull : -a.pull) * g * x.weight[k];
    }
    const double g_raw = graw[i] + g_guess * x.d_guess;
    const double g_value = g_raw * openness[i] * x.d_level;
    gbase[4 * i] = T(g_value);
    gv[4 * i] = T(g_value * bonded[i]);
    gb[i] = T(g_value * values[4 * i]);
    go[i] = T(g_open + g_raw * x.level);
  }
}

}  // namespace LESFF_NAMESPACE
