"""Statistics, curves, tables and figures on the result store."""
