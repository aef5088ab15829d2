// A recorded step: operations on fixed memory one after the other, see lesff/kernels/program.py.
// Compiled once per instruction set like kernels.cpp.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "exponential.h"
#include "program.h"
#include "vectors.h"

namespace LESFF_NAMESPACE {

void program(int isa, const LesffProgram* a);

namespace {

template <class T>
inline T sigmoid(T x) {
  return T(1) / (T(1) + exponential(-x));
}

template <class T>
inline T power(T x, int n) {
  T result = 1;
  for (int i = 0; i < n; ++i) result *= x;
  return result;
}

// Calls row(out, a, b, n) for each innermost row of four dimensions.
template <class Row>
inline void each_row(const LesffInstruction& x, int64_t bytes_out, int64_t bytes_a, int64_t bytes_b,
                     Row row) {
  for (int64_t i = 0; i < x.sizes[0]; ++i)
    for (int64_t j = 0; j < x.sizes[1]; ++j)
      for (int64_t k = 0; k < x.sizes[2]; ++k) {
        const auto at = [&](const int64_t* s) { return i * s[0] + j * s[1] + k * s[2]; };
        row(static_cast<char*>(x.out) + bytes_out * at(x.out_strides),
            static_cast<const char*>(x.a) + bytes_a * at(x.a_strides),
            static_cast<const char*>(x.b) + bytes_b * at(x.b_strides));
      }
}

template <class Out, class A, class F>
inline void unary(const LesffInstruction& x, F f) {
  const int64_t n = x.sizes[3], so = x.out_strides[3], sa = x.a_strides[3];
  each_row(x, sizeof(Out), sizeof(A), 0, [&](char* o, const char* p, const char*) {
    Out* __restrict out = reinterpret_cast<Out*>(o);
    const A* __restrict a = reinterpret_cast<const A*>(p);
    if (so == 1 && sa == 1)
      for (int64_t l = 0; l < n; ++l) out[l] = f(a[l]);
    else
      for (int64_t l = 0; l < n; ++l) out[l * so] = f(a[l * sa]);
  });
}

template <class Out, class T, class F>
inline void binary(const LesffInstruction& x, F f) {
  const int64_t n = x.sizes[3];
  const int64_t so = x.out_strides[3], sa = x.a_strides[3], sb = x.b_strides[3];
  each_row(x, sizeof(Out), sizeof(T), sizeof(T), [&](char* o, const char* p, const char* q) {
    Out* __restrict out = reinterpret_cast<Out*>(o);
    const T* __restrict a = reinterpret_cast<const T*>(p);
    const T* __restrict b = reinterpret_cast<const T*>(q);
    if (so == 1 && sa == 1 && sb == 1) {
      for (int64_t l = 0; l < n; ++l) out[l] = f(a[l], b[l]);
    } else if (so == 1 && sa == 1 && sb == 0) {
      const T y = *b;
      for (int64_t l = 0; l < n; ++l) out[l] = f(a[l], y);
    } else if (so == 1 && sa == 0 && sb == 1) {
      const T y = *a;
      for (int64_t l = 0; l < n; ++l) out[l] = f(y, b[l]);
    } else {
      for (int64_t l = 0; l < n; ++l) out[l * so] = f(a[l * sa], b[l * sb]);
    }
  });
}

// Sums over the last two dimensions, in double precision.
template <class T>
inline void sum(const LesffInstruction& x) {
  for (int64_t i = 0; i < x.sizes[0]; ++i)
    for (int64_t j = 0; j < x.sizes[1]; ++j) {
      const T* a = static_cast<const T*>(x.a) + i * x.a_strides[0] + j * x.a_strides[1];
      double total = 0.0;
      for (int64_t k = 0; k < x.sizes[2]; ++k)
        for (int64_t l = 0; l < x.sizes[3]; ++l)
          total += a[k * x.a_strides[2] + l * x.a_strides[3]];
      static_cast<T*>(x.out)[i * x.out_strides[0] + j * x.out_strides[1]] = T(total);
    }
}

// out[i] = a[index[i]] (gather), out[index[i]] = b[i] (copy) or += b[i], rows of sizes[1] numbers.
template <class T>
inline void gather_rows(const LesffInstruction& x) {
  const int64_t n = x.sizes[1];
  for (int64_t i = 0; i < x.sizes[0]; ++i)
    std::memcpy(static_cast<T*>(x.out) + i * n,
                static_cast<const T*>(x.a) + x.index[i] * x.a_strides[0], n * sizeof(T));
}
template <class T, bool add>
inline void scatter_rows(const LesffInstruction& x) {
  const int64_t n = x.sizes[1];
  for (int64_t i = 0; i < x.sizes[0]; ++i) {
    T* __restrict out = static_cast<T*>(x.out) + x.index[i] * n;
    const T* __restrict b = static_cast<const T*>(x.b) + i * x.b_strides[0];
    const int64_t step = x.b_strides[1];
    for (int64_t k = 0; k < n; ++k) out[k] = add ? out[k] + b[k * step] : b[k * step];
  }
}

// rows x vectors of the product, kept in registers.
template <class T, int rows, int vectors, bool full>
inline void tile(const LesffInstruction& x, int64_t row, int64_t col, int last) {
  constexpr int width = lanes<T>;
  const int64_t m0 = x.a_strides[0], m1 = x.a_strides[1], depth = x.sizes[2];
  const T* a = static_cast<const T*>(x.a) + row * m0;
  const T* b = static_cast<const T*>(x.b) + col;
  Vector<T> total[rows][vectors] = {};
  for (int64_t k = 0; k < depth; ++k) {
    Vector<T> right[vectors];
    LESFF_UNROLL
    for (int v = 0; v < vectors; ++v) {
      if (full || v + 1 < vectors)
        right[v] = load<true>(b + k * x.b_strides[0] + v * width, width);
      else
        right[v] = load<false>(b + k * x.b_strides[0] + v * width, last);
    }
    LESFF_UNROLL
    for (int r = 0; r < rows; ++r) {
      const Vector<T> left = splat(a[r * m0 + k * m1]);
      LESFF_UNROLL
      for (int v = 0; v < vectors; ++v) total[r][v] += left * right[v];
    }
  }
  T* out = static_cast<T*>(x.out) + row * x.out_strides[0] + col;
  LESFF_UNROLL
  for (int r = 0; r < rows; ++r) {
    LESFF_UNROLL
    for (int v = 0; v < vectors; ++v) {
      T* place = out + r * x.out_strides[0] + v * width;
      if (full || v + 1 < vectors)
        store<true>(place, total[r][v], width);
      else
        store<false>(place, total[r][v], last);
    }
  }
}

template <class T, int vectors, bool full>
inline void columns(const LesffInstruction& x, int64_t col, int last) {
  constexpr int rows = vectors > 2 ? 4 : 6;
  int64_t row = 0;
  for (; row + rows <= x.sizes[0]; row += rows) tile<T, rows, vectors, full>(x, row, col, last);
  for (; row + 2 <= x.sizes[0]; row += 2) tile<T, 2, vectors, full>(x, row, col, last);
  for (; row < x.sizes[0]; ++row) tile<T, 1, vectors, full>(x, row, col, last);
}

// out (m, n) = a (m, k) b (k, n): out and b have unit strides along n, a has any.
template <class T>
void product(const LesffInstruction& x) {
  constexpr int width = lanes<T>;
  const int64_t n = x.sizes[1];
  if (n == 1 && x.a_strides[1] == 1 && x.b_strides[0] == 1) {
    const int64_t depth = x.sizes[2];
    for (int64_t i = 0; i < x.sizes[0]; ++i) {
      const T* a = static_cast<const T*>(x.a) + i * x.a_strides[0];
      const T* b = static_cast<const T*>(x.b);
      Vector<T> total{};
      int64_t k = 0;
      for (; k + width <= depth; k += width)
        total += load<true>(a + k, width) * load<true>(b + k, width);
      if (k < depth) total += load<false>(a + k, int(depth - k)) * load<false>(b + k, int(depth - k));
      static_cast<T*>(x.out)[i * x.out_strides[0]] = sum_lanes<T>(total);
    }
    return;
  }
  int64_t col = 0;
  for (; col + 4 * width <= n; col += 4 * width) columns<T, 4, true>(x, col, width);
  for (; col + 2 * width <= n; col += 2 * width) columns<T, 2, true>(x, col, width);
  for (; col + width <= n; col += width) columns<T, 1, true>(x, col, width);
  if (col < n) columns<T, 1, false>(x, col, int(n - col));
}

// Products of many small matrices: sizes are (batch, m, n, k), strides (batch, row, column).
template <class T>
void small_products(const LesffInstruction& x) {
  const int64_t m = x.sizes[1], n = x.sizes[2], depth = x.sizes[3];
  for (int64_t s = 0; s < x.sizes[0]; ++s)
    for (int64_t i = 0; i < m; ++i) {
      T* __restrict out = static_cast<T*>(x.out) + s * x.out_strides[0] + i * x.out_strides[1];
      const T* a = static_cast<const T*>(x.a) + s * x.a_strides[0] + i * x.a_strides[1];
      const T* b = static_cast<const T*>(x.b) + s * x.b_strides[0];
      const int64_t so = x.out_strides[2], sk = x.b_strides[1], sn = x.b_strides[2];
      for (int64_t j = 0; j < n; ++j) out[j * so] = T(0);
      for (int64_t k = 0; k < depth; ++k) {
        const T left = a[k * x.a_strides[2]];
        const T* __restrict right = b + k * sk;
        if (so == 1 && sn == 1)
          for (int64_t j = 0; j < n; ++j) out[j] += left * right[j];
        else
          for (int64_t j = 0; j < n; ++j) out[j * so] += left * right[j * sn];
      }
    }
}

// Cross products of rows: strides are (row, component).
template <class T>
void cross_products(const LesffInstruction& x) {
  for (int64_t i = 0; i < x.sizes[0]; ++i) {
    T* out = static_cast<T*>(x.out) + i * x.out_strides[0];
    const T* a = static_cast<const T*>(x.a) + i * x.a_strides[0];
    const T* b = static_cast<const T*>(x.b) + i * x.b_strides[0];
    const int64_t sa = x.a_strides[1], sb = x.b_strides[1];
    for (int d = 0; d < 3; ++d) {
      const int e = (d + 1) % 3, f = (d + 2) % 3;
      out[d * x.out_strides[1]] = a[e * sa] * b[f * sb] - a[f * sa] * b[e * sb];
    }
  }
}

// Products of complex numbers; sizes and strides count those. The scalar says whose conjugates are
// taken: 1 of the first, 2 of the second, 3 of both.
template <class T>
void complex_products(const LesffInstruction& x) {
  struct Pair {
    T real, imag;
  };
  const T first = int(x.scalar) & 1 ? T(-1) : T(1), second = int(x.scalar) & 2 ? T(-1) : T(1);
  binary<Pair, Pair>(x, [=](const Pair& a, const Pair& b) {
    const T p = first * a.imag, q = second * b.imag;
    return Pair{a.real * b.real - p * q, a.real * q + p * b.real};
  });
}

// out = a where b holds, and stays what it is elsewhere.
template <class T>
void choose_where(const LesffInstruction& x) {
  const int64_t n = x.sizes[3];
  const int64_t so = x.out_strides[3], sa = x.a_strides[3], sb = x.b_strides[3];
  each_row(x, sizeof(T), sizeof(T), 1, [&](char* o, const char* p, const char* q) {
    T* __restrict out = reinterpret_cast<T*>(o);
    const T* __restrict a = reinterpret_cast<const T*>(p);
    const uint8_t* __restrict holds = reinterpret_cast<const uint8_t*>(q);
    for (int64_t l = 0; l < n; ++l) out[l * so] = holds[l * sb] ? a[l * sa] : out[l * so];
  });
}

enum Code {
  kernel,
  zero,
  copy,
  add,
  subtract,
  multiply,
  divide,
  negate,
  sine,
  cosine,
  silu,
  silu_backward,
  softplus,
  softplus_backward,
  raise,
  less,
  greater,
  matrix,
  gather,
  scatter_copy,
  scatter_add,
  total,
  square_root,
  reciprocal,
  exponent,
  tangent,
  absolute,
  at_least,
  at_most,
  less_equal,
  greater_equal,
  both,
  choose,
  power_of,
  sign,
  nearest,
  error_complement,
  complex_multiply,
  matrices,
  cross,
};

template <class T>
void convert(const LesffInstruction& x) {
  const auto f = [](auto y) { return T(y); };
  if (x.type_from == 0)
    unary<T, float>(x, f);
  else if (x.type_from == 1)
    unary<T, double>(x, f);
  else if (x.type_from == 2)
    unary<T, uint8_t>(x, f);
  else
    unary<T, int64_t>(x, f);
}

template <class T>
void run(const LesffInstruction& x) {
  const int exponent_of = int(x.scalar);
  const T bound = T(x.scalar);
  switch (x.code) {
    case zero: std::memset(x.out, 0, x.sizes[0]); break;
    case copy: convert<T>(x); break;
    case add: binary<T, T>(x, [](T a, T b) { return a + b; }); break;
    case subtract: binary<T, T>(x, [](T a, T b) { return a - b; }); break;
    case multiply: binary<T, T>(x, [](T a, T b) { return a * b; }); break;
    case divide: binary<T, T>(x, [](T a, T b) { return a / b; }); break;
    case negate: unary<T, T>(x, [](T a) { return -a; }); break;
    case sine: unary<T, T>(x, [](T a) { return std::sin(a); }); break;
    case cosine: unary<T, T>(x, [](T a) { return std::cos(a); }); break;
    case silu: unary<T, T>(x, [](T a) { return a * sigmoid(a); }); break;
    case silu_backward:
      binary<T, T>(x, [](T g, T a) {
        const T s = sigmoid(a);
        return g * s * (T(1) + a * (T(1) - s));
      });
      break;
    case softplus:
      unary<T, T>(x, [](T a) { return a > T(20) ? a : std::log1p(std::exp(a)); });
      break;
    case softplus_backward:
      binary<T, T>(x, [](T g, T a) { return a > T(20) ? g : g * (T(1) / (T(1) + std::exp(-a))); });
      break;
    case raise: unary<T, T>(x, [=](T a) { return power(a, exponent_of); }); break;
    case less: binary<uint8_t, T>(x, [](T a, T b) { return uint8_t(a < b); }); break;
    case greater: binary<uint8_t, T>(x, [](T a, T b) { return uint8_t(a > b); }); break;
    case matrix: product<T>(x); break;
    case gather: gather_rows<T>(x); break;
    case scatter_copy: scatter_rows<T, false>(x); break;
    case scatter_add: scatter_rows<T, true>(x); break;
    case total: sum<T>(x); break;
    case square_root: unary<T, T>(x, [](T a) { return std::sqrt(a); }); break;
    case reciprocal: unary<T, T>(x, [](T a) { return T(1) / a; }); break;
    case exponent: unary<T, T>(x, [](T a) { return std::exp(a); }); break;
    case tangent: unary<T, T>(x, [](T a) { return std::tanh(a); }); break;
    case absolute: unary<T, T>(x, [](T a) { return std::fabs(a); }); break;
    case at_least: unary<T, T>(x, [=](T a) { return a < bound ? bound : a; }); break;
    case less_equal: binary<uint8_t, T>(x, [](T a, T b) { return uint8_t(a <= b); }); break;
    case greater_equal: binary<uint8_t, T>(x, [](T a, T b) { return uint8_t(a >= b); }); break;
    case both:
      binary<uint8_t, uint8_t>(x, [](uint8_t a, uint8_t b) { return uint8_t(a && b); });
      break;
    case choose: choose_where<T>(x); break;
    case power_of: unary<T, T>(x, [=](T a) { return std::pow(a, bound); }); break;
    case sign: unary<T, T>(x, [](T a) { return T(a > T(0)) - T(a < T(0)); }); break;
    case nearest: unary<T, T>(x, [](T a) { return std::nearbyint(a); }); break;
    case error_complement: unary<T, T>(x, [](T a) { return std::erfc(a); }); break;
    case complex_multiply: complex_products<T>(x); break;
    case matrices: small_products<T>(x); break;
    case cross: cross_products<T>(x); break;
    case at_most: unary<T, T>(x, [=](T a) { return a > bound ? bound : a; }); break;
  }
}

}  // namespace

void program(int isa, const LesffProgram* a) {
  using Entry = void (*)(int, int, const void*);
  for (int64_t i = 0; i < a->n_instructions; ++i) {
    const LesffInstruction& x = a->instructions[i];
    if (x.code == kernel)
      reinterpret_cast<Entry>(x.out)(isa, x.type, x.a);
    else if (x.type == 1)
      run<double>(x);
    else
      run<float>(x);
  }
}

}  // namespace LESFF_NAMESPACE
