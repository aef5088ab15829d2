// A neighbour list cut down to the pairs that are close now, in the order that it has.
#pragma once
#include <cmath>

#include "arguments.h"

namespace LESFF_NAMESPACE {

template <class T>
void near_pairs(const LesffNearPairs* p) {
  const LesffNearPairs& a = *p;
  int64_t n_near = 0;
  double least = INFINITY;
  for (int64_t k = 0; k < a.n_pairs; ++k) {
    const double *from = a.positions + 3 * a.ends[k], *to = a.positions + 3 * a.ends[a.n_pairs + k];
    const double* offset = a.offsets + 3 * k;
    const double x = to[0] - from[0] + offset[0], y = to[1] - from[1] + offset[1],
                 z = to[2] - from[2] + offset[2];
    const double squared = x * x + y * y + z * z;
    a.squared[k] = squared;
    n_near += squared < a.cutoff_squared;
    least = squared < least ? squared : least;
  }
  // both edges of each close pair
  const int64_t n = 2 * n_near;
  int64_t *sender = a.edges, *receiver = a.edges + n, place = 0;
  for (int64_t e = 0; e < 2 * a.n_pairs; ++e) {
    const double squared = a.squared[a.pair_of[e]];
    if (!(squared < a.cutoff_squared)) continue;
    sender[place] = a.kept_edges[e];
    receiver[place] = a.kept_edges[2 * a.n_pairs + e];
    for (int i = 0; i < 3; ++i) a.shifts[3 * place + i] = a.kept_shifts[3 * e + i];
    a.lengths[place] = std::sqrt(squared);
    a.reverse[place] = a.kept_reverse[e];
    a.rank[e] = place++;
  }
  // from old to new places
  for (int64_t e = 0; e < n; ++e) a.reverse[e] = a.rank[a.reverse[e]];
  *a.n_found = n;
  *a.min_distance = std::sqrt(least);
}

}  // namespace LESFF_NAMESPACE
