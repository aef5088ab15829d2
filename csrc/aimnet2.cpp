// Message passes of AIMNet2, see lesff/architectures/aimnet2/messages.py: forward and first
// derivatives. Compiled once per instruction set like kernels.cpp.
#include "aimnet2.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "exponential.h"
#include "vectors.h"

namespace LESFF_NAMESPACE {

LesffPassKernels<float> float_pass_kernels();
LesffPassKernels<double> double_pass_kernels();

namespace {

// Radial functions are dealt with in blocks of sixteen.
constexpr int kBlock = 16;
template <class T>
constexpr int kParts = kBlock / lanes<T>;
// Rows of features whose sums are kept in registers at a time.
template <class T>
constexpr int kRows = (LESFF_VECTOR_BYTES == 64 ? 4 : 2) / kParts<T> > 0
                          ? (LESFF_VECTOR_BYTES == 64 ? 4 : 2) / kParts<T>
                          : 1;

template <class T>
struct Block {
  Vector<T> part[kParts<T>];
};

template <class T>
inline Block<T> load_block(const T* p) {
  Block<T> b;
  LESFF_UNROLL
  for (int k = 0; k < kParts<T>; ++k) b.part[k] = load<true>(p + k * lanes<T>, lanes<T>);
  return b;
}
template <class T>
inline void store_block(T* p, const Block<T>& b) {
  LESFF_UNROLL
  for (int k = 0; k < kParts<T>; ++k) store<true>(p + k * lanes<T>, b.part[k], lanes<T>);
}
template <class T>
inline Block<T> splat_block(T x) {
  Block<T> b;
  LESFF_UNROLL
  for (int k = 0; k < kParts<T>; ++k) b.part[k] = splat(x);
  return b;
}
// total += a b
template <class T>
inline void add_product(Block<T>& total, const Block<T>& a, const Block<T>& b) {
  LESFF_UNROLL
  for (int k = 0; k < kParts<T>; ++k) total.part[k] += a.part[k] * b.part[k];
}
template <class T>
inline Block<T> times(const Block<T>& a, T x) {
  Block<T> b;
  LESFF_UNROLL
  for (int k = 0; k < kParts<T>; ++k) b.part[k] = a.part[k] * splat(x);
  return b;
}
template <class T>
inline T sum_block(const Block<T>& a) {
  Vector<T> total = a.part[0];
  LESFF_UNROLL
  for (int k = 1; k < kParts<T>; ++k) total += a.part[k];
  return sum_lanes<T>(total);
}

// (1 + cos(pi x)) / 2 and its derivative by r, zero from the cutoff on.
struct Envelope {
  double value, slope;
};
inline Envelope envelope(double r, double cutoff) {
  if (r >= cutoff) return {0.0, 0.0};
  const double angle = M_PI * r / cutoff;
  return {0.5 * std::cos(angle) + 0.5, -0.5 * M_PI / cutoff * std::sin(angle)};
}

template <class T>
void shells(const LesffShells* p) {
  const LesffShells& a = *p;
  const T* vectors = static_cast<const T*>(a.vectors);
  T *distance = static_cast<T*>(a.distance), *units = static_cast<T*>(a.units);
  const std::vector<T> centers(a.centers, a.centers + a.n_radial);
  const T exponent = T(a.exponent);
#pragma omp parallel for schedule(static) num_threads(a.n_threads) if (a.n_threads > 1)
  for (int64_t k = 0; k < a.n_pairs; ++k) {
    const T* v = vectors + 3 * k;
    const T r = std::sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]), inverse = T(-1) / r;
    distance[k] = r;
    for (int i = 0; i < 3; ++i) units[3 * k + i] = v[i] * inverse;
    const T factor = T(envelope(r, a.cutoff).value);
    T* out = static_cast<T*>(a.shells) + k * a.n_radial;
    for (int64_t g = 0; g < a.n_radial; ++g) {
      const T away = r - centers[g];
      out[g] = factor * exponential(-exponent * away * away);
    }
  }
}

