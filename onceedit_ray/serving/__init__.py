"""An OpenAI-compatible endpoint for a decoder: requests, limits, keys, answers as JSON and as server-sent events.

It does not use Ray: the same ingress works with a decoder in this process and with a coordinator actor
(`cluster/gateway.py`).
"""
