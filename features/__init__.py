"""What we know: events, the shopper's state, the feature vector, exposures, and the stores that keep them."""
