// What all kernels share. The files of this folder are one program, in the order of their names.

// f32-fma-v1 says which products are fused with which sums: no compiler may fuse others.
#pragma OPENCL FP_CONTRACT OFF

// Bounds of the result, by the bits of `flags`; what is not a number passes.
#define ACTIVATE(r) \
    if (flags & 2) r = r < low ? low : r; \
    if (flags & 4) r = r > high ? high : r;
