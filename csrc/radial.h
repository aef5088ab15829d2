// Radial weights of the convolution: read from memory, or from a table of quintic polynomials.
#pragma once
#include <algorithm>
#include <vector>

#include "arguments.h"
#include "vectors.h"

namespace LESFF_NAMESPACE {

// Quintic Hermite interpolation: a knot holds value, slope and curvature, in units of the step;
// an interval is the two knots at its ends, which lie one after the other in memory.
constexpr int knot_values = 3;

// Where a pair finds its radial weights, and the coefficients of the six knot values there.
template <class T>
struct Entry {
  int32_t row;  // left knot of the table, or row of the weights
  T value[2 * knot_values], slope[2 * knot_values];

  void interpolate(T t) {
    const T u = T(1) - t, tt = t * t, uu = u * u, ttt = tt * t, uuu = uu * u;
    value[0] = uuu * (T(1) + T(3) * t + T(6) * tt);
    value[1] = uuu * t * (T(1) + T(3) * t);
    value[2] = T(0.5) * uuu * tt;
    value[3] = ttt * (T(1) + T(3) * u + T(6) * uu);
    value[4] = -ttt * u * (T(1) + T(3) * u);
    value[5] = T(0.5) * ttt * uu;
    slope[0] = T(-30) * tt * uu;
    slope[1] = uu * (T(1) + T(2) * t - T(15) * tt);
    slope[2] = T(0.5) * t * uu * (T(2) - T(5) * t);
    slope[3] = -slope[0];
    slope[4] = tt * (T(1) + T(2) * u - T(15) * uu);
    slope[5] = T(-0.5) * u * tt * (T(2) - T(5) * u);
  }
};

// A directed edge as a node sees it: the other node and the common pair.
template <class T>
struct Edge {
  int32_t node, pair, row;
  T sign;
  T value[2 * knot_values];
};

template <class T>
std::vector<Entry<T>> table_entries(const LesffConvolution& a) {
  std::vector<Entry<T>> entries(a.n_pairs);
  const T* r = static_cast<const T*>(a.distance);
  const T start = T(a.table_start), inverse = T(a.table_inverse_step);
  const int32_t n = int32_t(a.n_intervals);
  for (int64_t p = 0; p < a.n_pairs; ++p) {
    const T x = (r[p] - start) * inverse;
    // below the table the caller takes exact weights; from the cutoff on everything is zero: the
    // table ends with two more knots of zeros
    const bool inside = x < T(n);
    entries[p].row = inside ? std::max(int32_t(x), int32_t(0)) : n + 1;
    entries[p].interpolate(inside ? x - T(entries[p].row) : T(0));
  }
  return entries;
}

// Edges in CSR order. `outgoing`: the node is the sender of the edge, not its receiver.
template <class T>
std::vector<Edge<T>> node_edges(const LesffConvolution& a, bool outgoing) {
  std::vector<Entry<T>> entries;
  if (a.table) entries = table_entries<T>(a);
  const bool directed = a.weight_rows == 2 * a.n_pairs && a.n_pairs > 0;
  std::vector<Edge<T>> edges(a.n_edges);
  for (int64_t e = 0; e < a.n_edges; ++e) {
    const int32_t pair = a.edge_pair[e];
    const bool along = (a.edge_sign[e] > 0) != outgoing;
    Edge<T>& edge = edges[e];
    edge.node = a.edge_sender[e];
    edge.pair = pair;
    edge.sign = along ? T(1) : T(-1);
    edge.row = a.table ? entries[pair].row : pair + (directed && !along ? int32_t(a.n_pairs) : 0);
    if (a.table)
      for (int k = 0; k < 2 * knot_values; ++k) edge.value[k] = entries[pair].value[k];
  }
  return edges;
}

// Weights of one path and one vector of channels, from memory.
template <class T, bool full>
struct GivenRadial {
  const T* base;
  int64_t stride;
  int n;
  GivenRadial(const LesffConvolution& a, int path, int64_t c, int n)
      : base(static_cast<const T*>(a.weights) + path * a.channels + c),
        stride(a.n_paths * a.channels),
        n(n) {}
  Vector<T> value(int32_t row, const T*) const { return load<full>(base + row * stride, n); }
};

// The same from a table. The table is padded to whole blocks, so loads are always full.
template <class T, bool full>
struct TabulatedRadial {
  static constexpr int width = knot_values * table_block;
  const T* base;
  TabulatedRadial(const LesffConvolution& a, int path, int64_t c, int) {
    const int64_t blocks = (a.channels + table_block - 1) / table_block;
    const int64_t slab = (path * blocks + c / table_block) * (a.n_intervals + 3);
    base = static_cast<const T*>(a.table) + slab * width + c % table_block;
  }
  // Sum of the knot values times `coefficients`.
  Vector<T> value(int32_t row, const T* coefficients) const {
    const T* p = base + int64_t(row) * width;
    Vector<T> v = coefficients[0] * load<true>(p, 0);
    LESFF_UNROLL
    for (int k = 1; k < 2 * knot_values; ++k)
      v += coefficients[k] * load<true>(p + k * table_block, 0);
    return v;
  }
};

}  // namespace LESFF_NAMESPACE
