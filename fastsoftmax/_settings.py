"""What the package has chosen on this machine, and what a user can set."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _cpu, _threads

_threads.note_openmp_limit(_cpu.openmp_limit())


def version() -> str:
    """Return the version of the package that is installed."""
    from importlib.metadata import version  # slower to load than we are

    return version("fastsoftmax")


def set_num_threads(n: int | None) -> None:
    """Set how many threads the functions of this package use in large jobs.

    Parameters
    ----------
    n : int or None
        From 1 to 1024; 1 keeps all work in the calling thread. None, the state at
        import, uses what the machine allows: the least of the CPU affinity, the
        container's CPU quota and OpenMP's own setting.

    Raises
    ------
    TypeError
        If n is not an integer.
    ValueError
        If n is not between 1 and 1024.

    Notes
    -----
    The setting holds for the whole process. A limit put on OpenMP later, with
    threadpoolctl, still counts: where n is more than OpenMP would use by itself, its
    setting in the calling thread becomes n. Work is shared where that makes it faster
    than in one thread, which is measured as it goes. Results do not depend on the
    number of threads, to the bit. In a process made by ``fork``, all work stays in the
    calling thread.

    Examples
    --------
    >>> import fastsoftmax
    >>> fastsoftmax.set_num_threads(1)
    >>> fastsoftmax.get_num_threads()
    1
    >>> fastsoftmax.set_num_threads(None)
    """
    _threads.want(n)
    _cpu.set_openmp_limit(_threads.openmp_setting(_cpu.openmp_limit()))


def get_num_threads() -> int:
    """Tell how many threads a large job would use now.

    Returns
    -------
    int
        1 without OpenMP or in a forked process; else the number set with
        `set_num_threads`, or what the machine allows.

    Examples
    --------
    >>> import fastsoftmax
    >>> fastsoftmax.get_num_threads() >= 1
    True
    """
    return _cpu.current_threads()


def config() -> dict[str, Any]:
    """Return what `show_config` prints, as a dict."""
    keep_mib, hot_mib = _cpu.keeps_mib()
    return {
        "version": version(),
        "isa": _cpu.isa,
        "isas": _cpu.supported_isas,
        "threads": get_num_threads(),
        "openmp": _cpu.openmp_runtime,
        "keep_mib": keep_mib,
        "hot_mib": hot_mib,
        "numpy": np.__version__,
    }


def show_config() -> None:
    """Print what the package has chosen on this machine.

    The lines name the package's version, the instruction set (ISA) of the kernels in
    use and those that exist here (set ``FASTSOFTMAX_ISA`` before the import to force
    one), the number of threads, which OpenMP runtime serves them, if the build has any,
    how much memory of freed results is kept for later ones, and how much of it the
    kernel can't take when memory is short (set ``FASTSOFTMAX_KEEP_MIB`` before the
    import to change the first, or both, as in ``256,64``; 0 leaves all memory to
    NumPy), and NumPy's version.

    Examples
    --------
    >>> import fastsoftmax
    >>> fastsoftmax.show_config()  # doctest: +ELLIPSIS
    fastsoftmax ...
    """
    found = config()
    print(f"fastsoftmax {found['version']}")
    print(f"ISA         {found['isa']} (supported here: {', '.join(found['isas'])})")
    print(f"threads     {found['threads']}")
    print(f"OpenMP      {found['openmp'] or 'no (serial build)'}")
    kept = (
        f"of freed results, up to {found['keep_mib']} MiB are kept for later ones, "
        f"{found['hot_mib']} MiB of them hot"
    )
    print(f"memory      {kept if found['keep_mib'] else 'as NumPy has it'}")
    print(f"NumPy       {found['numpy']}")
