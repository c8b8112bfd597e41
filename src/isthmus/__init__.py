"""isthmus joins a frozen image encoder to a frozen language model with a small trained bridge (BLIP-2).

Importing the package imports neither torch nor transformers; import the room you need, for example
`from isthmus.qformer.qformer import QFormer`.
"""

__version__ = "0.1.0.dev0"