template <class T>
void shells_backward(const LesffShells* p) {
  const LesffShells& a = *p;
  const T* vectors = static_cast<const T*>(a.vectors);
  const T *by_distance = static_cast<const T*>(a.grad_distance),
          *by_units = static_cast<const T*>(a.grad_units);
  const std::vector<T> centers(a.centers, a.centers + a.n_radial);
  const T exponent = T(a.exponent);
#pragma omp parallel for schedule(static) num_threads(a.n_threads) if (a.n_threads > 1)
  for (int64_t k = 0; k < a.n_pairs; ++k) {
    const T *v = vectors + 3 * k, *u = by_units + 3 * k;
    const T* grad = static_cast<const T*>(a.grad_shells) + k * a.n_radial;
    const T r = std::sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]), inverse = T(1) / r;
    const Envelope e = envelope(r, a.cutoff);
    const T factor = T(e.value), slope = T(e.slope), twice = T(-2) * exponent * factor;
    // lanes of one sum each, added pairwise
    T total[kBlock] = {};
    for (int64_t start = 0; start < a.n_radial; start += kBlock)
      for (int l = 0; l < std::min<int64_t>(kBlock, a.n_radial - start); ++l) {
        const T away = r - centers[start + l];
        total[l] += grad[start + l] * exponential(-exponent * away * away) * (slope + twice * away);
      }
    for (int width = kBlock / 2; width > 0; width /= 2)
      for (int l = 0; l < width; ++l) total[l] += total[l + width];
    // u = -v / r: dL/dv = dL/dr v / r - [dL/du - (dL/du . v) v / r^2] / r
    const T along = (u[0] * v[0] + u[1] * v[1] + u[2] * v[2]) * inverse * inverse;
    const T radial = (by_distance[k] + total[0]) * inverse;
    for (int i = 0; i < 3; ++i)
      static_cast<T*>(a.grad_vectors)[3 * k + i] = radial * v[i] - (u[i] - along * v[i]) * inverse;
  }
}

// Rows of `n` numbers with zeros behind them up to `padded`, if there are to be any.
template <class T>
class Padded {
 public:
  Padded(const void* rows, int64_t count, int64_t n, int64_t padded)
      : data_(static_cast<const T*>(rows)) {
    if (n == padded) return;
    own_.assign(count * padded, T(0));
    for (int64_t k = 0; k < count; ++k)
      std::memcpy(own_.data() + k * padded, data_ + k * n, n * sizeof(T));
    data_ = own_.data();
  }
  Padded(const Padded&) = delete;
  const T* data() const { return data_; }

 private:
  std::vector<T> own_;
  const T* data_;
};

// Sizes and typed arrays of a pass. In memory G is the padded number of radial functions, and their
// number only in rows of the inputs.
template <class T>
struct Pass {
  explicit Pass(const LesffPass& p)
      : a(p), has_charges(p.charges != nullptr), n_radial(p.n_radial), G(p.padded_radial),
        H(p.n_vectors), padded(p.padded), rows(p.n_features + has_charges),
        channels(p.n_features * p.n_radial), stride(p.n_features * G),
        padded_features(p.features, p.n_nodes * p.n_features, n_radial, G),
        padded_shells(p.shells, p.n_pairs, n_radial, G), features(padded_features.data()),
        charges(static_cast<const T*>(p.charges)), shells(padded_shells.data()),
        units(static_cast<const T*>(p.units)) {}

  // Column of the inputs where the scalars and the norms of a row begin.
  int64_t scalars(int64_t row) const {
    return row < a.n_features ? channels + row * n_radial : charge_column() + 1;
  }
  int64_t norms(int64_t row) const {
    return row < a.n_features ? 2 * channels + row * H : charge_column() + 1 + n_radial;
  }
  int64_t charge_column() const { return 2 * channels + a.n_features * H; }
  const T* weight(int64_t row) const {
    return row < a.n_features ? static_cast<const T*>(a.weight) + row * n_radial * H
                              : static_cast<const T*>(a.charge_weight);
  }

  const LesffPass& a;
  bool has_charges;
  int64_t n_radial, G, H, padded, rows, channels, stride;
  Padded<T> padded_features, padded_shells;
  const T *features, *charges, *shells, *units;
};

