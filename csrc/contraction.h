// Symmetric contraction: sparse cubic polynomials per channel, value and gradients.
#pragma once
#include <algorithm>
#include <vector>

#include "arguments.h"
#include "vectors.h"

namespace LESFF_NAMESPACE {

constexpr int max_rows = 17;       // (3 + 1)^2 components and the constant 1
constexpr int max_components = 7;  // 2 l_out + 1, l_out <= 3

// One vector of channels of nodes of one element, with its weights copied to one place: rows of the
// weight table lie a power of two apart, which would crowd a few sets of the level-1 cache.
template <class T, bool full>
struct ContractionTile {
  const LesffContraction& a;
  int64_t c;
  int n;
  std::vector<T> storage;
  Vector<T>* weights;

  ContractionTile(const LesffContraction& a, int64_t element, int64_t c, int n)
      : a(a), c(c), n(n), storage((a.n_terms + 1) * lanes<T>) {
    void* start = storage.data();
    const auto offset = reinterpret_cast<uintptr_t>(start) % sizeof(Vector<T>);
    weights = reinterpret_cast<Vector<T>*>(static_cast<char*>(start) +
                                           (offset ? sizeof(Vector<T>) - offset : 0));
    const T* table = static_cast<const T*>(a.table) + element * a.n_terms * a.channels + c;
    for (int64_t t = 0; t < a.n_terms; ++t) weights[t] = load<full>(table + t * a.channels, n);
  }

  // `batch` nodes go together: they share weights and index lists, and their chains of sums are
  // independent of each other.
  template <int batch>
  struct Values {
    Vector<T> v[batch];
  };

  template <int batch>
  void read(const void* source, int64_t rows, int64_t node, Values<batch>* out) const {
    const T* p = static_cast<const T*>(source) + node * rows * a.channels + c;
    for (int b = 0; b < batch; ++b)
      for (int64_t i = 0; i < rows; ++i)
        out[i].v[b] = load<full>(p + (b * rows + i) * a.channels, n);
  }
  template <int batch>
  void write(void* target, int64_t rows, int64_t node, const Values<batch>* values) const {
    T* p = static_cast<T*>(target) + node * rows * a.channels + c;
    for (int b = 0; b < batch; ++b)
      for (int64_t i = 0; i < rows; ++i)
        store<full>(p + (b * rows + i) * a.channels, values[i].v[b], n);
  }
  template <int batch>
  void read_features(int64_t node, Values<batch>* x) const {
    for (int b = 0; b < batch; ++b) x[0].v[b] = splat(T(1));
    read<batch>(a.features, a.n_rows, node, x + 1);
  }

  template <int batch>
  void value(int64_t node) const {
    Values<batch> x[max_rows], out[max_components] = {};
    read_features<batch>(node, x);
    const int32_t *group = a.groups, *last = a.last;
    const Vector<T>* w = weights;
    for (int64_t q = a.n_groups; q > 0; --q, group += 4) {
      Values<batch> sum = {};
      for (const int32_t* end = a.last + group[3]; last < end; ++last, ++w) {
        const Values<batch>& xk = x[*last];
        LESFF_UNROLL
        for (int b = 0; b < batch; ++b) sum.v[b] += *w * xk.v[b];
      }
      const Values<batch>&xi = x[group[0]], &xj = x[group[1]];
      Values<batch>& y = out[group[2]];
      LESFF_UNROLL
      for (int b = 0; b < batch; ++b) y.v[b] += xi.v[b] * xj.v[b] * sum.v[b];
    }
    write<batch>(a.output, a.n_components, node, out);
  }

  template <int batch>
  void gradient(int64_t node) const {
    Values<batch> x[max_rows], dx[max_rows] = {}, g[max_components];
    read_features<batch>(node, x);
    read<batch>(a.grad, a.n_components, node, g);
    const int32_t *group = a.groups, *last = a.last;
    const Vector<T>* w = weights;
    for (int64_t q = a.n_groups; q > 0; --q, group += 4) {
      const Values<batch>&xi = x[group[0]], &xj = x[group[1]], &gm = g[group[2]];
      Values<batch> gi, gj, gij, sum = {};
      LESFF_UNROLL
      for (int b = 0; b < batch; ++b) {
        gi.v[b] = gm.v[b] * xi.v[b];
        gj.v[b] = gm.v[b] * xj.v[b];
        gij.v[b] = gi.v[b] * xj.v[b];
      }
      for (const int32_t* end = a.last + group[3]; last < end; ++last, ++w) {
        const Values<batch>& xk = x[*last];
        Values<batch>& dk = dx[*last];
        LESFF_UNROLL
        for (int b = 0; b < batch; ++b) {
          sum.v[b] += *w * xk.v[b];
          dk.v[b] += *w * gij.v[b];
        }
      }
      Values<batch>&di = dx[group[0]], &dj = dx[group[1]];
      LESFF_UNROLL
      for (int b = 0; b < batch; ++b) di.v[b] += gj.v[b] * sum.v[b];
      LESFF_UNROLL
      for (int b = 0; b < batch; ++b) dj.v[b] += gi.v[b] * sum.v[b];
    }
    write<batch>(a.grad_features, a.n_rows, node, dx + 1);
  }

