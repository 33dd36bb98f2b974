"""The trace that a caller is in, for the service to go on with: OpenTelemetry's, where the program uses it."""

import sys


def trace_headers() -> dict[str, str]:
    """What tells a service of the caller's current span: `traceparent` and such, or nothing where there is none.

    Whoever has a span has imported OpenTelemetry; for all others it is not imported here, either.
    """
    if "opentelemetry.trace" not in sys.modules:
        return {}
    from opentelemetry.propagate import inject

    headers: dict[str, str] = {}
    inject(headers)
    return headers
