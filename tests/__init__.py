"""Tests, each on one core, as xdist runs a test on each; tests of several processes ask for them.

The last digits depend on the number of threads, here and in the processes that tests start. The
variables are set here because numpy reads them when it is imported.
"""

import os

os.environ |= {"LOKY_MAX_CPU_COUNT": "1", "OMP_NUM_THREADS": "1"}
