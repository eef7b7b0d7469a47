"""The functions for Dask arrays; imported with the first such array."""
