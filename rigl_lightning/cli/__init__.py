"""The command line: what ``rigl-lightning`` and ``python -m rigl_lightning`` do."""

from collections.abc import Sequence


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line, see `rigl_lightning.cli.app.main`.

    Args:
        args: Arguments without the program's name; None for those of the process.
    """
    from rigl_lightning.cli import app  # Lightning takes seconds to import, and `configs` needs nothing of it

    app.main(args)
