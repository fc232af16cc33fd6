"""Ends the process as a script does."""

import sys

sys.exit(3)
