// Depthwise equivariant convolution: messages, and gradients by gathering.
//
// Loops run chunk of nodes -> path -> vector of channels -> node -> edge. The radial table of one path
// and vector stays in the level-1 cache, the sums of one node in registers. Every output row belongs to one
// thread and is summed in a fixed order: results do not depend on the number of threads.
#pragma once
#include "radial.h"

namespace LESFF_NAMESPACE {

// message[node, m3, c] = sum_edges sign R[c] sum_m1 K[m1, m3] h[sender, m1, c]
template <class T, int rows, int cols, bool full, template <class, bool> class Radial>
void gather_messages(const LesffConvolution& a, const LesffPath& path, const Radial<T, full>& radial,
                     const Edge<T>* edges, int64_t c, int n, Range nodes) {
  const int64_t feature_stride = a.feature_rows * a.channels;
  const T* features = static_cast<const T*>(a.features) + path.feature_row * a.channels + c;
  const T* kernel = static_cast<const T*>(a.kernel) + path.kernel_col;
  const int64_t out_cols = a.message_cols[path.order];
  T* out = static_cast<T*>(const_cast<void*>(a.messages[path.order])) + path.block * a.channels + c;
  for (int64_t node = nodes.begin; node < nodes.end; ++node) {
    Vector<T> sum[cols] = {};
    for (int64_t e = a.node_start[node]; e < a.node_start[node + 1]; ++e) {
      const Edge<T>& edge = edges[e];
      Vector<T> w = radial.value(edge.row, edge.value);
      if (path.odd) w *= edge.sign;
      const T* h = features + edge.node * feature_stride;
      const T* k = kernel + edge.pair * a.kernel_cols;
      LESFF_UNROLL
      for (int i = 0; i < rows; ++i) {
        const Vector<T> x = w * load<full>(h + i * a.channels, n);
        LESFF_UNROLL
        for (int j = 0; j < cols; ++j) sum[j] += k[i * cols + j] * x;
      }
    }
    LESFF_UNROLL
    for (int j = 0; j < cols; ++j) store<full>(out + (node * cols + j) * out_cols, sum[j], n);
  }
}

// grad_h[node, m1, c] += sum_edges sign R[c] sum_m3 K[m1, m3] g[receiver, m3, c]
template <class T, int rows, int cols, bool full, template <class, bool> class Radial>
void gather_features(const LesffConvolution& a, const LesffPath& path, const Radial<T, full>& radial,
                     const Edge<T>* edges, int64_t c, int n, Range nodes) {
  const T* kernel = static_cast<const T*>(a.kernel) + path.kernel_col;
  const int64_t g_cols = a.message_cols[path.order];
  const T* grad = static_cast<const T*>(a.messages[path.order]) + path.block * a.channels + c;
  T* out = static_cast<T*>(a.grad_features) + path.feature_row * a.channels + c;
  for (int64_t node = nodes.begin; node < nodes.end; ++node) {
    Vector<T> sum[rows] = {};
    for (int64_t e = a.node_start[node]; e < a.node_start[node + 1]; ++e) {
      const Edge<T>& edge = edges[e];
      Vector<T> w = radial.value(edge.row, edge.value);
      if (path.odd) w *= edge.sign;
      const T* g = grad + edge.node * cols * g_cols;
      const T* k = kernel + edge.pair * a.kernel_cols;
      Vector<T> u[rows] = {};
      LESFF_UNROLL
      for (int j = 0; j < cols; ++j) {
        const Vector<T> x = load<full>(g + j * g_cols, n);
        LESFF_UNROLL
        for (int i = 0; i < rows; ++i) u[i] += k[i * cols + j] * x;
      }
      LESFF_UNROLL
      for (int i = 0; i < rows; ++i) sum[i] += w * u[i];
    }
    LESFF_UNROLL
    for (int i = 0; i < rows; ++i) {
      T* p = out + (node * a.feature_rows + i) * a.channels;
      store<full>(p, load<full>(p, n) + sum[i], n);
    }
  }
}

// Gradients of what belongs to a pair, both directions together. With
//   X[m1, m3] = h[j, m1] g[i, m3] + sign h[i, m1] g[j, m3]:
//   grad_K[m1, m3] = sum_c R X[m1, m3],  grad_R[c] = sum_{m1 m3} K[m1, m3] X[m1, m3].
template <class T, int rows, int cols>
struct PairGradient {
  const LesffConvolution& a;
  const LesffPath& path;
  int index;
  const T *features, *grad;
  int64_t g_cols;

  PairGradient(const LesffConvolution& a, int index)
      : a(a),
        path(a.paths[index]),
        index(index),
        features(static_cast<const T*>(a.features) + path.feature_row * a.channels),
        grad(static_cast<const T*>(a.messages[path.order]) + path.block * a.channels),
        g_cols(a.message_cols[path.order]) {}

