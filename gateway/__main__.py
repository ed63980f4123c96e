"""`python -m gateway` in a checkout is `callspool`. It is not installed, and every Python can read it."""

import os
import runpy
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "launcher"))  # noqa: PTH100,PTH118,PTH120  # old Pythons
runpy.run_module("callspool", run_name="__main__", alter_sys=True)
