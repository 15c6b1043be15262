"""Entry points of the commands: a Ctrl-C while the commands' own modules load ends them as quietly as one later on.

Imports at the top of this module must stay cheap: nothing guards them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from surge_sweeps.collector import collected_lightly

#: What shells take for a command that Ctrl-C ended.
EXIT_INTERRUPTED = 130


def report_main() -> None:
    """Entry point of `surge-report`."""
    with _stoppable(), collected_lightly() as loaded:
        from surge_sweeps.cli.report import main

        loaded()
        main()


def sweep_main() -> None:
    """Entry point of `surge-sweep`."""
    with _stoppable(), collected_lightly() as loaded:
        from surge_sweeps.cli.sweep import main

        loaded()
        main()


@contextmanager
def _stoppable() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        print("stopped.", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
