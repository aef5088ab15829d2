// Dispersion D3(BJ), see lesff/electrostatics/d3.py: shares of atoms and first derivatives. Compiled
// once per instruction set like kernels.cpp.
#include "d3.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "exponential.h"

namespace LESFF_NAMESPACE {

void d3(const LesffD3* a);
void d3_backward(const LesffD3* a);

namespace {

// Pairs dealt with at a time: their tables are in the first cache.
constexpr int kPairs = 64;

// Constants of a pair of elements.
struct PairTable {
  std::vector<double> reach, rho, radius6, radius8;
  explicit PairTable(const LesffD3& a)
      : reach(a.n_elements * a.n_elements), rho(reach), radius6(reach), radius8(reach) {
    for (int64_t z1 = 0; z1 < a.n_elements; ++z1)
      for (int64_t z2 = 0; z2 < a.n_elements; ++z2) {
        const int64_t k = z1 * a.n_elements + z2;
        reach[k] = (a.radius[z1] + a.radius[z2]) * a.bohr;
        rho[k] = 3.0 * a.size[z1] * a.size[z2];
        const double length = a.a1 * std::sqrt(rho[k]) + a.a2, square = length * length;
        radius6[k] = square * square * square;
        radius8[k] = radius6[k] * square;
      }
  }
};

struct Pairs {
  int n = 0;
  bool fades = false;
  int64_t list = -1;  // place of the first one in the list, or -1
  int64_t first[kPairs], second[kPairs], elements[kPairs];
  double vector[3][kPairs], distance[kPairs], fade[kPairs], fade_slope[kPairs];
};

// Calls function(pairs) for all pairs, block by block.
template <class F>
void each_block(const LesffD3& a, F function) {
  Pairs p;
  const auto finish = [&] {
    if (!p.n) return;
    for (int k = 0; k < p.n; ++k) {
      const double x = p.vector[0][k], y = p.vector[1][k], z = p.vector[2][k];
      p.distance[k] = std::sqrt(x * x + y * y + z * z);
    }
    for (int k = 0; p.fades && k < p.n; ++k) {
      // (1 + cos) / 2 over the last part up to the cutoff
      const double start = a.fade * a.cutoff, length = a.cutoff - start;
      const double x = std::min(std::max((p.distance[k] - start) / length, 0.0), 1.0);
      p.fade[k] = 0.5 + 0.5 * std::cos(M_PI * x);
      p.fade_slope[k] = x > 0.0 && x < 1.0 ? -0.5 * M_PI / length * std::sin(M_PI * x) : 0.0;
    }
    function(p);
    p.n = 0;
  };
  for (int64_t s = 0; s < a.n_open; ++s) {
    const int64_t begin = a.open[2 * s], end = a.open[2 * s + 1];
    for (int64_t i = begin; i < end; ++i) {
      const double* from = a.positions + 3 * i;
      for (int64_t j = i + 1; j < end;) {
        const int count = int(std::min<int64_t>(end - j, kPairs - p.n));
        for (int k = 0; k < count; ++k) {
          const int place = p.n + k;
          p.first[place] = i;
          p.second[place] = j + k;
          p.elements[place] = a.element[i] * a.n_elements + a.element[j + k];
          for (int x = 0; x < 3; ++x)
            p.vector[x][place] = a.positions[3 * (j + k) + x] - from[x];
        }
        p.n += count;
        j += count;
        if (p.n == kPairs) finish();
      }
    }
  }
  finish();
  p.fades = true;
  for (int64_t start = 0; start < a.n_pairs; start += kPairs) {
    p.list = start;
    p.n = int(std::min<int64_t>(a.n_pairs - start, kPairs));
    for (int k = 0; k < p.n; ++k) {
      const int64_t i = a.first[start + k], j = a.second[start + k];
      p.first[k] = i;
      p.second[k] = j;
      p.elements[k] = a.element[i] * a.n_elements + a.element[j];
      for (int x = 0; x < 3; ++x) p.vector[x][k] = a.vectors[3 * (start + k) + x];
    }
    finish();
  }
}

// Share of each pair in the neighbours of its atoms, and its derivative by the distance.
void bonds(const LesffD3& a, const PairTable& table, const Pairs& p, double* value, double* slope) {
  double reach[kPairs];
  for (int k = 0; k < p.n; ++k) reach[k] = table.reach[p.elements[k]];
  for (int k = 0; k < p.n; ++k) {
    const double inverse = 1.0 / p.distance[k];
    const double bond = 1.0 / (1.0 + exponential(-a.steepness * (reach[k] * inverse - 1.0)));
    value[k] = bond;
    slope[k] = -bond * (1.0 - bond) * a.steepness * reach[k] * inverse * inverse;
  }
  for (int k = 0; p.fades && k < p.n; ++k) {
    slope[k] = slope[k] * p.fade[k] + value[k] * p.fade_slope[k];
    value[k] *= p.fade[k];
  }
}

// -1/2 [s6 / (r^6 + R^6) + s8 rho / (r^8 + R^8)] of each pair in eV, and its derivative.
void attraction(const LesffD3& a, const PairTable& table, const Pairs& p, double* value,
                double* slope) {
  double radius6[kPairs], radius8[kPairs], rho[kPairs];
  for (int k = 0; k < p.n; ++k) {
    radius6[k] = table.radius6[p.elements[k]];
    radius8[k] = table.radius8[p.elements[k]];
    rho[k] = table.rho[p.elements[k]];
  }
  const double unit = 1.0 / a.bohr, factor = -0.5 * a.hartree;
  for (int k = 0; k < p.n; ++k) {
    const double r = p.distance[k] * unit, r2 = r * r, r4 = r2 * r2, r6 = r4 * r2;
    const double six = 1.0 / (r6 + radius6[k]), eight = 1.0 / (r6 * r2 + radius8[k]);
    value[k] = factor * (a.s6 * six + a.s8 * rho[k] * eight);
    slope[k] = -factor * unit * r4 * r *
               (6.0 * a.s6 * six * six + 8.0 * a.s8 * rho[k] * r2 * eight * eight);
  }
  for (int k = 0; p.fades && k < p.n; ++k) {
    slope[k] = slope[k] * p.fade[k] + value[k] * p.fade_slope[k];
    value[k] *= p.fade[k];
  }
}

// C6 of a pair, sum_B u[i, z_j, B] p[j, B].
inline double coefficient(const LesffD3& a, int64_t i, int64_t j) {
  const int64_t n = a.n_references;
  const double* u = a.mixed + (i * a.n_elements + a.element[j]) * n;
  const double* p = a.reference + j * n;
  double sum = 0.0;
  for (int64_t b = 0; b < n; ++b) sum += u[b] * p[b];
  return sum;
}

// Neighbours of all atoms, shares of their references and u[i, z, B] = sum_A p[i, A] C6[z_i, z, A, B].
void prepare(const LesffD3& a, const PairTable& table) {
  const int64_t n = a.n_references;
  std::fill(a.count, a.count + a.n_atoms, 0.0);
  double value[kPairs], slope[kPairs];
  each_block(a, [&](const Pairs& p) {
    bonds(a, table, p, value, slope);
    for (int k = 0; k < p.n; ++k) {
      a.count[p.first[k]] += value[k];
      a.count[p.second[k]] += value[k];
    }
  });
  // elements that are there
  std::vector<char> is_there(a.n_elements, 0);
  for (int64_t i = 0; i < a.n_atoms; ++i) is_there[a.element[i]] = 1;
  for (int64_t i = 0; i < a.n_atoms; ++i) {
    const int64_t z = a.element[i];
    const double count = std::min(a.count[i], a.most[z]);
    const double* known = a.counts + z * n;
    double* p = a.reference + i * n;
    double least = HUGE_VAL, sum = 0.0;
    for (int64_t b = 0; b < n; ++b) {
      p[b] = a.width * (count - known[b]) * (count - known[b]);
      least = std::min(least, p[b]);
    }
    for (int64_t b = 0; b < n; ++b) sum += p[b] = std::exp(least - p[b]);
    for (int64_t b = 0; b < n; ++b) p[b] /= sum;
    for (int64_t other = 0; other < a.n_elements; ++other) {
      if (!is_there[other]) continue;
      double* u = a.mixed + (i * a.n_elements + other) * n;
      const double* c6 = a.c6 + (z * a.n_elements + other) * n * n;
      std::fill(u, u + n, 0.0);
      for (int64_t b = 0; b < n; ++b)
        for (int64_t c = 0; c < n; ++c) u[c] += p[b] * c6[b * n + c];
    }
  }
}

}  // namespace

void d3(const LesffD3* pointer) {
  const LesffD3& a = *pointer;
  const PairTable table(a);
  prepare(a, table);
  std::fill(a.shares, a.shares + a.n_atoms, 0.0);
  double value[kPairs], slope[kPairs];
  each_block(a, [&](const Pairs& p) {
    attraction(a, table, p, value, slope);
    for (int k = 0; k < p.n; ++k) {
      const double half = value[k] * coefficient(a, p.first[k], p.second[k]);
      a.shares[p.first[k]] += half;
      a.shares[p.second[k]] += half;
    }
  });
}

// From what the forward left in the work space.
void d3_backward(const LesffD3* pointer) {
  const LesffD3& a = *pointer;
  const PairTable table(a);
  const int64_t n = a.n_references, n_mixed = a.n_atoms * a.n_elements * n;
  double *by_count = a.count + a.n_atoms, *by_reference = a.reference + a.n_atoms * n,
         *by_mixed = a.mixed + n_mixed;
  std::fill(by_reference, by_reference + a.n_atoms * n, 0.0);
  std::fill(by_mixed, by_mixed + n_mixed, 0.0);
  std::fill(a.grad_positions, a.grad_positions + 3 * a.n_atoms, 0.0);
  std::fill(a.grad_vectors, a.grad_vectors + 3 * a.n_pairs, 0.0);
  double value[kPairs], slope[kPairs];
  // gradients along the vector of each pair, from the derivative by its distance
  const auto add_gradients = [&](const Pairs& p, const double* by_distance) {
    for (int k = 0; k < p.n; ++k) {
      const double factor = by_distance[k] / p.distance[k];
      for (int x = 0; x < 3; ++x) {
        const double g = factor * p.vector[x][k];
        if (p.list >= 0) {
          a.grad_vectors[3 * (p.list + k) + x] += g;
        } else {
          a.grad_positions[3 * p.second[k] + x] += g;
          a.grad_positions[3 * p.first[k] + x] -= g;
        }
      }
    }
  };
  each_block(a, [&](const Pairs& p) {
    attraction(a, table, p, value, slope);
    for (int k = 0; k < p.n; ++k) {
      const int64_t i = p.first[k], j = p.second[k];
      const double grad = a.grad[i] + a.grad[j];
      slope[k] *= grad * coefficient(a, i, j);
      // dL/dC6 to p[j] and u[i]
      const double by_c6 = grad * value[k];
      const int64_t place = (i * a.n_elements + a.element[j]) * n;
      for (int64_t b = 0; b < n; ++b) {
        by_reference[j * n + b] += by_c6 * a.mixed[place + b];
        by_mixed[place + b] += by_c6 * a.reference[j * n + b];
      }
    }
    add_gradients(p, slope);
  });
  // to the neighbours, by u, p and the softmax
  std::vector<char> is_there(a.n_elements, 0);
  for (int64_t i = 0; i < a.n_atoms; ++i) is_there[a.element[i]] = 1;
  for (int64_t i = 0; i < a.n_atoms; ++i) {
    const int64_t z = a.element[i];
    double* by = by_reference + i * n;
    for (int64_t other = 0; other < a.n_elements; ++other) {
      if (!is_there[other]) continue;
      const double* u = by_mixed + (i * a.n_elements + other) * n;
      const double* c6 = a.c6 + (z * a.n_elements + other) * n * n;
      for (int64_t b = 0; b < n; ++b)
        for (int64_t c = 0; c < n; ++c) by[b] += u[c] * c6[b * n + c];
    }
    const double *p = a.reference + i * n, *known = a.counts + z * n;
    const double count = std::min(a.count[i], a.most[z]);
    double mean = 0.0, total = 0.0;
    for (int64_t b = 0; b < n; ++b) mean += p[b] * by[b];
    for (int64_t b = 0; b < n; ++b)
      total -= p[b] * (by[b] - mean) * 2.0 * a.width * (count - known[b]);
    // as for the smaller of two equal numbers
    const double share = a.count[i] < a.most[z] ? 1.0 : a.count[i] == a.most[z] ? 0.5 : 0.0;
    by_count[i] = share * total;
  }
  each_block(a, [&](const Pairs& p) {
    bonds(a, table, p, value, slope);
    for (int k = 0; k < p.n; ++k) slope[k] *= by_count[p.first[k]] + by_count[p.second[k]];
    add_gradients(p, slope);
  });
}

}  // namespace LESFF_NAMESPACE
