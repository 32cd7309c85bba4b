"""``python -m rigl_lightning``, and the console command ``rigl-lightning``."""

import os
import sys

from rigl_lightning import __version__
from rigl_lightning.cli.configs import config_files, describe_configs
from rigl_lightning.cli.help import HELP, HELP_OF_CONFIGS


def main() -> None:
    """Run the command line; one that writes to a pipe which nobody reads any more (``| head``) ends without a word."""
    try:
        _run()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python writes the rest when it ends
        sys.exit(1)


def _run() -> None:
    """Answer at once what needs no Lightning, which takes seconds to import; leave all else to the command line proper.

    That is the version, the help, and the list and text of the configurations.
    """
    command, *names = sys.argv[1:] or ["--help"]
    if command == "--version" and not names:
        print(f"rigl-lightning {__version__}")
    elif command in ("-h", "--help", "help") and not names:
        print(HELP)
    elif command == "configs" and names in (["-h"], ["--help"]):
        print(HELP_OF_CONFIGS)
    elif command == "configs" and len(names) <= 1 and set(names) <= config_files().keys():
        print(describe_configs(*names))
    else:
        from rigl_lightning import cli

        cli.main()


if __name__ == "__main__":
    main()
