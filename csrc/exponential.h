// exp without branches and calls, so that loops over it become vectors.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace LESFF_NAMESPACE {

// In float to 2 ulp: 2^n exp(r), |r| <= ln(2) / 2, with the polynomial of Cephes' expf.
inline float exponential(float x) {
  x = std::min(std::max(x, -87.0f), 88.0f);
  const float n = std::floor(x * 1.44269504088896341f + 0.5f);
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return p * power;
}

// In double to 2 ulp, likewise with the rational function of Cephes' exp.
inline double exponential(double x) {
  x = std::min(std::max(x, -708.0), 709.0);
  // the last bits of n + 1.5 2^52 are n as an integer
  const double shifted = x * 1.4426950408889634073599 + 6755399441055744.0;
  const double n = shifted - 6755399441055744.0;
  const double r = (x - n * 6.93145751953125e-1) - n * 1.42860682030941723212e-6;
  const double square = r * r;
  const double p =
      r * ((1.26177193074810590878e-4 * square + 3.02994407707441961300e-2) * square +
           9.99999999999999999910e-1);
  const double q = ((3.00198505138664455042e-6 * square + 2.52448340349684104192e-3) * square +
                    2.27265548208155028766e-1) * square + 2.00000000000000000005e0;
  int64_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits + 1023) << 52;
  double power;
  std::memcpy(&power, &bits, sizeof power);
  return (1.0 + 2.0 * p / (q - p)) * power;
}

}  // namespace LESFF_NAMESPACE
