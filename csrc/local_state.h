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
  double guess_by_level, guess_by_open;
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
  // o R(x), or R(o x)
  const bool whole = a.proportional != 0.0;
  const WithSlope guess = staircase(whole ? level.value : s.raw);
  s.guess = whole ? open * guess.value : guess.value;
  s.guess_by_level = open * guess.slope;
  s.guess_by_open = whole ? guess.value : level.value * guess.slope;
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

// A share of A, D or W at a potential, within what the atom can hold.
struct Share {
  double value, slope;  // by weight times potential
  double d_limit;       // by the limit, which is the largest charge plus or less the guess
};

inline Share share_of(const LesffLocalState& a, const AtomState& x, int k, double potential) {
  const double limit = k == 2 ? a.max_spin : a.max_charge + (k == 0 ? x.guess : -x.guess);
  const double argument = x.weight[k] * potential;
  const WithSlope y = saturated(argument, limit);
  return {y.value, y.slope, (y.value - argument * y.slope) / limit};
}

// Parts of a system that are shared out by A, D and W.
inline void parts_of(const LesffLocalState& a, double m, double unpaired, double* parts) {
  const double size = rounded_size(m, a.soft).value;
  parts[0] = -0.5 * (m + size);
  parts[1] = -0.5 * (m - size);
  parts[2] = unpaired;
}

// Potentials of systems with shares near a limit. Of each system and k: work[4 + k] is the part,
// work[7 + k] the logarithm of the least potential, work[10 + k] that of the largest,
// work[13 + k] a sum.
template <class T>
void levelled_potentials(const LesffLocalState& a, T* potentials) {
  constexpr int kHalvings = 56;
  for (int64_t s = 0; s < a.n_systems; ++s) {
    double* work = a.work + 16 * s;
    for (int k = 0; k < 3; ++k) {
      // levelling off only lowers a sum: the size of the linear potential is the least
      work[7 + k] = std::log(std::fmax(std::fabs(work[4 + k] / work[1 + k]), 1e-30));
      work[10 + k] = work[7 + k] + 60.0;
    }
  }
  for (int step = 0; step < kHalvings; ++step) {
    for (int64_t s = 0; s < a.n_systems; ++s)
      for (int k = 0; k < 3; ++k) a.work[16 * s + 13 + k] = 0.0;
    for (int64_t i = 0; i < a.n_atoms; ++i) {
      double* work = a.work + 16 * a.batch[i];
      if (work[0] == 0.0) continue;
      const AtomState x = atom_state<T>(a, i);
      for (int k = 0; k < 3; ++k)
        work[13 + k] += share_of(a, x, k, std::exp(0.5 * (work[7 + k] + work[10 + k]))).value;
    }
    for (int64_t s = 0; s < a.n_systems; ++s) {
      double* work = a.work + 16 * s;
      for (int k = 0; k < 3; ++k) {
        const bool is_less = work[13 + k] < std::fabs(work[4 + k]);
        work[is_less ? 7 + k : 10 + k] = 0.5 * (work[7 + k] + work[10 + k]);
      }
    }
  }
  for (int64_t s = 0; s < a.n_systems; ++s) {
    const double* work = a.work + 16 * s;
    if (work[0] == 0.0) continue;
    for (int k = 0; k < 3; ++k) {
      const double size = std::exp(0.5 * (work[7 + k] + work[10 + k]));
      potentials[3 * s + k] = T(work[4 + k] == 0.0 ? 0.0 : std::copysign(size, work[4 + k]));
    }
  }
}

