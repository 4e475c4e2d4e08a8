"""Edits of a plug-in while it is served: their queue, the book that records them, and the versions built from them."""