  struct Ends {
    const T *h_first, *h_second, *g_first, *g_second;
  };
  Ends ends(int64_t pair) const {
    const int64_t first = a.pair_sender[pair], second = a.pair_receiver[pair];
    const int64_t fs = a.feature_rows * a.channels, gs = cols * g_cols;
    return {features + first * fs, features + second * fs, grad + first * gs, grad + second * gs};
  }

  template <bool full>
  void add_given(int64_t pair, int64_t c, int n, const T* k, Vector<T> (&sum)[rows * cols]) const {
    const GivenRadial<T, full> radial(a, index, c, n);
    const bool directed = a.weight_rows == 2 * a.n_pairs;
    const int64_t other = directed ? pair + a.n_pairs : pair;
    const Vector<T> w1 = radial.value(int32_t(pair), nullptr);
    Vector<T> w2 = radial.value(int32_t(other), nullptr);
    const T sign = path.odd ? T(-1) : T(1);
    w2 *= sign;
    Vector<T> g1 = {}, g2 = {};
    const Ends x = ends(pair);
    Vector<T> f1[cols], f2[cols];
    LESFF_UNROLL
    for (int j = 0; j < cols; ++j) {
      f1[j] = load<full>(x.g_second + j * g_cols + c, n);
      f2[j] = load<full>(x.g_first + j * g_cols + c, n);
    }
    LESFF_UNROLL
    for (int i = 0; i < rows; ++i) {
      const Vector<T> h1 = load<full>(x.h_first + i * a.channels + c, n);
      const Vector<T> h2 = load<full>(x.h_second + i * a.channels + c, n);
      const Vector<T> wh1 = w1 * h1, wh2 = w2 * h2;
      Vector<T> u1 = {}, u2 = {};
      LESFF_UNROLL
      for (int j = 0; j < cols; ++j) {
        u1 += k[i * cols + j] * f1[j];
        u2 += k[i * cols + j] * f2[j];
        sum[i * cols + j] += wh1 * f1[j] + wh2 * f2[j];
      }
      g1 += u1 * h1;
      g2 += u2 * h2;
    }
    if (!a.grad_weights) return;
    T* out = static_cast<T*>(a.grad_weights) + index * a.channels + c;
    const int64_t stride = a.n_paths * a.channels;
    if (directed) {
      store<full>(out + pair * stride, g1, n);
      store<full>(out + other * stride, g2 * sign, n);
    } else {
      store<full>(out + pair * stride, g1 + g2 * sign, n);
    }
  }

  template <bool full>
  void add_tabulated(int64_t pair, const Entry<T>& entry, int64_t c, int n, const T* k,
                     Vector<T> (&sum)[rows * cols], Vector<T>& slope_sum) const {
    const TabulatedRadial<T, full> radial(a, index, c, n);
    const Vector<T> w = radial.value(entry.row, entry.value);
    const Vector<T> slope = radial.value(entry.row, entry.slope);
    const T sign = path.odd ? T(-1) : T(1);
    const Ends x = ends(pair);
    Vector<T> gr = {};
    Vector<T> f1[cols], f2[cols];
    LESFF_UNROLL
    for (int j = 0; j < cols; ++j) {
      f1[j] = load<full>(x.g_second + j * g_cols + c, n);
      f2[j] = load<full>(x.g_first + j * g_cols + c, n);
    }
    LESFF_UNROLL
    for (int i = 0; i < rows; ++i) {
      const Vector<T> h1 = load<full>(x.h_first + i * a.channels + c, n);
      const Vector<T> h2 = load<full>(x.h_second + i * a.channels + c, n) * sign;
      LESFF_UNROLL
      for (int j = 0; j < cols; ++j) {
        const Vector<T> both = h1 * f1[j] + h2 * f2[j];
        gr += k[i * cols + j] * both;
        sum[i * cols + j] += w * both;
      }
    }
    slope_sum += slope * gr;
  }