template <class T>
void local_state(const LesffLocalState* p) {
  const LesffLocalState& a = *p;
  T *charges = static_cast<T*>(a.charges), *spins = static_cast<T*>(a.spins);
  T *raw = static_cast<T*>(a.raw), *guess = static_cast<T*>(a.guess);
  T* potentials = static_cast<T*>(a.potentials);
  for (int64_t s = 0; s < 16 * a.n_systems; ++s) a.work[s] = 0.0;
  if (!a.given) {
    // sums of guess and weights, then the potentials that share out what is missing
    for (int64_t i = 0; i < a.n_atoms; ++i) {
      const AtomState x = atom_state<T>(a, i);
      double* sums = a.work + 16 * a.batch[i];
      sums[0] += x.guess;
      for (int k = 0; k < 3; ++k) sums[1 + k] += x.weight[k];
    }
    for (int64_t s = 0; s < a.n_systems; ++s) {
      double* sums = a.work + 16 * s;
      const double m = sums[0] - static_cast<const T*>(a.charge)[s];
      parts_of(a, m, static_cast<const T*>(a.unpaired)[s], sums + 4);
      for (int k = 0; k < 3; ++k) potentials[3 * s + k] = T(sums[4 + k] / sums[1 + k]);
      sums[0] = 0.0;  // from here on: whether shares are near a limit
    }
  }
  bool any_near = false;
  for (int pass = 0; pass < 2; ++pass) {
    for (int64_t i = 0; i < a.n_atoms; ++i) {
      const AtomState x = atom_state<T>(a, i);
      const T* own = potentials + 3 * a.batch[i];
      const Share add = share_of(a, x, 0, own[0]), take = share_of(a, x, 1, own[1]);
      const Share spin = share_of(a, x, 2, own[2]);
      raw[i] = T(x.raw);
      guess[i] = T(x.guess);
      charges[i] = T(x.guess + add.value + take.value);
      spins[i] = T(spin.value);
      if (add.slope != 1.0 || take.slope != 1.0 || spin.slope != 1.0)
        a.work[16 * a.batch[i]] = 1.0, any_near = true;
    }
    if (a.given || !any_near || pass == 1) return;
    levelled_potentials<T>(a, potentials);
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
  // of each system: [0] sum of the guess, then its gradient; [1 + k] derivatives of the sums of
  // shares by the potentials; [4 + k] gradients of the potentials, then of the parts
  for (int64_t s = 0; s < a.n_systems; ++s) {
    double* sums = a.work + 16 * s;
    for (int k = 0; k < 16; ++k) sums[k] = 0.0;
    for (int k = 0; k < 3; ++k) sums[4 + k] = gpot[3 * s + k];
  }
  if (!a.given) {
    for (int64_t i = 0; i < a.n_atoms; ++i) {
      const AtomState x = atom_state<T>(a, i);
      double* sums = a.work + 16 * a.batch[i];
      const T* own = potentials + 3 * a.batch[i];
      sums[0] += x.guess;
      for (int k = 0; k < 3; ++k) {
        const double by = share_of(a, x, k, own[k]).slope * x.weight[k];
        sums[1 + k] += by;
        sums[4 + k] += (k < 2 ? gq[i] : gs[i]) * by;
      }
    }
    for (int64_t s = 0; s < a.n_systems; ++s) {
      double* sums = a.work + 16 * s;
      const double m = sums[0] - static_cast<const T*>(a.charge)[s];
      const double d_size = rounded_size(m, a.soft).slope;
      for (int k = 0; k < 3; ++k) sums[4 + k] /= sums[1 + k];
      sums[0] = -0.5 * (sums[4] * (1.0 + d_size) + sums[5] * (1.0 - d_size));
    }
  }
  for (int64_t i = 0; i < a.n_atoms; ++i) {
    const AtomState x = atom_state<T>(a, i);
    const double* sums = a.work + 16 * a.batch[i];
    const T* own = potentials + 3 * a.batch[i];
    const double shared = a.given ? 0.0 : 1.0;
    double g_guess = gq[i] + gguess[i] + shared * sums[0], g_open = 0.0;
    for (int k = 0; k < 3; ++k) {
      const Share y = share_of(a, x, k, own[k]);
      const double g_share = (k < 2 ? gq[i] : gs[i]) - shared * sums[4 + k];
      const double g = g_share * y.slope * own[k];
      gv[4 * i + 1 + k] = gbase[4 * i + 1 + k] = T(g * x.d_read[k]);
      g_open += g * x.growth[k];
      if (k < 2) g_guess += (k == 0 ? 1.0 : -1.0) * (a.pull * g * x.weight[k] + g_share * y.d_limit);
    }
    const double g_value = (graw[i] * openness[i] + g_guess * x.guess_by_level) * x.d_level;
    gbase[4 * i] = T(g_value);
    gv[4 * i] = T(g_value * bonded[i]);
    gb[i] = T(g_value * values[4 * i]);
    go[i] = T(g_open + graw[i] * x.level + g_guess * x.guess_by_open);
  }
}

}  // namespace LESFF_NAMESPACE
