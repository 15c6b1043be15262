"""The real ``wandb agent``, asking for work every 0.1 s instead of 5 s: ``python -m wandb_server.fast_agent SWEEP``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run ``wandb agent`` with this process's arguments."""
    import wandb.wandb_agent  # here, so that this package can be imported without wandb
    from wandb.cli.cli import cli

    wandb.wandb_agent.Agent.POLL_INTERVAL = 0.1
    cli(["agent", *sys.argv[1:]], standalone_mode=True)


if __name__ == "__main__":
    main()
