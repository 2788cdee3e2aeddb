"""`python -m lensgate_export`."""

from lensgate_export.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
