"""`python -m lateack` is the command `lateack`."""

import sys

from lateack.cluster.cli import main

sys.exit(main())
