"""Start the playground: ``python app.py``, then open the address it prints. This is also what a Space runs."""

import sys

from steering.ui import gpu  # noqa: F401  first, for on a ZeroGPU Space it must come before torch

if __name__ == "__main__":
    if "--space-check" in sys.argv[1:]:
        from steering.ui.space_check import main

        sys.exit(main())
    from steering.ui.serve import serve

    serve()
