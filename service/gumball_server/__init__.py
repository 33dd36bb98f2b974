"""Gumball's server: batched, reproducible categorical sampling over HTTP and gRPC."""
