"""HTTP/2 for servers on asyncio (RFC 9113): connections and their streams. It knows nothing of gRPC."""
