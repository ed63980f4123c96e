"""`python -m gateway.cli.chaos_gateway`: the gateway that `callspool chaos` tests; its settings come from the check.

They are read, pickled, from standard input, which only the process that started this one writes to: a file or
variables could not say all of them without saying the operator's own destinations too.
"""

import pickle
import sys

from config.loader import Loaded
from config.settings import Settings
from gateway.logs import configure_logging
from gateway.runtime.lifecycle import serve


def main() -> int:
    """Run a gateway with the given settings."""
    settings = pickle.loads(sys.stdin.buffer.read())  # see above: from the parent process alone
    assert isinstance(settings, Settings)
    configure_logging(settings.log.level, as_text=settings.log.format.as_text)
    loaded = Loaded(settings, {}, ())
    return serve(loaded, lambda: loaded)


if __name__ == "__main__":
    sys.exit(main())
