"""Bytes to requests and results to bytes, one module a form. Pure: no input or output, no transport."""
