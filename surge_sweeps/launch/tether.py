"""A program that ends with the process that started it: `python tether.py PARENT_PID PROGRAM ARGUMENT...`.

It asks the kernel to send itself TERM when its parent ends, however that ends, and becomes the program; agents pass it
on to their scripts. Only Linux can be asked for this: elsewhere the program starts as it is, and outlives a parent that
was killed. Run as a file, so that it starts without the package.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

#: From linux/prctl.h; kept across exec.
_SET_PARENT_DEATH_SIGNAL = 1


def main() -> None:
    """Tie this process to its parent and become the program."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        # The result says nothing of use: a kernel that refuses leaves the program as it would be elsewhere.
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, int(signal.SIGTERM), 0, 0, 0)
        # It may have ended before it was asked.
        if os.getppid() != parent:
            sys.exit(128 + signal.SIGTERM)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
