"""What we believe: trunk, heads, offset, delay curve, and how they are trained and judged. The only importer of torch."""
