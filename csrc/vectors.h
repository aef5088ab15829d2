// Native SIMD vectors by the compilers' vector extension (GCC and Clang).
//
// LESFF_VECTOR_BYTES is the register width of the instruction set that this translation unit is
// compiled for. Everything lives in a namespace of its own per instruction set: templates of the
// same name compiled with other flags must not be merged by the linker.
#pragma once
#include <cstdint>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>

// In front of short loops with constant bounds whose arrays must live in registers.
#if defined(__clang__)
#define LESFF_UNROLL _Pragma("clang loop unroll(full)")
#else
#define LESFF_UNROLL _Pragma("GCC unroll 64")
#endif

namespace LESFF_NAMESPACE {

template <class T, int bytes>
struct VectorOf {
  typedef T type __attribute__((vector_size(bytes)));
};
template <class T>
using Vector = typename VectorOf<T, LESFF_VECTOR_BYTES>::type;
template <class T>
constexpr int lanes = LESFF_VECTOR_BYTES / sizeof(T);

// Channels per block of a radial table, the same for all types and instruction sets.
constexpr int table_block = 16;

template <class T>
inline Vector<T> splat(T x) {
  return x - Vector<T>{};  // a broadcast: adding zero would turn -0 into 0
}

// The same pointer, of which compilers think that it may be another one each time: what it points to
// is then read where it is used, and not kept in registers.
template <class T>
inline const T* in_memory(const T* p) {
  asm volatile("" : "+r"(p));
  return p;
}

// The first n lanes at p; n counts only if the block is not full.
template <bool full, class T>
inline Vector<T> load(const T* p, int n) {
  Vector<T> v;
  if constexpr (full) {
    std::memcpy(&v, p, sizeof v);
  } else {
    v = Vector<T>{};
    std::memcpy(&v, p, n * sizeof(T));
  }
  return v;
}

template <bool full, class T>
inline void store(T* p, const Vector<T>& v, int n) {
  if constexpr (full) {
    std::memcpy(p, &v, sizeof v);
  } else {
    std::memcpy(p, &v, n * sizeof(T));
  }
}

// Two vectors whose groups of s lanes are to be summed become one with groups of s / 2: lanes of a
// group are added to those half a group further.
template <class T, int s, int... lane>
inline Vector<T> folded(const Vector<T>& a, const Vector<T>& b, std::integer_sequence<int, lane...>) {
  constexpr int half = s / 2;
#if defined(__clang__)
  return __builtin_shufflevector(a, b, (lane / half * s + lane % half)...) +
         __builtin_shufflevector(a, b, (lane / half * s + lane % half + half)...);
#else  // GCC has the same from version 12 on only
  using Mask = Vector<std::conditional_t<sizeof(T) == 4, int32_t, int64_t>>;
  const Mask low = {(lane / half * s + lane % half)...};
  return __builtin_shuffle(a, b, low) + __builtin_shuffle(a, b, low + half);
#endif
}

// A vector whose groups of s lanes have the sums of the lanes of v[first], v[first + 1], ...; zeros
// from v[count] on. A fixed order.
template <class T, int s, int first, int count>
inline Vector<T> partial_sums(const Vector<T>* v) {
  if constexpr (first >= count) {
    return Vector<T>{};
  } else if constexpr (s == lanes<T>) {
    return v[first];
  } else {
    constexpr int half = lanes<T> / s / 2;
    return folded<T, 2 * s>(partial_sums<T, 2 * s, first, count>(v),
                            partial_sums<T, 2 * s, first + half, count>(v),
                            std::make_integer_sequence<int, lanes<T>>());
  }
}

// out[m] += sum of the lanes of v[m], m < count.
template <class T, int count, int first = 0>
inline void add_lane_sums(const Vector<T>* v, T* out) {
  constexpr int n = count - first < lanes<T> ? count - first : lanes<T>;
  const Vector<T> sums = partial_sums<T, 1, first, count>(v);
  store<n == lanes<T>>(out + first, load<n == lanes<T>>(out + first, n) + sums, n);
  if constexpr (first + n < count) add_lane_sums<T, count, first + n>(v, out);
}

template <class T>
inline T sum_lanes(const Vector<T>& v) {
  return partial_sums<T, 1, 0, 1>(&v)[0];
}

// Uninitialised memory on a cache-line boundary.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t n)
      : data_(static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t(64)))) {}
  ~Buffer() { ::operator delete(data_, std::align_val_t(64)); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  T* data() { return data_; }
  const T* data() const { return data_; }

 private:
  T* data_;
};

// Range of rows of one of `parts` workers.
struct Range {
  int64_t begin, end;
};
inline Range part_of(int64_t n, int64_t parts, int64_t index) {
  return {n * index / parts, n * (index + 1) / parts};
}

}  // namespace LESFF_NAMESPACE