  void run(const std::vector<Entry<T>>& entries, Range pairs, int64_t c_begin, int64_t c_end) const {
    T* grad_kernel = static_cast<T*>(a.grad_kernel) + path.kernel_col;
    const T* kernel = static_cast<const T*>(a.kernel) + path.kernel_col;
    T* grad_distance = static_cast<T*>(a.grad_distance);
    constexpr int step = lanes<T>;
    for (int64_t pair = pairs.begin; pair < pairs.end; ++pair) {
      const T* k = kernel + pair * a.kernel_cols;
      Vector<T> sum[rows * cols] = {};
      Vector<T> slope = {};
      int64_t c = c_begin;
      if (a.table) {
        const Entry<T>& entry = entries[pair];
        for (; c + step <= c_end; c += step) add_tabulated<true>(pair, entry, c, step, k, sum, slope);
        if (c < c_end) add_tabulated<false>(pair, entry, c, int(c_end - c), k, sum, slope);
        grad_distance[pair] += sum_lanes<T>(slope) * T(a.table_inverse_step);
      } else {
        for (; c + step <= c_end; c += step) add_given<true>(pair, c, step, k, sum);
        if (c < c_end) add_given<false>(pair, c, int(c_end - c), k, sum);
      }
      T* out = grad_kernel + pair * a.kernel_cols;
      LESFF_UNROLL
      for (int m = 0; m < rows * cols; ++m) out[m] += sum_lanes<T>(sum[m]);
    }
  }
};

// Calls f with (2 l1 + 1, 2 l3 + 1) of a path as compile-time constants.
template <int rows, class F>
void with_cols(int cols, F&& f) {
  switch (cols) {
    case 1: return f(std::integral_constant<int, rows>(), std::integral_constant<int, 1>());
    case 3: return f(std::integral_constant<int, rows>(), std::integral_constant<int, 3>());
    case 5: return f(std::integral_constant<int, rows>(), std::integral_constant<int, 5>());
    default: return f(std::integral_constant<int, rows>(), std::integral_constant<int, 7>());
  }
}
template <class F>
void with_shape(const LesffPath& path, F&& f) {
  switch (path.rows) {
    case 1: return with_cols<1>(path.cols, f);
    case 3: return with_cols<3>(path.cols, f);
    default: return with_cols<5>(path.cols, f);
  }
}

template <class T, template <class, bool> class Radial, bool backward>
void gather_all(const LesffConvolution& a, const Edge<T>* edges, Range nodes) {
  constexpr int step = lanes<T>;
  for (int p = 0; p < a.n_paths; ++p) {
    with_shape(a.paths[p], [&](auto rows, auto cols) {
      auto block = [&](auto full, int64_t c, int n) {
        const Radial<T, full> radial(a, p, c, n);
        if constexpr (backward)
          gather_features<T, rows, cols, full, Radial>(a, a.paths[p], radial, edges, c, n, nodes);
        else
          gather_messages<T, rows, cols, full, Radial>(a, a.paths[p], radial, edges, c, n, nodes);
      };
      int64_t c = 0;
      for (; c + step <= a.channels; c += step) block(std::true_type(), c, step);
      if (c < a.channels) block(std::false_type(), c, int(a.channels - c));
    });
  }
}

// Edges that are finished, for all paths and channels, before the next are begun: their indices and
// angular kernels then stay in the level-2 cache.
constexpr int64_t chunk_edges = 2048;

template <class T, bool backward>
void gather(const LesffConvolution& a) {
  const std::vector<Edge<T>> edges = node_edges<T>(a, backward);
  const int64_t parts = std::max<int64_t>(1, a.n_edges / chunk_edges);
#pragma omp parallel for schedule(static) num_threads(a.n_threads) if (a.n_threads > 1)
  for (int64_t part = 0; part < parts; ++part) {
    const Range nodes = part_of(a.n_nodes, parts, part);
    if (a.table)
      gather_all<T, TabulatedRadial, backward>(a, edges.data(), nodes);
    else
      gather_all<T, GivenRadial, backward>(a, edges.data(), nodes);
  }
}

// Channels that the pair gradients handle together: bounds the cache that table and g occupy.
constexpr int64_t pair_channels = 64;

template <class T>
void convolve(const LesffConvolution* a) {
  gather<T, false>(*a);
}

// Outputs must be zero on entry, except grad_weights.
template <class T>
void convolve_backward(const LesffConvolution* arguments) {
  const LesffConvolution& a = *arguments;
  if (a.grad_features) gather<T, true>(a);
  if (!a.grad_kernel) return;
  std::vector<Entry<T>> entries;
  if (a.table) entries = table_entries<T>(a);
  const int64_t parts = std::max<int64_t>(1, 2 * a.n_pairs / chunk_edges);
#pragma omp parallel for schedule(static) num_threads(a.n_threads) if (a.n_threads > 1)
  for (int64_t part = 0; part < parts; ++part) {
    const Range pairs = part_of(a.n_pairs, parts, part);
    for (int p = 0; p < a.n_paths; ++p)
      with_shape(a.paths[p], [&](auto rows, auto cols) {
        const PairGradient<T, rows, cols> gradient(a, p);
        for (int64_t c = 0; c < a.channels; c += pair_channels)
          gradient.run(entries, pairs, c, std::min(c + pair_channels, a.channels));
      });
  }
}

}  // namespace LESFF_NAMESPACE
