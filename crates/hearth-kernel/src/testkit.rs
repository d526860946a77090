//! Synthetic kernels, modules and packages for the tests.
