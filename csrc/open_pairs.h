// Sums over all pairs of an isolated system, see lesff/electrostatics/sums/open_boundary.py:
// potentials sum_j q_j K(u_ij) and slopes 2 q_i sum_j q_j K'(u_ij) (r_i - r_j), u = r^2. Almost all
// pairs are so far apart that the kernel is a plain power, which runs in vector lanes; the few near
// ones are computed one by one in double precision.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "arguments.h"

namespace LESFF_NAMESPACE {

struct PairKernel {
  double value, slope;  // K and dK/du
};

// erf(r / (sqrt(2) sigma)) / r. With t = u / (2 sigma^2) and Boys functions F_m, K = c F_0(t) and
// K' = -c F_1(t) / (2 sigma^2), c = sqrt(2 / pi) / sigma.
inline PairKernel gaussian_kernel(double u, double sigma) {
  const double rate = 0.5 / (sigma * sigma), t = u * rate;
  const double factor = std::sqrt(2.0 / M_PI) / sigma, decay = std::exp(-t);
  double f0, f1;
  if (t < 1.0) {
    // F_1 = exp(-t) sum_n (2 t)^n / (3 5 ... (2 n + 3)), then F_0 = 2 t F_1 + exp(-t)
    double term = 1.0 / 3.0;
    f1 = term;
    for (int n = 1; n < 20; ++n) {
      term *= 2.0 * t / (2.0 * n + 3.0);
      f1 += term;
    }
    f1 *= decay;
    f0 = 2.0 * t * f1 + decay;
  } else {
    f0 = 0.5 * std::sqrt(M_PI / t) * std::erf(std::sqrt(t));
    f1 = (f0 - decay) / (2.0 * t);
  }
  return {factor * f0, -factor * rate * f1};
}

// [1 - exp(-a) (1 + a + a^2 / 2)] / r^6, a = u / (2 sigma^2) = s u: K = s^3 G(3), K' = -s^4 G(4)
// with G of lesff/electrostatics/dispersion.py.
inline PairKernel dispersion_kernel(double u, double sigma) {
  const double s = 0.5 / (sigma * sigma), a = s * u, half = 0.5 * std::exp(-a);
  double g4;
  if (a < 2.0) {
    // exp(-a) / 2 sum_n a^n / (4 5 ... (4 + n))
    double term = 0.25;
    g4 = term;
    for (int n = 1; n < 24; ++n) {
      term *= a / (4.0 + n);
      g4 += term;
    }
    g4 *= half;
  } else {
    const double head = 1.0 + a * (1.0 + a * (0.5 + a / 6.0));
    g4 = 6.0 * (0.5 - half * head) / (a * a * a * a);
  }
  const double g3 = (half + a * g4) / 3.0;
  return {s * s * s * g3, -s * s * s * s * g4};
}

constexpr int kPairLanes = 16;

// What atom i feels of the far ones of a block of atoms j, added to lanes: potential, and three sums
// for the slope. Returns whether some are near.
template <class T, int Kind, bool Forces>
bool far_block(const T* x, const T* y, const T* z, const T* q, T xi, T yi, T zi, T near, T* sums) {
  int any = 0;
  for (int l = 0; l < kPairLanes; ++l) {
    const T dx = xi - x[l], dy = yi - y[l], dz = zi - z[l];
    const T u = dx * dx + dy * dy + dz * dz;
    const bool is_far = u >= near;
    any |= !is_far;
    const T inverse = T(1) / (is_far ? u : T(1));
    T value, slope;
    if (Kind == 0) {
      value = std::sqrt(inverse);
      slope = T(-0.5) * value * inverse;
    } else {
      value = inverse * inverse * inverse;
      slope = T(-3) * value * inverse;
    }
    const T charge = is_far ? q[l] : T(0);
    sums[l] += value * charge;
    if (Forces) {
      const T weight = slope * charge;
      sums[kPairLanes + l] += weight * dx;
      sums[2 * kPairLanes + l] += weight * dy;
      sums[3 * kPairLanes + l] += weight * dz;
    }
  }
  return any;
}

// Lanes added pairwise, a fixed order, to totals in double precision; lanes are zero again.
template <class T, bool Forces>
void add_lanes(T* sums, double* total) {
  for (int part = 0; part < (Forces ? 4 : 1); ++part) {
    T* lane = sums + part * kPairLanes;
    for (int width = kPairLanes / 2; width > 0; width /= 2)
      for (int l = 0; l < width; ++l) lane[l] += lane[l + width];
    total[part] += double(lane[0]);
    for (int l = 0; l < kPairLanes; ++l) lane[l] = T(0);
  }
}

template <class T, int Kind, bool Forces>
void open_pairs_of(const LesffOpenPairs& a) {
  const int64_t n = a.n_atoms, padded = (n + kPairLanes - 1) / kPairLanes * kPairLanes;
  const T* q = static_cast<const T*>(a.charges);
  const T* r = static_cast<const T*>(a.positions);
  T *potential = static_cast<T*>(a.potential), *slope = static_cast<T*>(a.slope);
  const bool is_double = sizeof(T) == 8;
  // exp(-t) has left all digits there
  const double end = is_double ? (Kind == 0 ? 36.0 : 46.0) : (Kind == 0 ? 18.0 : 26.0);
  const double near = 2.0 * a.sigma * a.sigma * end;
  for (int64_t s = 0; s < a.n_systems; ++s) {
    // coordinates by axis, about the first atom; lanes beyond the last atom have no charge
    std::vector<T> table(4 * padded, T(0));
    const T* base = r + 3 * n * s;
    for (int axis = 0; axis < 3; ++axis)
      for (int64_t i = 0; i < n; ++i) table[axis * padded + i] = base[3 * i + axis];
    for (int64_t i = 0; i < n; ++i) table[3 * padded + i] = q[n * s + i];
    const T *x = table.data(), *y = x + padded, *z = y + padded, *charge = z + padded;
#pragma omp parallel for schedule(static) num_threads(a.n_threads) if (a.n_threads > 1 && n > 64)
    for (int64_t i = 0; i < n; ++i) {
      const T xi = x[i], yi = y[i], zi = z[i];
      double total[4] = {0.0, 0.0, 0.0, 0.0};
      T sums[4 * kPairLanes] = {};
      for (int64_t start = 0; start < padded; start += kPairLanes) {
        const bool has_near = far_block<T, Kind, Forces>(
            x + start, y + start, z + start, charge + start, xi, yi, zi, T(near), sums);
        // few enough values in a lane for float to keep their digits
        if (start / kPairLanes % 32 == 31) add_lanes<T, Forces>(sums, total);
        if (!has_near) continue;
        const int64_t stop = std::min<int64_t>(start + kPairLanes, n);
        for (int64_t j = start; j < stop; ++j) {
          const T dx = xi - x[j], dy = yi - y[j], dz = zi - z[j];
          if (j == i || !(dx * dx + dy * dy + dz * dz < T(near))) continue;
          const double u = double(dx) * dx + double(dy) * dy + double(dz) * dz;
          const PairKernel k = Kind == 0 ? gaussian_kernel(u, a.sigma) : dispersion_kernel(u, a.sigma);
          total[0] += k.value * charge[j];
          const double weight = k.slope * charge[j];
          total[1] += weight * dx;
          total[2] += weight * dy;
          total[3] += weight * dz;
        }
      }
      add_lanes<T, Forces>(sums, total);
      potential[n * s + i] = T(total[0]);
      if (Forces)
        for (int axis = 0; axis < 3; ++axis)
          slope[3 * (n * s + i) + axis] = T(2.0 * double(charge[i]) * total[1 + axis]);
    }
  }
}

template <class T>
void open_pairs(const LesffOpenPairs* p) {
  const LesffOpenPairs& a = *p;
  if (a.kind == 0)
    a.slope ? open_pairs_of<T, 0, true>(a) : open_pairs_of<T, 0, false>(a);
  else
    a.slope ? open_pairs_of<T, 1, true>(a) : open_pairs_of<T, 1, false>(a);
}

}  // namespace LESFF_NAMESPACE
