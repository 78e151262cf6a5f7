"""Do two sets of vectors depend on each other? Kernels, HSIC, its tests, CKA, the HSIC bottleneck."""
