"""Feature definitions and kernels, shared by training and serving."""
