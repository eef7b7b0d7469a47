"""What other Cython code can cimport: see _cpu.pxd."""

from fastsoftmax._cpu cimport log_softmax_row, logsumexp_row, real, softmax_row