// Sums over the edges of a receiver of rows of features times the edges' four factors.
template <class T, int R>
inline void sum_edges(const Pass<T>& s, const int32_t* sender, int64_t n_edges, const T* factors,
                      int64_t row, int64_t start, T* sums) {
  Block<T> total[R][4] = {};
  for (int64_t e = 0; e < n_edges; ++e) {
    const T* x = s.features + sender[e] * s.stride + row * s.G + start;
    Block<T> factor[4];
    LESFF_UNROLL
    for (int d = 0; d < 4; ++d) factor[d] = load_block(factors + (4 * e + d) * s.G + start);
    LESFF_UNROLL
    for (int r = 0; r < R; ++r) {
      const Block<T> sent = load_block(x + r * s.G);
      LESFF_UNROLL
      for (int d = 0; d < 4; ++d) add_product(total[r][d], sent, factor[d]);
    }
  }
  LESFF_UNROLL
  for (int r = 0; r < R; ++r) {
    LESFF_UNROLL
    for (int d = 0; d < 4; ++d) store_block(sums + (4 * (row + r) + d) * s.G + start, total[r][d]);
  }
}

template <class T>
inline void sum_charges(const Pass<T>& s, const int32_t* sender, int64_t n_edges, const T* factors,
                        int64_t start, T* sums) {
  Block<T> total[4] = {};
  for (int64_t e = 0; e < n_edges; ++e) {
    const Block<T> sent = splat_block(s.charges[sender[e]]);
    LESFF_UNROLL
    for (int d = 0; d < 4; ++d)
      add_product(total[d], sent, load_block(factors + (4 * e + d) * s.G + start));
  }
  LESFF_UNROLL
  for (int d = 0; d < 4; ++d)
    store_block(sums + (4 * s.a.n_features + d) * s.G + start, total[d]);
}

template <class T>
void pass(const LesffPass* p) {
  const LesffPass& a = *p;
  const Pass<T> s(a);
  const int64_t G = s.G, H = s.H, padded = s.padded;
  // W[row, g, h], h up to a full block
  std::vector<T> weight(s.rows * G * padded, T(0));
  for (int64_t row = 0; row < s.rows; ++row)
    for (int64_t g = 0; g < s.n_radial; ++g)
      for (int64_t h = 0; h < H; ++h) weight[(row * G + g) * padded + h] = s.weight(row)[g * H + h];
#pragma omp parallel num_threads(a.n_threads) if (a.n_threads > 1)
  {
    std::vector<T> factors;
#pragma omp for schedule(static)
    for (int64_t n = 0; n < a.n_nodes; ++n) {
      const int64_t begin = a.node_start[n], count = a.node_start[n + 1] - begin;
      const int32_t* sender = a.edge_sender + begin;
      if (int64_t(factors.size()) < 4 * G * count) factors.resize(4 * G * count);
      // f_g (1, x, y, z)
      for (int64_t e = 0; e < count; ++e) {
        const int64_t pair = a.edge_pair[begin + e];
        const T sign = T(a.edge_sign[begin + e]);
        for (int64_t start = 0; start < G; start += kBlock) {
          const Block<T> f = load_block(s.shells + pair * G + start);
          T* out = factors.data() + 4 * e * G + start;
          store_block(out, f);
          for (int d = 0; d < 3; ++d)
            store_block(out + (d + 1) * G, times(f, sign * s.units[3 * pair + d]));
        }
      }
      T* sums = static_cast<T*>(a.sums) + n * s.rows * 4 * G;
      for (int64_t start = 0; start < G; start += kBlock) {
        int64_t row = 0;
        for (; row + kRows<T> <= a.n_features; row += kRows<T>)
          sum_edges<T, kRows<T>>(s, sender, count, factors.data(), row, start, sums);
        for (; row < a.n_features; ++row)
          sum_edges<T, 1>(s, sender, count, factors.data(), row, start, sums);
        if (s.has_charges) sum_charges(s, sender, count, factors.data(), start, sums);
      }
      // v[row, d, h] = sum_g S[row, d, g] W[row, g, h], and the row of inputs
      T* out = static_cast<T*>(a.inputs) + n * a.width;
      T* vectors = static_cast<T*>(a.vectors) + n * s.rows * 3 * padded;
      std::memcpy(out, static_cast<const T*>(a.features) + n * s.channels, s.channels * sizeof(T));
      if (s.has_charges) out[s.charge_column()] = s.charges[n];
      for (int64_t row = 0; row < s.rows; ++row) {
        const T* sum = sums + row * 4 * G;
        std::memcpy(out + s.scalars(row), sum, s.n_radial * sizeof(T));
        for (int64_t start = 0; start < padded; start += kBlock) {
          Block<T> total[3] = {};
          const T* w = weight.data() + row * G * padded + start;
          for (int64_t g = 0; g < G; ++g) {
            const Block<T> mix = load_block(w + g * padded);
            LESFF_UNROLL
            for (int d = 0; d < 3; ++d) add_product(total[d], splat_block(sum[(d + 1) * G + g]), mix);
          }
          Block<T> norm = {};
          T* vector = vectors + row * 3 * padded + start;
          LESFF_UNROLL
          for (int d = 0; d < 3; ++d) {
            store_block(vector + d * padded, total[d]);
            add_product(norm, total[d], total[d]);
          }
          T values[kBlock];
          store_block(values, norm);
          const int64_t left = H - start < kBlock ? H - start : kBlock;
          std::memcpy(out + s.norms(row) + start, values, left * sizeof(T));
        }
      }
    }
  }
}

