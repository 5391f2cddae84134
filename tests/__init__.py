"""Tests of the pipeline, in the wings of what they test."""

import os

# One thread in each process, as in the ranks, because the processes of several tests share the cores. Torch reads this
# when it is imported, so it is set before that.
os.environ.setdefault("OMP_NUM_THREADS", "1")
