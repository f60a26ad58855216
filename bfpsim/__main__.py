"""`python -m bfpsim`."""

from bfpsim.cli import main

main()
