"""A `gumball_server` whose HTTP/2 does not wait for peers as long as it should."""

import sys

from gumball_server.__main__ import main
from gumball_server.http2 import lifetime

lifetime.HANDSHAKE_SECONDS = 0.3
lifetime.PING_SECONDS = 0.5

if __name__ == "__main__":
    sys.exit(main())
