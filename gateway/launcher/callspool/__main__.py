"""`python -m callspool`: the same as the command `callspool`.

Every Python can read this file, so that one that is too old says so in a line instead of failing on newer syntax.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036  # this is where the requirement is enforced
    sys.exit("callspool needs Python 3.11 or newer; %s is %s" % (sys.executable, sys.version.split()[0]))  # noqa: UP031

from .launcher import main

main()
