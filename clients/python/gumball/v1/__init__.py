"""Generated messages and stubs of `gumball.v1` (proto/gumball/v1)."""
