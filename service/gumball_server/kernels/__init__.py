"""Pure functions that draw the rows of a table; one module a device."""
