"""``python -m steering``: see `steering.cli`."""

import sys

from steering.cli import main

sys.exit(main())
