// Radial weights of the convolution: read from memory, or from a table of quintic splines.
#pragma once
#include <algorithm>
#include <vector>

#include "arguments.h"
#include "vectors.h"

namespace LESFF_NAMESPACE {

// Quintic B-splines: a row of the table holds the coefficients of one spline, and an interval between
// knots is reached by six of them, which lie one after the other in memory.
constexpr int spline_rows = 6;

// t^5 / 120 and the two next splines of a uniform grid, and their derivatives.
template <class T>
struct SplineValues {
  T value[3], slope[3];
  explicit SplineValues(T t) {
    const T tt = t * t, ttt = tt * t, f = T(1) / T(120);
    value[0] = f * (ttt * tt);
    value[1] = f * (T(1) + T(5) * t + T(10) * tt + ttt * (T(10) + T(5) * t - T(5) * tt));
    value[2] = f * (T(26) + T(50) * t + T(20) * tt - ttt * (T(20) + T(20) * t - T(10) * tt));
    slope[0] = f * (T(5) * tt * tt);
    slope[1] = f * (T(5) + T(20) * t + T(30) * tt + ttt * (T(20) - T(25) * t));
    slope[2] = f * (T(50) + T(40) * t - T(60) * tt - ttt * (T(80) - T(50) * t));
  }
};

// Where a pair finds its radial weights, and the values of the six splines there.
template <class T>
struct Entry {
  int32_t row;  // first row of the table, or row of the weights
  T value[spline_rows], slope[spline_rows];

  void interpolate(T t) {
    const SplineValues<T> left(T(1) - t), right(t);
    for (int k = 0; k < 3; ++k) {
      value[k] = left.value[k];
      slope[k] = -left.slope[k];
      value[5 - k] = right.value[k];
      slope[5 - k] = right.slope[k];
    }
  }
};

// A directed edge as a node sees it: the other node and the common pair.
template <class T>
struct Edge {
  int32_t node, pair, row;
  T sign;
  T value[spline_rows];
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
    // table ends with six rows of zeros
    const bool inside = x < T(n);
    entries[p].row = inside ? std::max(int32_t(x), int32_t(0)) : n + spline_rows - 1;
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
      for (int k = 0; k < spline_rows; ++k) edge.value[k] = entries[pair].value[k];
  }
  return edges;
}

// Weights of one path and one vector of channels, from memory.
template <class T, bool full>
struct GivenRadial {
  const T* base = nullptr;
  int64_t stride = 0;
  int n = 0;
  GivenRadial() = default;
  GivenRadial(const LesffConvolution& a, int path, int64_t c, int n)
      : base(static_cast<const T*>(a.weights) + path * a.channels + c),
        stride(a.n_paths * a.channels),
        n(n) {}
  Vector<T> value(int32_t row, const T*) const { return load<full>(base + row * stride, n); }
};

// The same from a table. The table is padded to whole blocks, so loads are always full.
template <class T, bool full>
struct TabulatedRadial {
  const T* base = nullptr;
  int64_t block = 0;  // from a channel to the same of the next block
  TabulatedRadial() = default;
  TabulatedRadial(const LesffConvolution& a, int path, int64_t c, int) {
    const int64_t blocks = (a.channels + table_block - 1) / table_block;
    const int64_t rows = a.n_intervals + 2 * spline_rows - 1;
    block = rows * table_block;
    base = static_cast<const T*>(a.table) + (path * blocks + c / table_block) * block +
           c % table_block;
  }
  // Sum of the rows times `coefficients`, `c` channels further.
  Vector<T> value(int32_t row, const T* coefficients, int c = 0) const {
    const T* p = base + int64_t(row) * table_block + c;
    Vector<T> v = coefficients[0] * load<true>(p, 0);
    LESFF_UNROLL
    for (int k = 1; k < spline_rows; ++k) v += coefficients[k] * load<true>(p + k * table_block, 0);
    return v;
  }
};

}  // namespace LESFF_NAMESPACE
