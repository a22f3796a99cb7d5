"""From raw zoos and trained models to zoos in the phasezoo format."""
