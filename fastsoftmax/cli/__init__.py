"""The command line: .npy files in, .npy files out."""
