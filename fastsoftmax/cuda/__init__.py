"""CuPy arrays: nothing here is imported before one of them arrives."""
