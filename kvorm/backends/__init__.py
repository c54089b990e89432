"""Where bytes live: the seam that the typed half stands on, and what stands behind it."""
