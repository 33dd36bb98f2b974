"""HTTP/2 for servers: connections, and what time does to them. It knows nothing of gRPC."""
