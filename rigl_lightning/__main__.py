"""``python -m rigl_lightning``, and the console command ``rigl-lightning``."""

import sys

from rigl_lightning.cli.configs import config_files, describe_configs


def main() -> None:
    """List the configurations or print one at once; leave all else to the command line proper.

    Lightning takes seconds to import, and a list of files needs nothing of it.
    """
    command, *names = sys.argv[1:] or [""]
    if command == "configs" and len(names) <= 1 and set(names) <= config_files().keys():
        print(describe_configs(*names))
        return
    from rigl_lightning import cli

    cli.main()


if __name__ == "__main__":
    main()
