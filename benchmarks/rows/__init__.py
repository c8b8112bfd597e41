"""The comparisons: what is given to both sides, and what is made of what they answer."""
