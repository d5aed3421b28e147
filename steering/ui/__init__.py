"""The page: everything that knows of Gradio.

What must be set before Gradio or torch is imported is set here: no module of the page is imported before this one.
"""

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
# Torch's threads wait for each other by spinning, which is slow on a core that the page or a browser wants too; to
# sleep at once is slow everywhere. So they spin for a moment and then sleep. Seconds for one direction's scores, two
# threads on two cores, alone, beside a process that wants a sixth of a core, as a browser does, and beside one that
# wants a whole core: spinning 1.5, 2.0 and more than 10; sleeping 1.9, 2.3 and 2.7; this way 1.6, 1.7 and 2.9.
# (libgomp, which torch brings on Linux, reads the count; other runtimes read the policy.)
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
