// Depthwise equivariant convolution: messages, and gradients by gathering.
//
// Loops run path -> chunk of nodes -> vector of channels -> node -> edge. The radial table of one path
// and vector stays in the level-1 cache, the sums of one node in registers. Every output row belongs to one
// thread and is summed in a fixed order: results do not depend on the number of threads.
#pragma once
#include "radial.h"

namespace LESFF_NAMESPACE {

// A tensor (n_nodes, rows, row_stride) of which `channels` columns are regrouped into blocks of 16
// channels, (block, node, row, 16), the last block filled up with zeros. What one pass over the
// edges gathers is then compact: rows that lie a power of two apart would crowd a few cache sets.
template <class T>
class Packed {
 public:
  Packed(const void* source, int64_t n_nodes, int rows, int64_t row_stride, int64_t channels,
         int n_threads)
      : rows(rows),
        n_nodes(n_nodes),
        buffer_((channels + table_block - 1) / table_block * table_block * n_nodes * rows) {
    const T* in = static_cast<const T*>(source);
    const int64_t blocks = (channels + table_block - 1) / table_block;
#pragma omp parallel for schedule(static) num_threads(n_threads) if (n_threads > 1)
    for (int64_t node = 0; node < n_nodes; ++node)
      for (int row = 0; row < rows; ++row) {
        const T* from = in + (node * rows + row) * row_stride;
        for (int64_t b = 0; b < blocks; ++b) {
          T* to = buffer_.data() + ((b * n_nodes + node) * rows + row) * table_block;
          const int64_t n = channels - b * table_block;
          if (n >= table_block) {
            std::memcpy(to, from + b * table_block, table_block * sizeof(T));
          } else {
            std::memset(to, 0, table_block * sizeof(T));
            std::memcpy(to, from + b * table_block, n * sizeof(T));
          }
        }
      }
  }
  // Rows of node 0 for the channels from c on; a node has rows * 16 values.
  const T* at(int64_t c) const {
    return buffer_.data() + c / table_block * n_nodes * rows * table_block + c % table_block;
  }
  // From a channel to the same of the next block.
  int64_t block() const { return n_nodes * rows * table_block; }

 private:
  int64_t rows, n_nodes;
  Buffer<T> buffer_;
};

template <class T>
Packed<T> packed_features(const LesffConvolution& a) {
  return Packed<T>(a.features, a.n_nodes, int(a.feature_rows), a.channels, a.channels, a.n_threads);
}

// The gradient of the message of one path.
template <class T>
Packed<T> packed_gradient(const LesffConvolution& a, const LesffPath& path) {
  const T* grad = static_cast<const T*>(a.messages[path.order]) + path.block * a.channels;
  return Packed<T>(grad, a.n_nodes, path.cols, a.message_cols[path.order], a.channels,
                   a.n_threads);
}

// Vectors of channels that one pass over edges takes together, if registers hold their sums: indices
// and angular kernels are then read once for both.
constexpr int strip = LESFF_VECTOR_BYTES == 64 ? 2 : 1;

// What one pass over edges works on: a path, and `count` vectors of channels from c on, of which the
// last has n channels.
template <class T, int count, bool full, template <class, bool> class Radial>
struct Pass {
  const LesffPath& path;
  int64_t c;
  int n;
  Radial<T, full> radial[count];
  const T* source[count];

