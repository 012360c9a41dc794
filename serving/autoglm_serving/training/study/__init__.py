"""The resolution study: accuracy and cost by size and kind of screen, and what follows from them."""
