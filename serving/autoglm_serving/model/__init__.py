"""Model folders: where they come from, whether they are whole, how they are loaded."""
