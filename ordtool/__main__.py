"""`python -m ordtool`."""

from ordtool.cli.app import main

main()