  Pass(const LesffConvolution& a, int index, int64_t c, int n, const Packed<T>& packed, int row)
      : path(a.paths[index]), c(c), n(n) {
    for (int v = 0; v < count; ++v) {
      radial[v] = Radial<T, full>(a, index, c + v * lanes<T>, n);
      source[v] = packed.at(c + v * lanes<T>) + row * table_block;
    }
  }
  void weights(const Edge<T>& edge, Vector<T> (&w)[count]) const {
    LESFF_UNROLL
    for (int v = 0; v < count; ++v) {
      w[v] = radial[v].value(edge.row, edge.value);
      if (path.odd) w[v] *= edge.sign;
    }
  }
};

// message[node, m3, c] = sum_edges sign R[c] sum_m1 K[m1, m3] h[sender, m1, c]
template <class T, int rows, int cols, int count, bool full, template <class, bool> class Radial>
void gather_messages(const LesffConvolution& a, const Pass<T, count, full, Radial>& pass,
                     const Edge<T>* edges, Range nodes) {
  const LesffPath& path = pass.path;
  const int64_t stride = a.feature_rows * table_block;
  const T* kernel = static_cast<const T*>(a.kernel) + path.kernel_col;
  const int64_t out_cols = a.message_cols[path.order];
  T* out = static_cast<T*>(const_cast<void*>(a.messages[path.order])) + path.block * a.channels;
  for (int64_t node = nodes.begin; node < nodes.end; ++node) {
    Vector<T> sum[count][cols] = {};
    for (int64_t e = a.node_start[node]; e < a.node_start[node + 1]; ++e) {
      const Edge<T>& edge = edges[e];
      const int64_t from = edge.node * stride;
      const T* k = kernel + edge.pair * a.kernel_cols;
      Vector<T> w[count];
      pass.weights(edge, w);
      LESFF_UNROLL
      for (int i = 0; i < rows; ++i) {
        Vector<T> x[count];
        LESFF_UNROLL
        for (int v = 0; v < count; ++v)
          x[v] = w[v] * load<true>(pass.source[v] + from + i * table_block, 0);
        LESFF_UNROLL
        for (int j = 0; j < cols; ++j) {
          const Vector<T> angular = splat<T>(k[i * cols + j]);
          LESFF_UNROLL
          for (int v = 0; v < count; ++v) sum[v][j] += angular * x[v];
        }
      }
    }
    LESFF_UNROLL
    for (int v = 0; v < count; ++v)
      LESFF_UNROLL
      for (int j = 0; j < cols; ++j)
        store<full>(out + (node * cols + j) * out_cols + pass.c + v * lanes<T>, sum[v][j], pass.n);
  }
}

// grad_h[node, m1, c] += sum_edges sign R[c] sum_m3 K[m1, m3] g[receiver, m3, c]
template <class T, int rows, int cols, int count, bool full, template <class, bool> class Radial>
void gather_features(const LesffConvolution& a, const Pass<T, count, full, Radial>& pass,
                     const Edge<T>* edges, Range nodes) {
  const LesffPath& path = pass.path;
  const T* kernel = static_cast<const T*>(a.kernel) + path.kernel_col;
  T* out = static_cast<T*>(a.grad_features) + path.feature_row * a.channels + pass.c;
  for (int64_t node = nodes.begin; node < nodes.end; ++node) {
    Vector<T> sum[count][rows] = {};
    for (int64_t e = a.node_start[node]; e < a.node_start[node + 1]; ++e) {
      const Edge<T>& edge = edges[e];
      const int64_t from = edge.node * int64_t(cols * table_block);
      const T* k = kernel + edge.pair * a.kernel_cols;
      Vector<T> w[count], u[count][rows] = {};
      pass.weights(edge, w);
      LESFF_UNROLL
      for (int j = 0; j < cols; ++j) {
        Vector<T> x[count];
        LESFF_UNROLL
        for (int v = 0; v < count; ++v) x[v] = load<true>(pass.source[v] + from + j * table_block, 0);
        LESFF_UNROLL
        for (int i = 0; i < rows; ++i) {
          const Vector<T> angular = splat<T>(k[i * cols + j]);
          LESFF_UNROLL
          for (int v = 0; v < count; ++v) u[v][i] += angular * x[v];
        }
      }
      LESFF_UNROLL
      for (int v = 0; v < count; ++v)
        LESFF_UNROLL
        for (int i = 0; i < rows; ++i) sum[v][i] += w[v] * u[v][i];
    }
    LESFF_UNROLL
    for (int v = 0; v < count; ++v)
      LESFF_UNROLL
      for (int i = 0; i < rows; ++i) {
        T* p = out + (node * a.feature_rows + i) * a.channels + v * lanes<T>;
        store<full>(p, load<full>(p, pass.n) + sum[v][i], pass.n);
      }
  }
}

// Channels that the pair gradients handle together: bounds the cache that table and g occupy.
constexpr int64_t pair_channels = 128;

// Gradients of what belongs to a pair, both directions together. With
//   X[m1, m3] = h[j, m1] g[i, m3] + sign h[i, m1] g[j, m3]:
//   grad_K[m1, m3] = sum_c R X[m1, m3],  grad_R[c] = sum_{m1 m3} K[m1, m3] X[m1, m3].
template <class T, int rows, int cols>
struct PairGradient {
  const LesffConvolution& a;
  const LesffPath& path;
  int index;
  const Packed<T>&features, &grad;

  PairGradient(const LesffConvolution& a, int index, const Packed<T>& features,
               const Packed<T>& grad)
      : a(a), path(a.paths[index]), index(index), features(features), grad(grad) {}

