// Functions of close pairs with their derivatives: distances that level off, the repulsion of the
// nuclei (Ziegler, Biersack, Littmark), covalent bonds and how open they leave an atom. All of it is
// computed in double precision: few pairs are close, and the rest costs one comparison.
#pragma once
#include <algorithm>
#include <cmath>

#include "arguments.h"

namespace LESFF_NAMESPACE {

// LINEAR_SHARE of nn/saturation.py.
constexpr double kLinearShare = 0.8;

struct WithSlope {
  double value, slope;
};

// 0 for x <= 0, 1 for x >= 1, x^3 (10 - 15 x + 6 x^2) between.
inline WithSlope smooth_step(double x) {
  if (x <= 0.0) return {0.0, 0.0};
  if (x >= 1.0) return {1.0, 0.0};
  const double rest = 1.0 - x;
  return {x * x * x * (10.0 + x * (6.0 * x - 15.0)), 30.0 * x * x * rest * rest};
}

// u (1 + u^4)^(-1/4) for u >= 0.
inline WithSlope levelled(double u) {
  if (u > 1e4) return {1.0, 0.0};
  const double fourth = 1.0 + u * u * u * u;
  const double root = 1.0 / std::sqrt(std::sqrt(fourth));
  return {u * root, root / fourth};
}

// x where |x| <= 0.8 limit, levelling off towards the limit beyond.
inline WithSlope saturated(double x, double limit) {
  const double share = kLinearShare, size = std::fabs(x);
  if (size <= share * limit) return {x, 1.0};
  const WithSlope y = levelled((size - share * limit) / ((1.0 - share) * limit));
  return {std::copysign(limit * (share + (1.0 - share) * y.value), x), y.slope};
}

// Energy of a pair of nuclei in eV, zero beyond `reach`; constants of nn/radial.py.
inline WithSlope screened_repulsion(double r, double z1, double z2, double reach) {
  const double c[4] = {0.1818, 0.5099, 0.2802, 0.02817}, e[4] = {3.2, 0.9423, 0.4028, 0.2016};
  const double length = 0.4543 * 0.529 / (std::pow(z1, 0.3) + std::pow(z2, 0.3));
  double phi = 0.0, d_phi = 0.0;
  for (int k = 0; k < 4; ++k) {
    const double term = c[k] * std::exp(-e[k] * r / length);
    phi += term;
    d_phi -= term * e[k] / length;
  }
  // u(x) = 1 - 28 x^6 + 48 x^7 - 21 x^8, the polynomial cutoff with p = 6
  const double x = r / reach, x5 = x * x * x * x * x, gap = 1.0 - x;
  const double u = 1.0 - x5 * x * (28.0 - x * (48.0 - 21.0 * x));
  const double d_u = -168.0 * x5 * gap * gap / reach;
  const double coulomb = 14.3996 * z1 * z2 / r;
  return {coulomb * phi * u, coulomb * (d_phi * u + phi * d_u - phi * u / r)};
}

// Covalent bonds whose hydrogens share the one that they have to give: of a bond b to a hydrogen an
// atom gets b f, f = v / (sum of v at the hydrogen), v = b exp((1 - r / R) / width).
template <class T>
struct SharedBonds {
  const LesffContacts& a;
  static constexpr double least = 1e-9;  // _LEAST of nn/contacts.py

  struct Bond {
    double b, db, v, dv;
  };

  // Calls f(pair, i, j, bond) for all bonds.
  template <class F>
  void for_bonds(F&& f) const {
    const T* distance = static_cast<const T*>(a.distance);
    const double scale = 1.0 / (a.bond_none - a.bond_full);
    for (int64_t k = 0; k < a.n_pairs; ++k) {
      const int64_t i = a.first[k], j = a.second[k];
      const int64_t zi = a.atomic_number[i], zj = a.atomic_number[j];
      const double r = distance[k], reach = a.radius[zi] + a.radius[zj];
      if (r >= a.bond_none * reach || a.valence[zi] <= 0.0 || a.valence[zj] <= 0.0) continue;
      const WithSlope y = smooth_step((a.bond_none - r / reach) * scale);
      const double e = std::exp((1.0 - r / reach) / a.sharing_width);
      const double db = -y.slope * scale / reach;
      f(k, i, j, Bond{y.value, db, y.value * e, (db - y.value / (a.sharing_width * reach)) * e});
    }
  }
  double* totals() const { return a.shared; }
  double* counts() const { return a.shared + a.n_atoms; }
  bool is_hydrogen(int64_t i) const { return a.atomic_number[i] == 1; }
  // Of a bond, what the atom at one end gives to the other.
  double given(const Bond& x, int64_t by) const {
    return is_hydrogen(by) ? x.b * x.v / (totals()[by] + least) : x.b;
  }

