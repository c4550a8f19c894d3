"""Grid files: read, checked, and resolved into settings."""
