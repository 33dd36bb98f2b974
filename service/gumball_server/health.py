"""Whether the service of this machine is ready, for the health check of a container: `python -m gumball_server.health`.

It takes the settings of `gumball serve`, as flags or from the environment, and asks the admin port, where there is one:
a service that wants certificates of clients can only be asked there.
"""

import http.client
import os
import ssl
import sys
from collections.abc import Sequence
from contextlib import closing

from gumball_server.settings import Settings, SettingsError, read_settings

SECONDS = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0 if it is ready, else 1, and 2 for settings that cannot be."""
    try:
        settings = read_settings(sys.argv[1:] if arguments is None else arguments, os.environ)
        with closing(_connection(settings)) as connection:
            connection.request("GET", "/readyz")
            answer = connection.getresponse()
            print(answer.status, answer.read().decode())
            return 0 if answer.status == http.client.OK else 1
    except SettingsError as error:
        print(error)
        return 2
    except (OSError, http.client.HTTPException) as error:
        print(error)
        return 1


def _connection(settings: Settings) -> http.client.HTTPConnection:
    """To the address it listens on; to any (0.0.0.0) is to this machine."""
    if settings.admin_port >= 0:
        return http.client.HTTPConnection(settings.host, settings.admin_port, SECONDS)
    if not settings.tls_cert:
        return http.client.HTTPConnection(settings.host, settings.http_port, SECONDS)
    tls = ssl._create_unverified_context()  # noqa: S323 - the certificate is for the names that clients use
    return http.client.HTTPSConnection(settings.host, settings.http_port, timeout=SECONDS, context=tls)


if __name__ == "__main__":
    sys.exit(main())
