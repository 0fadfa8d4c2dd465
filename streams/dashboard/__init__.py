"""The live dashboard: a small server that reads Redis and topics, and a page that draws."""