template <class T>
void pass_backward(const LesffPass* p) {
  const LesffPass& a = *p;
  const Pass<T> s(a);
  const int64_t G = s.G, H = s.H, padded = s.padded;
  const T* grad_inputs = static_cast<const T*>(a.grad_inputs);
  T* grad_sums = static_cast<T*>(a.grad_sums);
  // W[row, h, g]
  std::vector<T> weight(s.rows * G * H, T(0));
  for (int64_t row = 0; row < s.rows; ++row)
    for (int64_t g = 0; g < s.n_radial; ++g)
      for (int64_t h = 0; h < H; ++h) weight[(row * H + h) * G + g] = s.weight(row)[g * H + h];
#pragma omp parallel for schedule(static) num_threads(a.n_threads) if (a.n_threads > 1)
  for (int64_t n = 0; n < a.n_nodes; ++n) {
    const T* grad = grad_inputs + n * a.width;
    const T* vectors = static_cast<const T*>(a.vectors) + n * s.rows * 3 * padded;
    for (int64_t row = 0; row < s.rows; ++row) {
      T* out = grad_sums + (n * s.rows + row) * 4 * G;
      std::memcpy(out, grad + s.scalars(row), s.n_radial * sizeof(T));
      std::fill(out + s.n_radial, out + G, T(0));
      // dL/dS[d, g] = sum_h 2 v[d, h] dL/d|v|^2[h] W[g, h]
      const T *norms = grad + s.norms(row), *vector = vectors + row * 3 * padded;
      for (int64_t start = 0; start < G; start += kBlock) {
        Block<T> total[3] = {};
        for (int64_t h = 0; h < H; ++h) {
          const Block<T> mix = load_block(weight.data() + (row * H + h) * G + start);
          const T twice = T(2) * norms[h];
          LESFF_UNROLL
          for (int d = 0; d < 3; ++d)
            add_product(total[d], splat_block(twice * vector[d * padded + h]), mix);
        }
        LESFF_UNROLL
        for (int d = 0; d < 3; ++d) store_block(out + (d + 1) * G + start, total[d]);
      }
    }
  }
  // what each node sent to each of its neighbours m: edges are the same in both directions
  T *grad_shells = static_cast<T*>(a.grad_shells), *grad_units = static_cast<T*>(a.grad_units);
#pragma omp parallel for schedule(static) num_threads(a.n_threads) if (a.n_threads > 1)
  for (int64_t n = 0; n < a.n_nodes; ++n) {
    const T* own = s.features + n * s.stride;
    // in padded rows; at the end those of the inputs themselves are added
    std::vector<T> sent(s.stride, T(0));
    T* out = sent.data();
    T of_charge = s.has_charges ? grad_inputs[n * a.width + s.charge_column()] : T(0);
    for (int64_t e = a.node_start[n]; e < a.node_start[n + 1]; ++e) {
      const int64_t pair = a.edge_pair[e];
      // unit vector from m to n, where n sends and m receives
      const T sign = T(-a.edge_sign[e]);
      const T* received = grad_sums + int64_t(a.edge_sender[e]) * s.rows * 4 * G;
      const int64_t place = pair + (a.edge_sign[e] < 0 ? a.n_pairs : 0);
      Block<T> along[3] = {};
      for (int64_t start = 0; start < G; start += kBlock) {
        const Block<T> f = load_block(s.shells + pair * G + start);
        Block<T> unit[3], factor[3], total[4] = {};
        LESFF_UNROLL
        for (int d = 0; d < 3; ++d) {
          unit[d] = splat_block(sign * s.units[3 * pair + d]);
          factor[d] = times(f, sign * s.units[3 * pair + d]);
        }
        const auto add_row = [&](const Block<T>& x, const T* g, Block<T>& back) {
          const Block<T> scalar = load_block(g);
          add_product(total[0], x, scalar);
          add_product(back, f, scalar);
          LESFF_UNROLL
          for (int d = 0; d < 3; ++d) {
            const Block<T> vector = load_block(g + (d + 1) * G);
            add_product(total[d + 1], x, vector);
            add_product(back, factor[d], vector);
          }
        };
        for (int64_t row = 0; row < a.n_features; ++row) {
          Block<T> back = load_block(out + row * G + start);
          add_row(load_block(own + row * G + start), received + 4 * row * G + start, back);
          store_block(out + row * G + start, back);
        }
        if (s.has_charges) {
          Block<T> back = {};
          add_row(splat_block(s.charges[n]), received + 4 * a.n_features * G + start, back);
          of_charge += sum_block(back);
        }
        LESFF_UNROLL
        for (int d = 0; d < 3; ++d) {
          add_product(total[0], unit[d], total[d + 1]);
          add_product(along[d], f, total[d + 1]);
        }
        store_block(grad_shells + place * G + start, total[0]);
      }
      for (int d = 0; d < 3; ++d) grad_units[3 * place + d] = sign * sum_block(along[d]);
    }
    T* result = static_cast<T*>(a.grad_features) + n * s.channels;
    const T* direct = grad_inputs + n * a.width;
    for (int64_t row = 0; row < a.n_features; ++row)
      for (int64_t g = 0; g < s.n_radial; ++g)
        result[row * s.n_radial + g] = direct[row * s.n_radial + g] + out[row * G + g];
    if (s.has_charges) static_cast<T*>(a.grad_charges)[n] = of_charge;
  }
  // both directions of a pair
  for (int64_t k = 0; k < a.n_pairs * G; ++k) grad_shells[k] += grad_shells[a.n_pairs * G + k];
  for (int64_t k = 0; k < a.n_pairs * 3; ++k) grad_units[k] += grad_units[a.n_pairs * 3 + k];
}

