"""`python -m bfpsim`."""

from bfpsim.commands.app import main

main()
