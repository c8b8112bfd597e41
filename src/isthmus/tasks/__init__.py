"""What is done with a bridge and how it is scored; a call that predicts is passed in."""
