"""HTTP/2 on asyncio (RFC 9113), as both ends of a connection need it. It knows nothing of gRPC."""