  // Rows of the two ends of a pair for the channels from c on.
  struct Ends {
    const T *h_first, *h_second, *g_first, *g_second;
  };
  Ends ends(int64_t pair, int64_t c) const {
    const int64_t first = a.pair_sender[pair], second = a.pair_receiver[pair];
    const int64_t hs = a.feature_rows * table_block, gs = cols * table_block;
    const T* h = features.at(c) + path.feature_row * table_block;
    const T* g = grad.at(c);
    return {h + first * hs, h + second * hs, g + first * gs, g + second * gs};
  }

  template <bool full>
  void add_given(int64_t pair, int64_t c, int n, const T* k, Vector<T> (&sum)[rows * cols]) const {
    const GivenRadial<T, full> radial(a, index, c, n);
    const bool directed = a.weight_rows == 2 * a.n_pairs;
    const int64_t other = directed ? pair + a.n_pairs : pair;
    const T sign = path.odd ? T(-1) : T(1);
    const Vector<T> w1 = radial.value(int32_t(pair), nullptr);
    const Vector<T> w2 = radial.value(int32_t(other), nullptr) * sign;
    Vector<T> g1 = {}, g2 = {};
    const Ends x = ends(pair, c);
    LESFF_UNROLL
    for (int i = 0; i < rows; ++i) {
      const Vector<T> h1 = load<true>(x.h_first + i * table_block, 0);
      const Vector<T> h2 = load<true>(x.h_second + i * table_block, 0);
      const Vector<T> wh1 = w1 * h1, wh2 = w2 * h2;
      Vector<T> u1 = {}, u2 = {};
      LESFF_UNROLL
      for (int j = 0; j < cols; ++j) {
        const Vector<T> f1 = load<true>(x.g_second + j * table_block, 0);
        const Vector<T> f2 = load<true>(x.g_first + j * table_block, 0);
        u1 += k[i * cols + j] * f1;
        u2 += k[i * cols + j] * f2;
        sum[i * cols + j] += wh1 * f1 + wh2 * f2;
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

  void run_given(int64_t pair, int64_t c_begin, int64_t c_end, const T* k, T* out) const {
    constexpr int step = lanes<T>;
    Vector<T> sum[rows * cols] = {};
    int64_t c = c_begin;
    for (; c + step <= c_end; c += step) add_given<true>(pair, c, step, k, sum);
    if (c < c_end) add_given<false>(pair, c, int(c_end - c), k, sum);
    add_lane_sums<T, rows * cols>(sum, out);
  }

  // Table and packed rows are filled up with zeros: the last vector needs no care.
  void run_tabulated(int64_t pair, const Entry<T>& entry, int64_t c_begin, int64_t c_end, const T* k,
                     T* out) const {
    const T sign = path.odd ? T(-1) : T(1);
    const int64_t h_block = features.block(), g_block = grad.block();
    Ends x = ends(pair, c_begin);
    TabulatedRadial<T, true> radial(a, index, c_begin, 0);
    Vector<T> sum[rows * cols] = {};
    Vector<T> slope_sum = {};
    for (int64_t block = c_begin; block < c_end; block += table_block) {
      for (int c = 0; c < table_block; c += lanes<T>) {
        // registers are for the sums: instructions broadcast single values from memory
        const T* angular = in_memory(k);
        const Vector<T> w = radial.value(entry.row, entry.value, c);
        const Vector<T> slope = radial.value(entry.row, entry.slope, c);
        Vector<T> gr = {};
        LESFF_UNROLL
        for (int i = 0; i < rows; ++i) {
          const Vector<T> h1 = load<true>(x.h_first + i * table_block + c, 0);
          const Vector<T> h2 = load<true>(x.h_second + i * table_block + c, 0) * sign;
          LESFF_UNROLL
          for (int j = 0; j < cols; ++j) {
            const Vector<T> both = h1 * load<true>(x.g_second + j * table_block + c, 0) +
                                   h2 * load<true>(x.g_first + j * table_block + c, 0);
            gr += angular[i * cols + j] * both;
            sum[i * cols + j] += w * both;
          }
        }
        slope_sum += slope * gr;
      }
      x.h_first += h_block, x.h_second += h_block, x.g_first += g_block, x.g_second += g_block;
      radial.base += radial.block;
    }
    static_cast<T*>(a.grad_distance)[pair] += sum_lanes<T>(slope_sum) * T(a.table_inverse_step);
    add_lane_sums<T, rows * cols>(sum, out);
  }

  void run(const std::vector<Entry<T>>& entries, Range pairs, int64_t c_begin, int64_t c_end) const {
    T* grad_kernel = static_cast<T*>(a.grad_kernel) + path.kernel_col;
    const T* kernel = static_cast<const T*>(a.kernel) + path.kernel_col;
    for (int64_t pair = pairs.begin; pair < pairs.end; ++pair) {
      const T* k = kernel + pair * a.kernel_cols;
      T* out = grad_kernel + pair * a.kernel_cols;
      if (a.table)
        run_tabulated(pair, entries[pair], c_begin, c_end, k, out);
      else
        run_given(pair, c_begin, c_end, k, out);
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
    case 5: return with_cols<5>(path.cols, f);
    default: return with_cols<7>(path.cols, f);
  }
}

// All vectors of channels of one path. `source`: features, or the gradient of the path's message.
template <class T, template <class, bool> class Radial, bool backward>
void gather_path(const LesffConvolution& a, int index, const Edge<T>* edges,
                 const Packed<T>& source, Range nodes) {
  constexpr int step = lanes<T>;
  const LesffPath& path = a.paths[index];
  with_shape(path, [&](auto rows, auto cols) {
    auto run = [&](auto count, auto full, int64_t c, int n) {
      const int row = backward ? 0 : path.feature_row;
      const Pass<T, count, full, Radial> pass(a, index, c, n, source, row);
      if constexpr (backward)
        gather_features<T, rows, cols>(a, pass, edges, nodes);
      else
        gather_messages<T, rows, cols>(a, pass, edges, nodes);
    };
    using One = std::integral_constant<int, 1>;
    int64_t c = 0;
    for (; c + strip * step <= a.channels; c += strip * step)
      run(std::integral_constant<int, strip>(), std::true_type(), c, step);
    for (; c + step <= a.channels; c += step) run(One(), std::true_type(), c, step);
    if (c < a.channels) run(One(), std::false_type(), c, int(a.channels - c));
  });
}

// Edges that are finished, for all channels, before the next are begun: their indices and angular
// kernels then stay in the level-2 cache.
constexpr int64_t chunk_edges = 2048;

// Calls f(rows) for chunks of `total` rows that have n_edges edges together.
template <class F>
void for_chunks(const LesffConvolution& a, int64_t total, F&& f) {
  const int64_t parts = std::max<int64_t>(1, std::min(total, a.n_edges / chunk_edges));
#pragma omp parallel for schedule(static) num_threads(a.n_threads) if (a.n_threads > 1)
  for (int64_t part = 0; part < parts; ++part) f(part_of(total, parts, part));
}

template <class T, bool backward>
void gather(const LesffConvolution& a, int index, const std::vector<Edge<T>>& edges,
            const Packed<T>& source) {
  for_chunks(a, a.n_nodes, [&](Range nodes) {
    if (a.table)
      gather_path<T, TabulatedRadial, backward>(a, index, edges.data(), source, nodes);
    else
      gather_path<T, GivenRadial, backward>(a, index, edges.data(), source, nodes);
  });
}

template <class T>
void convolve(const LesffConvolution* arguments) {
  const LesffConvolution& a = *arguments;
  const std::vector<Edge<T>> edges = node_edges<T>(a, false);
  const Packed<T> features = packed_features<T>(a);
  for (int p = 0; p < a.n_paths; ++p) gather<T, false>(a, p, edges, features);
}

template <class T>
void pair_gradients(const LesffConvolution& a, int index, const std::vector<Entry<T>>& entries,
                    const Packed<T>& features, const Packed<T>& grad) {
  with_shape(a.paths[index], [&](auto rows, auto cols) {
    const PairGradient<T, rows, cols> gradient(a, index, features, grad);
    for_chunks(a, a.n_pairs, [&](Range pairs) {
      for (int64_t c = 0; c < a.channels; c += pair_channels)
        gradient.run(entries, pairs, c, std::min(c + pair_channels, a.channels));
    });
  });
}

// Outputs must be zero on entry, except grad_weights.
template <class T>
void convolve_backward(const LesffConvolution* arguments) {
  const LesffConvolution& a = *arguments;
  std::vector<Edge<T>> edges;
  if (a.grad_features) edges = node_edges<T>(a, true);
  std::vector<Entry<T>> entries;
  if (a.grad_kernel && a.table) entries = table_entries<T>(a);
  const Packed<T> features = packed_features<T>(a);
  for (int p = 0; p < a.n_paths; ++p) {
    const Packed<T> grad = packed_gradient<T>(a, a.paths[p]);
    if (a.grad_features) gather<T, true>(a, p, edges, grad);
    if (a.grad_kernel) pair_gradients<T>(a, p, entries, features, grad);
  }
}

}  // namespace LESFF_NAMESPACE
