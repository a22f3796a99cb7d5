"""Train zoos and measure them."""
