"""The reader: a plug-in that is trained once to read facts, so that an edit is data and no training run.

`view` writes facts and a request down for it, `facts`, `wordings` and `examples` make what it is trained on, `train`
trains it, `adapter` keeps what was trained.
"""
