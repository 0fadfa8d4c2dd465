"""Every decoder under bytes that nobody meant."""
