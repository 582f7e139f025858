"""Pictures of tracks and of one reflection, trails, and the peaks by q along the series; each loaded by itself."""