  void count() const {
    std::fill(a.shared, a.shared + 2 * a.n_atoms, 0.0);
    for_bonds([&](int64_t, int64_t i, int64_t j, const Bond& x) {
      totals()[i] += x.v;
      totals()[j] += x.v;
    });
    for_bonds([&](int64_t, int64_t i, int64_t j, const Bond& x) {
      counts()[i] += given(x, j);
      counts()[j] += given(x, i);
    });
  }
};

// Gradients of distances from those of the counts; finds the totals anew.
template <class T>
void shared_bonds_backward(const LesffContacts* p) {
  const SharedBonds<T> shared{*p};
  using Bond = typename SharedBonds<T>::Bond;
  const T* grad = static_cast<const T*>(p->grad_count);
  T* out = static_cast<T*>(p->grad_distance);
  shared.count();
  // S[h] = sum of g[i] b f over the bonds of a hydrogen
  double* sums = shared.counts();
  std::fill(sums, sums + p->n_atoms, 0.0);
  shared.for_bonds([&](int64_t, int64_t i, int64_t j, const Bond& x) {
    sums[j] += grad[i] * shared.given(x, j);
    sums[i] += grad[j] * shared.given(x, i);
  });
  std::fill(out, out + p->n_pairs, T(0));
  // d (b f) of one bond, and f of all bonds by the sum that they are divided by
  auto part = [&](const Bond& x, int64_t to, int64_t by) {
    if (!shared.is_hydrogen(by)) return double(grad[to]) * x.db;
    const double total = shared.totals()[by] + SharedBonds<T>::least;
    return (grad[to] * (x.db * x.v + x.b * x.dv) - sums[by] * x.dv) / total;
  };
  shared.for_bonds([&](int64_t k, int64_t i, int64_t j, const Bond& x) {
    out[k] = T(part(x, i, j) + part(x, j, i));
  });
}

template <class T>
void contacts(const LesffContacts* p) {
  const LesffContacts& a = *p;
  const T* distance = static_cast<const T*>(a.distance);
  T *inner = static_cast<T*>(a.inner), *d_inner = static_cast<T*>(a.d_inner);
  T *wall = static_cast<T*>(a.wall), *d_wall = static_cast<T*>(a.d_wall);
  T *openness = static_cast<T*>(a.openness), *d_bond = static_cast<T*>(a.d_bond);
  T *d_open = static_cast<T*>(a.d_open), *d_bonded = static_cast<T*>(a.d_bonded);
  T *bonded = static_cast<T*>(a.bonded), *lacks = static_cast<T*>(a.lacks);
  T* d_crowd = static_cast<T*>(a.d_crowd);
  for (int64_t i = 0; i < a.n_atoms; ++i) {
    if (wall) wall[i] = T(0);
    if (openness) a.count[i] = 0.0;
  }
  for (int64_t k = 0; k < a.n_pairs; ++k) {
    const int64_t i = a.first[k], j = a.second[k];
    const int64_t zi = a.atomic_number[i], zj = a.atomic_number[j];
    const double r = distance[k], reach = a.radius[zi] + a.radius[zj];
    if (inner) {
      inner[k] = distance[k];
      d_inner[k] = T(1);
      if (r < a.inner_start * reach) {
        const double width = a.inner_width * reach;
        const WithSlope y = levelled((a.inner_start * reach - r) / width);
        inner[k] = T(a.inner_start * reach - width * y.value);
        d_inner[k] = T(y.slope);
      }
    }
    if (wall) {
      d_wall[k] = T(0);
      if (r < reach) {
        WithSlope y = screened_repulsion(r, double(zi), double(zj), reach);
        if (a.wall_from > 0.0) {
          // minus what it is where what is learned levels off; nothing from there outwards
          const double start = a.wall_from * reach, width = a.inner_width * reach;
          const WithSlope below = levelled(std::fmax(start - r, 0.0) / width);
          const double seen = r < start ? start - width * below.value : r;
          const WithSlope other = screened_repulsion(seen, double(zi), double(zj), reach);
          y.value -= other.value;
          y.slope -= other.slope * below.slope;
          if (a.wall_stiffness > 0.0) {
            // k ((r' - r) / R)^2
            const double gap = (seen - r) / reach;
            y.value += a.wall_stiffness * gap * gap;
            y.slope += 2.0 * a.wall_stiffness * gap * (below.slope - 1.0) / reach;
          }
        }
        wall[i] += T(0.5 * y.value);
        wall[j] += T(0.5 * y.value);
        d_wall[k] = T(y.slope);
      }
    }
    if (openness) {
      d_bond[k] = T(0);
      if (r < a.bond_none * reach && a.valence[zi] > 0.0 && a.valence[zj] > 0.0) {
        const double scale = 1.0 / (a.bond_none - a.bond_full);
        const WithSlope y = smooth_step((a.bond_none - r / reach) * scale);
        a.count[i] += y.value;
        a.count[j] += y.value;
        d_bond[k] = T(-y.slope * scale / reach);
      }
    }
  }
  if (!openness) return;
  const double* bonds = a.count;
  if (a.sharing_width > 0.0) {
    const SharedBonds<T> shared{a};
    shared.count();
    bonds = shared.counts();
  }
  for (int64_t i = 0; i < a.n_atoms; ++i) {
    const int64_t z = a.atomic_number[i];
    openness[i] = T(1);
    d_open[i] = T(0);
    lacks[i] = T(1);
    if (wall) {
      // bonds beyond the most that there may be
      const double excess = std::fmax(a.count[i] - a.most[z], 0.0);
      wall[i] += T(a.crowding * excess * excess);
      d_crowd[i] = T(2.0 * a.crowding * excess);
    }
    const WithSlope has = smooth_step(bonds[i]);
    bonded[i] = T(has.value);
    d_bonded[i] = T(has.slope);
    if (a.valence[z] <= 0.0) continue;
    double missing = a.valence[z] - bonds[i], sign = -1.0;
    if (missing < 0.0) lacks[i] = T(0);
    if (a.onium[z] > 0.0 && missing < 0.0) {
      missing = -missing;
      sign = 1.0;
    }
    const double scale = 1.0 / (a.open_full - a.open_from);
    const WithSlope y = smooth_step((missing - a.open_from) * scale);
    // nothing can be counted in a crowd
    const WithSlope crowd = smooth_step((bonds[i] - a.counted[z] - a.open_from) * scale);
    openness[i] = T(y.value * (1.0 - crowd.value));
    d_open[i] = T((sign * y.slope * (1.0 - crowd.value) - y.value * crowd.slope) * scale);
  }
}

}  // namespace LESFF_NAMESPACE
