// A recorded step: plain C structures, mirrored by lesff/kernels/program.py.
#pragma once
#include <cstdint>

// One operation of a recorded step, up to four dimensions; unused ones have the size one.
struct LesffInstruction {
  int32_t code;          // see program.cpp
  int32_t type;          // of the result, or of the numbers compared: 0 float, 1 double
  int32_t type_from;     // of a copy: 2 bool, 3 int64, too
  int32_t unused;
  int64_t sizes[4];
  int64_t out_strides[4], a_strides[4], b_strides[4];  // in numbers
  void* out;             // of a kernel its entry point
  const void* a;         // of a kernel its arguments
  const void* b;
  const int64_t* index;
  double scalar;
};

// A recorded step, or a part of it.
struct LesffProgram {
  int64_t n_instructions;
  const LesffInstruction* instructions;
};
