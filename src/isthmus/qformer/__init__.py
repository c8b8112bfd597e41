"""The Q-Former: masks, attention, image memory, layers, tokenizer and start from BERT."""
