"""Edits of a plug-in that is being served: their queue, the book they are kept in, and the versions made of them."""
