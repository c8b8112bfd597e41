"""The training loop and what it is made of; evaluation is passed in."""
