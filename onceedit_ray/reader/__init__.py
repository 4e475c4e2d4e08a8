"""The reader: a plug-in that is trained once to read facts, so that an edit is data and no training run.

`view` builds the prompt from facts and a request, `facts` and `examples` make the training data, `train` trains it,
`adapter` stores the result.
"""