  // d/d weights, added to `weights`, which then hold the gradient and not the weights
  template <int batch>
  void add_weight_gradient(int64_t node) {
    Values<batch> x[max_rows], g[max_components];
    read_features<batch>(node, x);
    read<batch>(a.grad, a.n_components, node, g);
    const int32_t *group = a.groups, *last = a.last;
    Vector<T>* w = weights;
    for (int64_t q = a.n_groups; q > 0; --q, group += 4) {
      const Values<batch>&xi = x[group[0]], &xj = x[group[1]], &gm = g[group[2]];
      Values<batch> gij;
      for (int b = 0; b < batch; ++b) gij.v[b] = gm.v[b] * xi.v[b] * xj.v[b];
      for (const int32_t* end = a.last + group[3]; last < end; ++last, ++w) {
        const Values<batch>& xk = x[*last];
        Vector<T> sum = gij.v[0] * xk.v[0];
        LESFF_UNROLL
        for (int b = 1; b < batch; ++b) sum += gij.v[b] * xk.v[b];
        *w += sum;
      }
    }
  }

  // Calls f(batch size as constant, first node) for all nodes of a slice.
  template <class F>
  static void for_batches(const LesffElementSlice& slice, F&& f) {
    constexpr int batch = 4;
    int64_t node = slice.start;
    for (; node + batch <= slice.stop; node += batch) f(std::integral_constant<int, batch>(), node);
    for (; node < slice.stop; ++node) f(std::integral_constant<int, 1>(), node);
  }
};

// Runs f(whether the vector is full, slice, first channel, channels) over all tiles. A tile has one
// thread and a fixed order of nodes: results do not depend on the number of threads.
template <class T, class F>
void for_tiles(const LesffContraction& a, F&& f) {
  constexpr int step = lanes<T>;
  const int64_t blocks = (a.channels + step - 1) / step;
#pragma omp parallel for schedule(dynamic) num_threads(std::max(a.n_threads, 1)) \
    if (a.n_threads > 1)
  for (int64_t tile = 0; tile < blocks * a.n_slices; ++tile) {
    const LesffElementSlice& slice = a.slices[tile / blocks];
    const int64_t c = tile % blocks * step;
    if (c + step <= a.channels)
      f(std::true_type(), slice, c, step);
    else
      f(std::false_type(), slice, c, int(a.channels - c));
  }
}

template <class T>
void contract(const LesffContraction* a) {
  for_tiles<T>(*a, [a](auto full, const LesffElementSlice& slice, int64_t c, int n) {
    const ContractionTile<T, full> tile(*a, slice.element, c, n);
    tile.for_batches(slice, [&](auto batch, int64_t node) { tile.template value<batch>(node); });
  });
}

// grad_table must be zero on entry; slices of the same element must not be split between threads,
// which they are not: several slices of one element are joined by the caller.
template <class T>
void contract_backward(const LesffContraction* a) {
  for_tiles<T>(*a, [a](auto full, const LesffElementSlice& slice, int64_t c, int n) {
    ContractionTile<T, full> tile(*a, slice.element, c, n);
    if (a->grad_features)
      tile.for_batches(slice,
                       [&](auto batch, int64_t node) { tile.template gradient<batch>(node); });
    if (!a->grad_table) return;
    for (int64_t t = 0; t < a->n_terms; ++t) tile.weights[t] = Vector<T>{};
    tile.for_batches(
        slice, [&](auto batch, int64_t node) { tile.template add_weight_gradient<batch>(node); });
    T* out = static_cast<T*>(a->grad_table) + slice.element * a->n_terms * a->channels + c;
    for (int64_t t = 0; t < a->n_terms; ++t)
      store<full>(out + t * a->channels, tile.weights[t], n);
  });
}

}  // namespace LESFF_NAMESPACE
