"""`python -m sessionkeeper`: the command line."""

import sys

from sessionkeeper.cli import main

sys.exit(main())
