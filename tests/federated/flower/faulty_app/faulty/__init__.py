"""One sound client, and three that are not."""
