"""``python -m tests.denied CALLS MODULE [ARGUMENT…]`` runs a module while the kernel refuses some system calls.

``CALLS`` is a list with commas; each of them fails with EPERM.
"""

import runpy
import sys

from tests.system_calls import LIBSECCOMP, deny

MODULE = "tests.denied" if LIBSECCOMP else None

if __name__ == "__main__":
    denied, sys.argv = sys.argv[1].split(","), sys.argv[2:]
    deny(denied)
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
