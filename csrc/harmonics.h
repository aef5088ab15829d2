// Length and real spherical harmonics of vectors, up to l = 3, component normalisation.
//
// Order and axes are e3nn's: y is the polar axis, m runs from -l to l. With the unit vector
// n = (x, y, z) every Y is a homogeneous polynomial; the derivative with respect to the vector is
// the polynomial's, projected on the plane normal to n, divided by the length.
#pragma once
#include <algorithm>
#include <cmath>

#include "arguments.h"
#include "vectors.h"

namespace LESFF_NAMESPACE {

template <class T>
struct Factors {
  const T l1 = T(std::sqrt(3.0));
  const T l2 = T(std::sqrt(15.0)), l2_0 = T(std::sqrt(5.0)), l2_4 = T(0.5 * std::sqrt(15.0));
  const T l3_0 = T(std::sqrt(35.0 / 8.0)), l3_1 = T(std::sqrt(105.0));
  const T l3_2 = T(std::sqrt(21.0 / 8.0)), l3_3 = T(0.5 * std::sqrt(7.0));
  const T l3_5 = T(0.5 * std::sqrt(105.0));
};

template <class T, int max_ell>
void harmonics_of(const LesffHarmonics& a, Range pairs) {
  constexpr int width = (max_ell + 1) * (max_ell + 1);
  const Factors<T> f;
  for (int64_t p = pairs.begin; p < pairs.end; ++p) {
    const T* v = static_cast<const T*>(a.vectors) + 3 * p;
    T* out = static_cast<T*>(a.harmonics) + width * p;
    const T r = std::sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]);
    static_cast<T*>(a.distance)[p] = r;
    const T inverse = r > T(0) ? T(1) / r : T(0);
    const T x = v[0] * inverse, y = v[1] * inverse, z = v[2] * inverse;
    out[0] = T(1);
    if constexpr (max_ell >= 1) {
      out[1] = f.l1 * x;
      out[2] = f.l1 * y;
      out[3] = f.l1 * z;
    }
    const T xz = x * x + z * z;
    if constexpr (max_ell >= 2) {
      out[4] = f.l2 * x * z;
      out[5] = f.l2 * x * y;
      out[6] = f.l2_0 * (y * y - T(0.5) * xz);
      out[7] = f.l2 * y * z;
      out[8] = f.l2_4 * (z * z - x * x);
    }
    if constexpr (max_ell >= 3) {
      out[9] = f.l3_0 * x * (T(3) * z * z - x * x);
      out[10] = f.l3_1 * x * y * z;
      out[11] = f.l3_2 * x * (T(4) * y * y - xz);
      out[12] = f.l3_3 * y * (T(2) * y * y - T(3) * xz);
      out[13] = f.l3_2 * z * (T(4) * y * y - xz);
      out[14] = f.l3_5 * y * (z * z - x * x);
      out[15] = f.l3_0 * z * (z * z - T(3) * x * x);
    }
  }
}

template <class T, int max_ell>
void harmonics_gradient(const LesffHarmonics& a, Range pairs) {
  constexpr int width = (max_ell + 1) * (max_ell + 1);
  const Factors<T> f;
  for (int64_t p = pairs.begin; p < pairs.end; ++p) {
    const T* v = static_cast<const T*>(a.vectors) + 3 * p;
    const T* g = static_cast<const T*>(a.grad_harmonics) + width * p;
    const T gr = static_cast<const T*>(a.grad_distance)[p];
    const T r = std::sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]);
    const T inverse = r > T(0) ? T(1) / r : T(0);
    const T x = v[0] * inverse, y = v[1] * inverse, z = v[2] * inverse;
    T gx = 0, gy = 0, gz = 0;
    if constexpr (max_ell >= 1) {
      gx = f.l1 * g[1];
      gy = f.l1 * g[2];
      gz = f.l1 * g[3];
    }
    if constexpr (max_ell >= 2) {
      gx += f.l2 * (z * g[4] + y * g[5]) - f.l2_0 * x * g[6] - T(2) * f.l2_4 * x * g[8];
      gy += f.l2 * (x * g[5] + z * g[7]) + T(2) * f.l2_0 * y * g[6];
      gz += f.l2 * (x * g[4] + y * g[7]) - f.l2_0 * z * g[6] + T(2) * f.l2_4 * z * g[8];
    }
    if constexpr (max_ell >= 3) {
      const T xx = x * x, yy = y * y, zz = z * z;
      gx += T(3) * f.l3_0 * (zz - xx) * g[9] + f.l3_1 * y * z * g[10] +
            f.l3_2 * (T(4) * yy - T(3) * xx - zz) * g[11] - T(6) * f.l3_3 * x * y * g[12] -
            T(2) * f.l3_2 * x * z * g[13] - T(2) * f.l3_5 * x * y * g[14] -
            T(6) * f.l3_0 * x * z * g[15];
      gy += f.l3_1 * x * z * g[10] + T(8) * f.l3_2 * x * y * g[11] +
            f.l3_3 * (T(6) * yy - T(3) * (xx + zz)) * g[12] + T(8) * f.l3_2 * y * z * g[13] +
            f.l3_5 * (zz - xx) * g[14];
      gz += T(6) * f.l3_0 * x * z * g[9] + f.l3_1 * x * y * g[10] -
            T(2) * f.l3_2 * x * z * g[11] - T(6) * f.l3_3 * y * z * g[12] +
            f.l3_2 * (T(4) * yy - xx - T(3) * zz) * g[13] + T(2) * f.l3_5 * y * z * g[14] +
            T(3) * f.l3_0 * (zz - xx) * g[15];
    }
    const T along = x * gx + y * gy + z * gz;
    T* out = static_cast<T*>(a.grad_vectors) + 3 * p;
    out[0] = (gx - along * x) * inverse + gr * x;
    out[1] = (gy - along * y) * inverse + gr * y;
    out[2] = (gz - along * z) * inverse + gr * z;
  }
}

template <class T, bool backward, int max_ell>
void run_harmonics(const LesffHarmonics& a) {
  const int parts = std::max(a.n_threads, 1);
#pragma omp parallel for schedule(static) num_threads(parts) if (parts > 1)
  for (int part = 0; part < parts; ++part) {
    const Range pairs = part_of(a.n_pairs, parts, part);
    if constexpr (backward)
      harmonics_gradient<T, max_ell>(a, pairs);
    else
      harmonics_of<T, max_ell>(a, pairs);
  }
}

template <class T, bool backward>
void any_harmonics(const LesffHarmonics* a) {
  switch (a->max_ell) {
    case 0: return run_harmonics<T, backward, 0>(*a);
    case 1: return run_harmonics<T, backward, 1>(*a);
    case 2: return run_harmonics<T, backward, 2>(*a);
    default: return run_harmonics<T, backward, 3>(*a);
  }
}

}  // namespace LESFF_NAMESPACE
