"""``python -m rigl_lightning``."""

from rigl_lightning.cli import main

main()