template <class T>
void onset(const LesffOnset* p) {
  const LesffOnset& a = *p;
  const T *charges = static_cast<const T*>(a.charges), *distance = static_cast<const T*>(a.distance);
  double *energy = a.work, *potential = a.work + a.n_systems;
  std::memset(a.work, 0, (a.n_systems + a.n_atoms) * sizeof(double));
  for (int64_t k = 0; k < a.n_pairs; ++k) {
    const double r = distance[k], x = r / a.end;
    double f = 0.0, slope = 0.0;
    if (x < 1.0 - 1e-6) {
      const double inverse = 1.0 / (1.0 - x * x);
      f = exponential(1.0 - inverse);
      slope = -f * 2.0 * x / a.end * inverse * inverse;
    }
    const double kernel = (std::erfc(a.rate * r) - f) / r;
    const double decay = 2.0 * a.rate / std::sqrt(M_PI) * exponential(-a.rate * a.rate * r * r);
    const double by_distance = -(decay + slope + kernel) / r;
    const int64_t i = a.first[k], j = a.second[k];
    const double qi = charges[i], qj = charges[j];
    energy[a.batch[i]] += a.constant * qi * qj * kernel;
    potential[i] += a.constant * qj * kernel;
    potential[j] += a.constant * qi * kernel;
    static_cast<T*>(a.slope)[k] = T(a.constant * qi * qj * by_distance);
  }
  for (int64_t s = 0; s < a.n_systems; ++s) static_cast<T*>(a.energy)[s] = T(energy[s]);
  for (int64_t i = 0; i < a.n_atoms; ++i) static_cast<T*>(a.potential)[i] = T(potential[i]);
}

}  // namespace

LesffPassKernels<float> float_pass_kernels() {
  return {shells<float>, shells_backward<float>, pass<float>, pass_backward<float>,
          onset<float>};
}
LesffPassKernels<double> double_pass_kernels() {
  return {shells<double>, shells_backward<double>, pass<double>, pass_backward<double>,
          onset<double>};
}

}  // namespace LESFF_NAMESPACE
