"""The CPU kernels: int8 weights, half-precision keys and values, written in C++ for AVX512-VNNI."""
