// Native SIMD vectors by the compilers' vector extension (GCC and Clang).
//
// LESFF_VECTOR_BYTES is the register width of the instruction set that this translation unit is
// compiled for. Everything lives in a namespace of its own per instruction set: templates of the
// same name compiled with other flags must not be merged by the linker.
#pragma once
#include <cstdint>
#include <cstring>
#include <new>

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
  return Vector<T>{} + x;
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

// Sum of the lanes, by halves: a fixed order.
template <int bytes, class T>
inline T sum_lanes(typename VectorOf<T, bytes>::type v) {
  if constexpr (bytes == 2 * sizeof(T)) {
    return v[0] + v[1];
  } else if constexpr (bytes == 4 * sizeof(T)) {
    return (v[0] + v[2]) + (v[1] + v[3]);
  } else {
    typename VectorOf<T, bytes / 2>::type low, high;
    std::memcpy(&low, &v, bytes / 2);
    std::memcpy(&high, reinterpret_cast<const char*>(&v) + bytes / 2, bytes / 2);
    return sum_lanes<bytes / 2, T>(low + high);
  }
}

template <class T>
inline T sum_lanes(const Vector<T>& v) {
  return sum_lanes<LESFF_VECTOR_BYTES, T>(v);
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
