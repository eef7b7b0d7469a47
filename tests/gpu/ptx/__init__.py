"""An interpreter of the PTX that NVRTC emits, with the checks a card does not make.

It executes every thread of a batch of blocks at once, in NumPy, and raises a Fault
for accesses out of bounds, misaligned, of uninitialised bytes or registers; for races
in shared and global memory; for barriers and shuffles that not all threads reach; for
shared memory of blocks that may have ended. It counts how often each byte is read and
written, the sectors and the wavefronts of memory requests. See `subset` for what it
knows.

Not modelled: the code that ptxas makes of PTX, the weak memory model, time.
"""

from gpu.ptx.faults import Fault
from gpu.ptx.machine import Report, launch
from gpu.ptx.memory import Memory
from gpu.ptx.parse import Kernel, Module, parse

__all__ = ["Fault", "Kernel", "Memory", "Module", "Report", "launch", "parse"]
