"""Loss-landscape metrics: curvature, similarity, connectivity and averages of trained networks."""
